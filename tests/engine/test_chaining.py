"""The migration that chains what was recorded before there were chains: the same links as if they had always been."""

import json
from typing import Any

import pytest
from sqlalchemy.engine import URL

from challenge_engine.migrating import migrate
from challenge_engine.verifying import verify
from tests.engine.harness import RunningEngine, running_engine, sql, sql_session, submission
from tests.engine.test_rebuilding import live

TABLES = ("challenges", "trades", "challenge_events", "event_positions")
NEW = {"chain_head", "chain_hash", "archive_id", "version"}


@pytest.fixture
async def old_url(database_url: URL) -> Any:
    """A database of the revision before."""
    name = "unchained"
    async with sql_session(database_url) as connection:
        await connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        await connection.execute(f"CREATE DATABASE {name}")
        url = database_url.set(database=name)
        migrate(url, "0002")
        yield url
        await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


async def copy(source: URL, target: URL) -> None:
    """What the service recorded, as an older release recorded it."""
    for table in TABLES:
        rows = [row for (row,) in await sql(source, f"SELECT to_jsonb(t) FROM {table} t")]
        columns = ", ".join(name for name in rows[0] if name not in NEW)
        await sql(
            target,
            f"INSERT INTO {table} ({columns}) SELECT {columns} FROM jsonb_populate_recordset(NULL::{table}, %s::jsonb)",
            (json.dumps(rows),),
        )


async def contents(url: URL) -> dict[str, list[Any]]:
    return {table: await sql(url, f"SELECT to_jsonb(t)::text FROM {table} t ORDER BY 1") for table in TABLES}


async def test_old_records_get_the_links_that_the_service_would_have_given_them(engine: RunningEngine, old_url: URL):
    ids = await live(engine)
    await engine.trading.submit(submission(ids[-1], "decisive", "-60", 10**6))
    await engine.positions.assign_all()
    before = await contents(engine.url)
    await copy(engine.url, old_url)
    migrate(old_url)
    assert await contents(old_url) == before
    report = verify(old_url)
    assert (report.findings, report.waiting, report.challenges) == ([], 10, 10)
    async with running_engine(old_url) as migrated:
        await migrated.trading.submit(submission(await migrated.create(), "t1", "1", 1))
    assert verify(old_url).is_clean


async def test_a_challenge_without_its_creation_is_named_and_nothing_is_migrated(engine: RunningEngine, old_url: URL):
    ids = await live(engine)
    await engine.positions.assign_all()
    await copy(engine.url, old_url)
    async with sql_session(old_url, autocommit=False) as connection:
        await connection.execute("SET LOCAL session_replication_role = replica")
        await connection.execute("DELETE FROM challenge_events WHERE challenge_id = %s", (ids[0],))
        await connection.commit()
    with pytest.raises(ValueError, match=f"challenge {ids[0]} has no CHALLENGE_CREATED event"):
        migrate(old_url)
    assert await sql(old_url, "SELECT version_num FROM alembic_version") == [("0002",)]
