"""What the README shows must run, and print what it says."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from challenge_server import cli

DEFAULT_ADDRESS = "127.0.0.1:50051"


@pytest.fixture(scope="module")
def readme(project_root: Path) -> str:
    return (project_root / "README.md").read_text(encoding="utf-8")


def _blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_the_sdk_example_prints_what_the_readme_says(readme: str, server_address: str) -> None:
    (example,) = _blocks(readme, "python")
    printed = subprocess.run(
        [sys.executable, "-c", example.replace(DEFAULT_ADDRESS, server_address)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert printed.returncode == 0, printed.stderr
    assert f"prints `{printed.stdout.strip()}`" in readme


def test_the_sdk_example_has_ten_lines_between_its_imports_and_its_end(readme: str) -> None:
    (example,) = _blocks(readme, "python")
    body = example[example.index("with ") :].strip().splitlines()
    assert len(body) <= 10


def test_the_buf_curl_example_creates_a_challenge(readme: str, server_address: str) -> None:
    (example,) = (block for block in _blocks(readme, "sh") if "buf curl" in block)
    buf = Path(sys.executable).with_name("buf")
    command = example.replace(".venv/bin/buf", str(buf)).replace(DEFAULT_ADDRESS, server_address)
    printed = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, check=False, timeout=60)
    assert printed.returncode == 0, printed.stderr
    challenge = json.loads(printed.stdout)["challenge"]
    assert (challenge["status"], challenge["initialBalance"]) == ("CHALLENGE_STATUS_PENDING", "100000")


def test_the_configuration_table_names_every_option_of_serve_with_its_variable(readme: str) -> None:
    import typer.main

    serve = typer.main.get_command(cli.app).commands["serve"]  # type: ignore[attr-defined]
    options = {(parameter.opts[0], parameter.envvar) for parameter in serve.params if parameter.name != "help"}
    rows = re.findall(r"^\| `(--[a-z-]+)[^`]*` \| `(CHALLENGE_[A-Z_]+)` \|", readme, re.MULTILINE)
    assert set(rows) == options


def test_the_audit_document_has_the_queries_that_the_tests_of_the_engine_run(project_root: Path) -> None:
    queries = _blocks((project_root / "docs" / "audit.md").read_text(encoding="utf-8"), "sql")
    assert len(queries) == 4
    assert all(query.startswith("SELECT ") and query.rstrip().endswith(";") for query in queries)
