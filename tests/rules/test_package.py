"""The core is pure: standard library only, no I/O, no clock, no randomness, no float (V6, V14)."""

import ast
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import challenge_rules

SOURCES = sorted(Path(next(iter(find_spec("challenge_rules").submodule_search_locations))).rglob("*.py"))
IMPURE = set(
    """asyncio concurrent ctypes io locale logging multiprocessing os pathlib random secrets select shutil signal socket
    sqlite3 ssl subprocess tempfile threading time urllib uuid""".split()
)
CLOCKS = {"now", "utcnow", "today", "fromtimestamp"}


def imported(tree: ast.AST) -> set[str]:
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    return {name.split(".")[0] for name in names}


@pytest.fixture(params=SOURCES, ids=lambda path: path.stem)
def tree(request):
    return ast.parse(request.param.read_text(encoding="utf-8"))


def test_every_module_of_the_core_is_looked_at():
    assert {"engine", "errors", "limits", "money", "rules", "timestamps", "validation"} <= {p.stem for p in SOURCES}


def test_a_module_imports_the_pure_standard_library_alone(tree):
    assert imported(tree) <= (sys.stdlib_module_names - IMPURE) | {"challenge_rules"}


def test_a_module_asks_no_clock(tree):
    assert not {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)} & CLOCKS


def test_a_module_opens_and_prints_nothing(tree):
    called = {n.func.id for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
    assert not called & {"open", "print", "input", "eval", "exec", "float", "round"}


def test_a_module_holds_no_float_and_never_divides_inexactly(tree):
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, float)]
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)]


def test_every_name_the_package_promises_is_there():
    assert sorted(challenge_rules.__all__) == challenge_rules.__all__
    assert [name for name in challenge_rules.__all__ if not hasattr(challenge_rules, name)] == []
