"""docs/relay.md says what the relay does."""

import re
from pathlib import Path

import pytest
import typer.main

from challenge_engine.event_log import PositionedEvent
from challenge_engine.rows import StoredEvent
from challenge_server import cli
from challenge_server.relay.messages import PayloadFormat, encoder
from challenge_server.relay.targets import KAFKA_OPTIONS


@pytest.fixture(scope="module")
def text(project_root: Path) -> str:
    return (project_root / "docs/relay.md").read_text(encoding="utf-8")


def test_its_table_names_every_option_and_its_variable(text: str) -> None:
    relay = typer.main.get_command(cli.app).commands["relay"]  # type: ignore[attr-defined]
    table = text[: text.index("The libraries")]
    rows = dict(re.findall(r"^\| `(--[a-z-]+)[^|]*\|([^|]*)\|", table, re.MULTILINE))
    for parameter in relay.params:
        option = parameter.opts[0]
        if option in ("--help", "--database-url", "--data-dir", "--log-level"):
            continue
        assert rows[option].strip(" `") == (parameter.envvar or ""), option


def test_its_table_names_every_header(text: str) -> None:
    stored = StoredEvent("id", 1, "CHALLENGE_CREATED", None, "PENDING", *3 * (None,), "0.00000000", "[]", None, 0, 0)
    message = encoder(PayloadFormat.JSON)("log", PositionedEvent(1, stored))
    table = text[text.index("| header |") : text.index("All are strings")]
    assert re.findall(r"^\| `([a-z-]+)` \|", table, re.MULTILINE) == list(message.headers)


def test_it_names_every_option_of_kafka(text: str) -> None:
    for option in KAFKA_OPTIONS:
        assert f"`{option}`" in text
