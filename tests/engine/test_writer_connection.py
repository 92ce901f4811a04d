"""The connection of a writer: what one use leaves behind never reaches the next."""

import asyncio

import psycopg
import pytest
from sqlalchemy.engine import URL

from challenge_engine.database import Database, WriterConnection
from tests.engine.harness import value

INSERT = "BEGIN; INSERT INTO event_outbox (challenge_id, challenge_sequence) VALUES (gen_random_uuid(), 1)"
CONFLICT = "DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = 'serialization_failure'; END $$"


@pytest.fixture
async def connection(database_url: URL):
    database = Database(database_url, pool_size=1)
    writer = WriterConnection(database)
    yield writer
    await writer.close()
    await database.close()


async def session(connection: WriterConnection) -> int:
    """Which session of PostgreSQL it is; in a transaction that is committed."""
    async with connection.use() as used:
        cursor = await used.execute("BEGIN")
        cursor = await used.execute("SELECT pg_backend_pid()")
        row = await cursor.fetchone()
        await used.commit()
    assert row is not None
    return int(row[0])


async def failed_use(connection: WriterConnection, error: type[BaseException], statement: str = "SELECT 1") -> None:
    """A use that fails after it has written."""
    async with connection.use() as used:
        await used.execute(INSERT)
        await used.execute(statement)
        raise error


async def test_the_session_stays_and_what_is_not_committed_is_rolled_back(connection, database_url):
    first = await session(connection)
    async with connection.use() as used:
        await used.execute(INSERT)
    assert await session(connection) == first
    assert await value(database_url, "SELECT count(*) FROM event_outbox") == 0


async def test_a_conflict_is_rolled_back_and_the_session_stays(connection, database_url):
    first = await session(connection)
    with pytest.raises(psycopg.errors.SerializationFailure):
        await failed_use(connection, AssertionError, CONFLICT)
    assert await session(connection) == first
    assert await value(database_url, "SELECT count(*) FROM event_outbox") == 0


@pytest.mark.parametrize("error", [RuntimeError, asyncio.CancelledError, psycopg.errors.InvalidSqlStatementName])
async def test_after_any_other_error_the_next_use_has_another_session(connection, database_url, error):
    """It may be one without its prepared statements, or in the middle of a statement."""
    first = await session(connection)
    with pytest.raises(error):
        await failed_use(connection, error)
    assert await session(connection) != first
    assert await value(database_url, "SELECT count(*) FROM event_outbox") == 0


async def test_a_session_that_was_terminated_is_replaced(connection, database_url):
    first = await session(connection)
    await value(database_url, "SELECT pg_terminate_backend(%s)", (first,))
    with pytest.raises(psycopg.OperationalError):
        await session(connection)
    assert await session(connection) != first


async def test_a_session_that_lost_what_it_had_prepared_is_replaced(connection: WriterConnection):
    """As behind a pooler that deallocates, or when a table has changed: the error comes once, not for ever."""
    async with connection.use() as used:
        await used.execute("DEALLOCATE ALL", prepare=False)
    with pytest.raises(psycopg.errors.InvalidSqlStatementName):
        async with connection.use() as used:
            await used.execute("EXECUTE lock_challenges('{}')", prepare=False)
    async with connection.use() as used:
        await used.execute("EXECUTE lock_challenges('{}')", prepare=False)
