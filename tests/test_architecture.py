"""The house keeps its order: arrows between the rooms, modules of readable size, nothing tied to one machine."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

MAX_LINES = 500
ROOMS = ("engine", "server", "client", "tests", "bench")
GENERATED = Path("client/propfirm")
LOCAL_PATH = re.compile(
    r"(?<![\w.:/$}-])/(?:home|Users|root|w[o]rk)/(?!somebody\b)\w|(?<![\w.:/$}-])/root/\.|\b[A-Z]:\\+Users"
)
"""A path below somebody's home or workplace; the path of a URL is none, nor the home of `somebody` in a test."""
TEXT = {".py", ".pyi", ".toml", ".md", ".proto", ".yaml", ".yml", ".txt", ".in", ".lock", ".sh", ".sql", ".cfg", ".ini"}
TEXT_NAMES = {"Makefile", "run", ".gitignore", ".dockerignore"}
"""Not the Dockerfile, whose absolute paths are those of its image."""
HERE = Path(__file__).name


def files_of_the_project(root: Path) -> list[Path]:
    """What git keeps or would keep, so that environments and caches are left out; without git, the rooms."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=root, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if listed.returncode == 0:
        found = [Path(line) for line in listed.stdout.splitlines()]
    else:
        found = [path.relative_to(root) for room in ROOMS for path in (root / room).rglob("*")]
    return sorted(path for path in found if (root / path).is_file())


def test_every_import_goes_the_way_of_the_arrows(project_root: Path) -> None:
    lint_imports = Path(sys.executable).parent / "lint-imports"
    ended = subprocess.run(
        [lint_imports, "--no-cache"], cwd=project_root, capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "0 broken" in ended.stdout


def test_no_module_is_longer_than_can_be_read(project_root: Path) -> None:
    """Generated stubs apart, and tests, which are read one function at a time."""
    modules = [path for path in files_of_the_project(project_root) if path.suffix == ".py" and path.parts[0] != "tests"]
    assert len(modules) > 40
    lengths = {
        str(path): len((project_root / path).read_text(encoding="utf-8").splitlines())
        for path in modules
        if not path.is_relative_to(GENERATED)
    }
    assert {path: lines for path, lines in lengths.items() if lines > MAX_LINES} == {}


def test_nothing_names_a_path_of_one_machine(project_root: Path) -> None:
    found = []
    for path in files_of_the_project(project_root):
        if path.name == HERE or (path.suffix not in TEXT and path.name not in TEXT_NAMES):
            continue
        for number, line in enumerate((project_root / path).read_text(encoding="utf-8").splitlines(), 1):
            if LOCAL_PATH.search(line):
                found.append(f"{path}:{number}: {line.strip()[:100]}")
    assert found == []


@pytest.mark.parametrize("text", ["/home/ada/x", '"/home/grace"', "C:\\Users\\ada", "(/root/.cache)", "=/Users/ada"])
def test_a_path_of_one_machine_is_recognised(text: str) -> None:
    assert LOCAL_PATH.search(text)


@pytest.mark.parametrize("text", ["/usr/bin/env", "https://example.org/home/x", "a/home/b", "$HOME/x", "${X}/home/y"])
def test_other_paths_are_not(text: str) -> None:
    assert not LOCAL_PATH.search(text)
