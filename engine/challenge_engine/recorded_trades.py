"""The recorded trades of many challenges, as one snapshot of the database shows them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from operator import itemgetter
from typing import Any, cast

import psycopg
from psycopg.rows import TupleRow
from sqlalchemy.engine import URL

from challenge_engine import reconciling_queries
from challenge_engine.database import CONNECT_TIMEOUT_S, DatabaseError, check_usable
from challenge_engine.reconciling import Recorded
from challenge_rules.money import DECIMAL_PLACES, parse_scaled

CHALLENGES_AT_ONCE = 500
"""Asked for by one statement."""
PAGE_SIZE = 5_000
"""Rows fetched at once."""
SNAPSHOT_SETTINGS = {
    "lock_timeout": "5s",
    "statement_timeout": "60s",
    "idle_in_transaction_session_timeout": "300s",
}
"""The last ends what somebody stopped in the middle: while a snapshot is kept, VACUUM leaves old rows alone."""


class RecordedTrades:
    """Reads trades in a transaction that sees what was committed when it began, whatever the service does meanwhile."""

    def __init__(self, connection: "psycopg.Connection[TupleRow]") -> None:
        self._connection = connection

    def of(self, challenge_ids: Sequence[str]) -> Iterator[tuple[str, Iterator[Recorded] | None]]:
        """Each challenge in the given order with its trades by sequence; None for one that does not exist.

        The ids are different UUIDs in lower case. The trades of one are to be read before the next is asked for. Trades
        that are in an archive are a `DatabaseError`: here they would seem to be missing.
        """
        for first in range(0, len(challenge_ids), CHALLENGES_AT_ONCE):
            chosen = {"challenge_ids": list(challenge_ids[first : first + CHALLENGES_AT_ONCE])}
            archived = self._connection.execute(reconciling_queries.ARCHIVED, chosen).fetchone()
            if archived is not None:
                raise DatabaseError(f"the trades of challenge {archived[0]} have been archived; nothing is compared")
            with self._connection.cursor(name="recorded_trades") as cursor:
                cursor.itersize = PAGE_SIZE
                cursor.execute(reconciling_queries.TRADES_OF_CHALLENGES, chosen)
                for (challenge_id, is_known), rows in groupby(cursor, key=itemgetter(0, 1)):
                    yield challenge_id, _trades(rows) if is_known else None


def _trades(rows: Iterator[TupleRow]) -> Iterator[Recorded]:
    for _, _, sequence, trade_id, executed_at, realized_pnl, symbol in rows:
        if sequence is not None:
            yield Recorded(sequence, trade_id, executed_at, parse_scaled(realized_pnl, DECIMAL_PLACES), symbol)


@contextmanager
def recorded_trades(url: URL) -> Iterator[RecordedTrades]:
    """The trades of a database as they are now.

    Raises `psycopg.Error`, and `DatabaseError` unless the database has the schema this release knows and lets us read.
    """
    check_usable(url, reconciling_queries.MISSING_PRIVILEGES)
    conninfo = url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(conninfo, connect_timeout=CONNECT_TIMEOUT_S) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.read_only = True
        connection.execute(cast("Any", reconciling_queries.CONFIGURE_SNAPSHOT), SNAPSHOT_SETTINGS)
        yield RecordedTrades(connection)
