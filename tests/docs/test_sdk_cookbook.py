"""Every example of docs/sdk.md runs, by itself, and prints what the document says."""

import re
import subprocess
import sys

import pytest

DEFAULT_ADDRESS = "127.0.0.1:50051"


def examples(text):
    """Each example, and what is said to be printed: the block behind it, or the words after `prints`."""
    parts = re.split(r"```python\n(.*?)```", text, flags=re.DOTALL)
    for code, rest in zip(parts[1::2], parts[2::2], strict=True):
        block = re.match(r"\s*(?:It )?prints\n\n```\n(.*?)```", rest, re.DOTALL)
        words = re.match(r"\s*prints `([^`]+)`", rest)
        yield code, block[1].strip() if block else words[1] if words else ""


@pytest.fixture(scope="module")
def cookbook(project_root):
    return list(examples((project_root / "docs" / "sdk.md").read_text(encoding="utf-8")))


def test_there_is_an_example_for_each_thing(cookbook):
    assert len(cookbook) == 6
    assert len([printed for _, printed in cookbook if printed]) == 5


@pytest.mark.parametrize("number", range(6))
def test_an_example_runs_and_prints_what_it_says(cookbook, number, server_address):
    code, printed = cookbook[number]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code.replace(DEFAULT_ADDRESS, server_address)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == printed


def test_the_commands_and_options_it_names_exist(project_root):
    import typer.main

    from challenge_client.cli.commands import app

    text = (project_root / "docs" / "sdk.md").read_text(encoding="utf-8")
    commands = typer.main.get_command(app).commands
    named = set(re.findall(r"^challenge (\w+)", text, re.MULTILINE))
    assert named == {"create", "submit", "watch", "chart", "import"}
    known = {option for command in commands.values() for parameter in command.params for option in parameter.opts}
    section = text[text.index("## The command line") :]
    options = set(re.findall(r"`(--[a-z-]+)`|challenge .*?(--[a-z-]+)", section))
    assert {first or second for first, second in options} <= known | {"--target"}
