"""One group of trades, one transaction: lock, find replays, decide, write, commit."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import psycopg

from challenge_engine import queries, rows
from challenge_engine.database import CONFLICTS, Connection
from challenge_engine.deciding import Decided, GroupDecider, Recorded
from challenge_engine.waiting import Group


class VersionMovedError(Exception):
    """A challenge had another version when it was written than when it was read under lock."""


class CommitLostError(Exception):
    """The connection was lost during COMMIT: the group is written, or it is not."""

    def __init__(self, decided: Decided) -> None:
        self.decided = decided
        super().__init__()


class GroupWriter:
    """Executes groups, each in one transaction under `SELECT … FOR UPDATE` on its challenges.

    `connect` opens what a transaction runs on.
    """

    def __init__(self, connect: Callable[[], AbstractAsyncContextManager[Connection]], decider: GroupDecider) -> None:
        self._connect = connect
        self._decider = decider

    async def write(self, group: Group) -> Decided:
        """Decide and commit a group. The answers may be given once this has returned.

        Raises what psycopg and SQLAlchemy raise, or `VersionMovedError`, with nothing written; `CommitLostError` when
        that cannot be known.
        """
        async with self._connect() as connection:
            decided = await self._read_and_decide(connection, group)
            if not decided.accepted:
                return decided
            await self._write(connection, decided)
            try:
                await connection.commit()
            except CONFLICTS:
                raise
            except psycopg.OperationalError as error:
                raise CommitLostError(decided) from error
            return decided

    async def _read_and_decide(self, connection: Connection, group: Group) -> Decided:
        keys = rows.trade_keys_to_json(
            (challenge_id, waiting.submission.trade.trade_id)
            for challenge_id, waiting_trades in group.items()
            for waiting in waiting_trades
        )
        async with connection.pipeline():
            # The second statement takes its snapshot after the first has its locks, so it sees every trade that the
            # challenges' earlier holders committed.
            locked = await connection.execute(queries.LOCK_CHALLENGES, (list(group),))
            found = await connection.execute(queries.FIND_RECORDED_TRADES, (keys,))
        states = {state.terms.challenge_id: state for state in map(rows.challenge_from_row, await locked.fetchall())}
        recorded: Recorded = {}
        for row in await found.fetchall():
            terms = states[row[0]].terms
            trade = rows.trade_from_row(row, terms, self._decider.engine(terms.rules_version))
            recorded[row[0], trade.trade.trade_id] = trade
        return self._decider.decide(group, states, recorded)

    async def _write(self, connection: Connection, decided: Decided) -> None:
        async with connection.pipeline():
            await connection.execute(queries.INSERT_TRADES, (rows.trades_to_json(decided.accepted),))
            updated = await connection.execute(
                queries.UPDATE_CHALLENGES, (rows.challenges_to_json(decided.moved.values()),)
            )
            if decided.events:
                await connection.execute(queries.INSERT_EVENTS, (rows.events_to_json(decided.events),))
        if updated.rowcount != len(decided.moved):
            raise VersionMovedError
