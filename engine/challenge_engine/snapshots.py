"""Sessions for tools that read: one transaction that sees one moment, writes nothing, and may take its time."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.rows import TupleRow
from sqlalchemy.engine import URL

from challenge_engine.database import CONNECT_TIMEOUT_S

Session = psycopg.Connection[TupleRow]

Progress = Callable[[str, int, int], None]
"""Told of what is done: the step, how much of it, and of how much in all (0: unknown)."""

CONFIGURE = """
    SELECT set_config('TimeZone', 'UTC', false), set_config('statement_timeout', '0', false),
        set_config('idle_in_transaction_session_timeout', '0', false), set_config('jit', 'off', false)
"""


def say_nothing(_step: str, _done: int, _total: int) -> None:
    """For those who do not want to hear of progress."""


@contextmanager
def session(url: URL, application_name: str = "challenge-engine tool") -> Iterator[Session]:
    """A connection of a tool's own, outside any transaction; its name tells it from the service's."""
    conninfo = url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(
        conninfo, autocommit=True, connect_timeout=CONNECT_TIMEOUT_S, application_name=application_name
    ) as connection:
        connection.execute(CONFIGURE)
        yield connection


@contextmanager
def snapshot(url: URL) -> Iterator[Session]:
    """A session in a transaction that sees the database as it is now, for as long as it lasts."""
    with session(url) as connection:
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        # The first statement takes the snapshot.
        connection.execute("SELECT 1")
        yield connection
        connection.execute("ROLLBACK")


def stream(connection: Session, name: str, query: str, parameters: Any = None, *, rows_at_a_time: int = 2_000) -> Any:
    """The rows of a large result, fetched in portions so that memory stays flat."""
    with connection.cursor(name) as cursor:
        cursor.itersize = rows_at_a_time
        cursor.execute(query, parameters)
        yield from cursor
