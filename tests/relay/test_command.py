"""`challenge-engine relay` as an operator meets it: what it refuses, says, and how it stops. Needs no broker."""

import signal
import sys
from pathlib import Path

import pytest
from sqlalchemy.engine import URL
from typer.testing import CliRunner

from challenge_engine.relaying import ONCE_ATTEMPTS
from challenge_server.cli import app
from tests.engine.harness import running_engine
from tests.relay.harness import RelayProcess, make_events
from tests.server.calls import command, eventually, url_text

NOBODY = "redis://me:geheim@127.0.0.1:1/0"


def failed(*arguments: str, environment: dict[str, str] | None = None) -> str:
    ended = command("relay", *arguments, environment=environment)
    assert ended.returncode in (1, 2), ended.stderr
    assert "Traceback" not in ended.stderr
    assert "geheim" not in ended.stderr
    return ended.stderr


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((), "--to"),
        (("--to", "http://me:geheim@h"), "must be a URL"),
        (("--to", NOBODY, "--format", "xml"), "--format"),
        (("--to", NOBODY, "--from-beginning", "--after-position", "1"), "not both"),
        (("--to", NOBODY, "--after-position", "-1"), "--after-position"),
        (("--to", NOBODY, "--after-position", "1e3"), "--after-position"),
        (("--to", NOBODY, "--reset"), "--reset needs"),
        (("--to", NOBODY, "--name", ""), "name of a sink"),
        (("--to", NOBODY, "--database-url", ""), "--database-url"),
        (("--to", NOBODY, "--log-level", "loud"), "--log-level"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(arguments, complaint):
    ended = CliRunner(env={"CHALLENGE_RELAY_TO": ""}).invoke(app, ["relay", *arguments])
    assert ended.exit_code in (1, 2)
    assert complaint in ended.output
    assert "geheim" not in ended.output


def test_a_database_that_is_away_or_without_the_schema_is_refused_at_the_start(database_url: URL):
    assert "cannot be used" in failed("--to", NOBODY, "--database-url", "postgresql://nobody@127.0.0.1:1/x")
    bare = url_text(database_url.set(database="postgres"))
    assert "revision none" in failed("--to", NOBODY, "--database-url", bare)


@pytest.mark.parametrize(
    ("url", "library", "extra"),
    [
        ("redis://h", "redis", "relay-redis"),
        ("amqp://h", "aio_pika", "relay-amqp"),
        ("kafka://h/t", "confluent_kafka", "relay-kafka"),
    ],
)
def test_a_library_that_is_missing_is_named_with_its_extra(database_url: URL, url, library, extra, tmp_path: Path):
    """Missing for an interpreter that is told so before anything else."""
    (tmp_path / "sitecustomize.py").write_text(f"import sys; sys.modules[{library!r}] = None")
    environment = {"PYTHONPATH": str(tmp_path)}
    said = failed("--to", url, "--database-url", url_text(database_url), environment=environment)
    assert f"pip install '.[{extra}]'" in said
    assert library in said


@pytest.mark.parametrize("url", [NOBODY, "amqp://me:geheim@127.0.0.1:1/", "kafka://me:geheim@127.0.0.1:1/t"])
async def test_a_broker_that_is_away_is_waited_for_without_showing_the_password(database_url: URL, url: str):
    """Until the relay is told to stop, which it does cleanly."""
    async with running_engine(database_url) as engine:
        await make_events(engine, 1)
    options = ("--database-url", url_text(database_url), "--log-level", "debug")
    relay = RelayProcess(*options, environment={"CHALLENGE_RELAY_TO": url})
    try:
        eventually(lambda: "does not take events, trying again" in relay.stderr())
        assert relay.stop(signal.SIGTERM if url == NOBODY else signal.SIGINT) == 0
        said = relay.stderr()
        assert "stopped; " in said
        assert "up to position 0" in said
        assert "geheim" not in said
        assert "Traceback" not in said
    finally:
        relay.close()


async def test_once_ends_with_an_error_when_the_broker_stays_away(database_url: URL):
    async with running_engine(database_url) as engine:
        await make_events(engine, 1)
    said = failed("--to", NOBODY, "--once", "--database-url", url_text(database_url))
    assert "challenge-engine: error: redis://127.0.0.1:1/0/challenge-events does not take events" in said
    assert said.count("trying again") == 1
    assert ONCE_ATTEMPTS > 1


@pytest.mark.skipif(sys.platform != "linux", reason="the embedded PostgreSQL is looked at through /proc")
def test_an_empty_embedded_log_is_relayed_at_once(embedded_dir: Path):
    """There is nothing to bring, so the broker is not asked; the embedded database is made when it is not there."""
    ended = command("relay", "--to", NOBODY, "--once", "--data-dir", str(embedded_dir))
    assert ended.returncode == 0, ended.stderr
    assert "has the events up to position 0" in ended.stderr
