"""Fixtures of the engine's tests: an empty database for each, and the parts wired and started on it."""

from collections.abc import AsyncIterator, Iterator

import psycopg
import pytest
from sqlalchemy.engine import URL

from challenge_engine.database import normalise_url
from challenge_engine.embedded import EmbeddedPostgres
from tests.engine.harness import PROTECT, UNPROTECT, RunningEngine, conninfo, running_engine

TABLES = (
    "event_outbox", "event_positions", "challenge_events", "trades", "challenges", "seal_outbox", "checkpoint_leaves",
    "checkpoint_tiles", "checkpoints", "archives", "imported_chunks",
)  # fmt: skip


@pytest.fixture(scope="session")
def engine_database_url(postgres: EmbeddedPostgres) -> Iterator[URL]:
    """The database that the engine's tests use one after the other."""
    with psycopg.connect(postgres.conninfo, autocommit=True) as connection:
        connection.execute("CREATE DATABASE engine TEMPLATE migrated")
        yield normalise_url(postgres.url).set(database="engine")
        connection.execute("DROP DATABASE engine WITH (FORCE)")


@pytest.fixture
def database_url(engine_database_url: URL) -> URL:
    """An empty database with the schema: emptied, which takes a tenth of the time of making a new one.

    What a test plants into it goes into the schema `planted`, and goes with it. A test that changes more makes a
    database of its own.
    """
    with psycopg.connect(conninfo(engine_database_url), autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )
        connection.execute("SET client_min_messages = warning")
        with connection.transaction():
            connection.execute("DROP SCHEMA IF EXISTS planted CASCADE")
            connection.execute(UNPROTECT)
            for table in TABLES:
                connection.execute(f"DELETE FROM {table}")
            connection.execute(PROTECT)
            connection.execute("CREATE SCHEMA planted")
    return engine_database_url


@pytest.fixture
async def engine(database_url: URL) -> AsyncIterator[RunningEngine]:
    """A started engine on an empty database."""
    async with running_engine(database_url) as running:
        yield running


@pytest.fixture
def short_lock_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions give up a lock after 0.2 s instead of 1 s, so that tests of it are over sooner."""
    monkeypatch.setattr("challenge_engine.database.LOCK_TIMEOUT_S", 0.2)
