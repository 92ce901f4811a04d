"""One group of trades, one transaction: lock, find replays, decide, write, commit."""

from collections.abc import Mapping

import psycopg

from challenge_engine import queries, rows
from challenge_engine.database import CONFLICTS, Connection, WriterConnection
from challenge_engine.deciding import Decided, GroupDecider, Recorded
from challenge_engine.remembered import RememberedStates
from challenge_engine.waiting import Group
from challenge_rules import ChallengeState


class VersionMovedError(Exception):
    """A challenge had another version when it was written than when it was read under lock."""


class CommitLostError(Exception):
    """The connection was lost during COMMIT: the group is written, or it is not."""

    def __init__(self, decided: Decided) -> None:
        self.decided = decided
        super().__init__()


class GroupWriter:
    """Executes groups, one after the other, each in one transaction under `SELECT … FOR UPDATE` on its challenges.

    A group is decided on the states that its lock reads. When all of them are remembered it is decided on these first,
    and lock and writes go as one message. If a trade is then refused, or was sent before, or a challenge has moved on,
    nothing of that counts and the group goes the long way.
    """

    def __init__(self, connection: WriterConnection, decider: GroupDecider, remembered: RememberedStates) -> None:
        self._connection = connection
        self._decider = decider
        self._remembered = remembered
        self._session: Connection | None = None

    async def write(self, group: Group) -> Decided:
        """Decide and commit a group. The answers may be given once this has returned.

        Raises what psycopg and SQLAlchemy raise, or `VersionMovedError`, with nothing written; `CommitLostError` when
        that cannot be known.
        """
        async with self._connection.use() as connection:
            if connection is not self._session:
                # Whatever ended the session before may have been a restored database.
                self._remembered.clear()
                self._session = connection
            states = self._remembered.reliable(group)
            if states is not None:
                decided = self._decider.decide(group, states, {})
                if decided.all_accepted and await self._write_remembered(connection, decided):
                    return await self._commit(connection, decided, states)
            states, recorded = await self._read(connection, group)
            decided = self._decider.decide(group, states, recorded)
            if not decided.accepted:
                return decided
            await self._write(connection, decided)
            return await self._commit(connection, decided, states)

    async def close(self) -> None:
        """End the connection to the database."""
        await self._connection.close()

    async def _read(self, connection: Connection, group: Group) -> tuple[dict[str, ChallengeState], Recorded]:
        """Begin the transaction: lock and read the challenges of a group, and find its trades accepted before."""
        keys = rows.trade_keys_to_json(
            (challenge_id, waiting.submission.trade.trade_id)
            for challenge_id, waiting_trades in group.items()
            for waiting in waiting_trades
        )
        cursor = psycopg.AsyncClientCursor(connection)
        await cursor.execute(queries.BEGIN_AND_READ, (rows.uuid_array(group), keys))
        cursor.nextset()
        states = {state.terms.challenge_id: state for state in map(rows.challenge_from_row, await cursor.fetchall())}
        cursor.nextset()
        recorded: Recorded = {}
        for row in await cursor.fetchall():
            if row[0] not in states:
                # Made, and traded on, since the challenges were locked: not found, as it was at that moment.
                continue
            terms = states[row[0]].terms
            trade = rows.trade_from_row(row, terms, self._decider.engine(terms.rules_version))
            recorded[row[0], trade.trade.trade_id] = trade
        return states, recorded

    async def _write(self, connection: Connection, decided: Decided) -> None:
        cursor = psycopg.AsyncClientCursor(connection)
        await cursor.execute(*_writing(decided))
        while cursor.nextset():
            pass
        if cursor.rowcount != len(decided.moved):
            raise VersionMovedError

    async def _write_remembered(self, connection: Connection, decided: Decided) -> bool:
        """Lock and write in one message; False, with nothing written, when a state was not the remembered one."""
        query, parameters = _writing(decided)
        cursor = psycopg.AsyncClientCursor(connection)
        try:
            await cursor.execute(queries.LOCK_AND + query, (rows.uuid_array(decided.moved), *parameters))
            while cursor.nextset():
                pass
            if cursor.rowcount == len(decided.moved):
                return True
        except psycopg.errors.UniqueViolation:
            # A trade of the same sequence, or of the same trade_id, is there.
            pass
        self._remembered.forget(decided.moved)
        await connection.rollback()
        return False

    async def _commit(self, connection: Connection, decided: Decided, read: Mapping[str, ChallengeState]) -> Decided:
        try:
            await connection.commit()
        except CONFLICTS:
            raise
        except psycopg.OperationalError as error:
            self._remembered.forget(decided.moved)
            raise CommitLostError(decided) from error
        self._remembered.committed(read, {challenge_id: state for challenge_id, (_, state) in decided.moved.items()})
        return decided


def _writing(decided: Decided) -> tuple[str, list[str]]:
    """The message that writes what was decided, and its parameters."""
    query = queries.WRITE
    parameters = [
        rows.trades_to_json(decided.accepted),
        rows.challenges_to_json(decided.moved.values()),
        rows.uuid_array(decided.moved),
    ]
    if decided.events:
        query = queries.WRITE_EVENTS_AND
        parameters.insert(0, rows.events_to_json(decided.events))
    return query, parameters
