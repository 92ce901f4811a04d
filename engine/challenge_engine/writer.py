"""One group of trades, one transaction: lock, find replays, decide, write, commit."""

import psycopg

from challenge_engine import queries, rows
from challenge_engine.database import CONFLICTS, Connection, WriterConnection
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
    """Executes groups, one after the other, each in one transaction under `SELECT … FOR UPDATE` on its challenges."""

    def __init__(self, connection: WriterConnection, decider: GroupDecider) -> None:
        self._connection = connection
        self._decider = decider

    async def write(self, group: Group) -> Decided:
        """Decide and commit a group. The answers may be given once this has returned.

        Raises what psycopg and SQLAlchemy raise, or `VersionMovedError`, with nothing written; `CommitLostError` when
        that cannot be known.
        """
        async with self._connection.use() as connection:
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

    async def close(self) -> None:
        """End the connection to the database."""
        await self._connection.close()

    async def _read_and_decide(self, connection: Connection, group: Group) -> Decided:
        keys = rows.trade_keys_to_json(
            (challenge_id, waiting.submission.trade.trade_id)
            for challenge_id, waiting_trades in group.items()
            for waiting in waiting_trades
        )
        cursor = psycopg.AsyncClientCursor(connection)
        await cursor.execute(queries.BEGIN_AND_READ, (rows.uuid_array(group), keys))
        cursor.nextset()
        locked = await cursor.fetchall()
        cursor.nextset()
        found = await cursor.fetchall()
        states = {state.terms.challenge_id: state for state in map(rows.challenge_from_row, locked)}
        recorded: Recorded = {}
        for row in found:
            if row[0] not in states:
                # Made, and traded on, since the challenges were locked: not found, as it was at that moment.
                continue
            terms = states[row[0]].terms
            trade = rows.trade_from_row(row, terms, self._decider.engine(terms.rules_version))
            recorded[row[0], trade.trade.trade_id] = trade
        return self._decider.decide(group, states, recorded)

    async def _write(self, connection: Connection, decided: Decided) -> None:
        query = queries.WRITE
        parameters = [
            rows.trades_to_json(decided.accepted),
            rows.challenges_to_json(decided.moved.values()),
            rows.uuid_array(decided.moved),
        ]
        if decided.events:
            query = queries.WRITE_EVENTS_AND
            parameters.insert(0, rows.events_to_json(decided.events))
        cursor = psycopg.AsyncClientCursor(connection)
        await cursor.execute(query, parameters)
        while cursor.nextset():
            pass
        if cursor.rowcount != len(decided.moved):
            raise VersionMovedError
