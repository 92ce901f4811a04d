"""The document for auditors: its test vectors, and the commands and files that it names."""

import re
from pathlib import Path

import pytest
import typer

from challenge_client.cli.commands import app as client_app
from challenge_server.cli import app
from tests.rules.account import Account


@pytest.fixture
def document(project_root: Path) -> str:
    return (project_root / "docs" / "audit.md").read_text(encoding="utf-8")


def test_its_test_vectors_are_the_links_of_the_challenge_that_it_describes(document: str):
    account = Account()
    heads = [account.state.chain_head.hex()]
    for pnl, at in (("500.25", "2025-01-02T10:00:00.000001"), ("-6000", "2025-01-02T10:00:01")):
        heads.append(account.trade(pnl, at, symbol="BTC").state.chain_head.hex())
    assert re.findall(r"\| (\d) \| `([0-9a-f]{64})` \|", document) == [(str(n), head) for n, head in enumerate(heads)]


def test_every_command_that_it_names_exists_with_these_options(document: str):
    commands = {
        "challenge-engine": typer.main.get_command(app),
        "challenge": typer.main.get_command(client_app),
    }
    named = re.findall(r"`(challenge(?:-engine)?) ([a-z-]+)([^`]*)`", document)
    assert len(named) > 8
    for program, name, rest in named:
        command = commands[program].commands.get(name)  # type: ignore[attr-defined]
        assert command is not None, name
        options = {option for each in command.params for option in each.opts}
        assert set(re.findall(r"(?<![\w-])(--?[a-z][a-z-]*)", rest)) <= options, name


def test_the_files_that_it_names_are_there(document: str, project_root: Path):
    for target in re.findall(r"\]\(([^)#:]+)\)", document):
        assert (project_root / "docs" / target).exists(), target
