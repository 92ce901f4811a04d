"""One group of trades, one transaction: lock, find replays, decide, write, commit."""

from collections.abc import Iterable, Mapping

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
    and lock and writes go as one message. If the lock then finds another state, or a trade is refused, or was sent
    before, nothing of that counts and the group goes the long way.
    """

    def __init__(self, connection: WriterConnection, decider: GroupDecider, remembered: RememberedStates) -> None:
        self._connection = connection
        self._decider = decider
        self._remembered = remembered

    async def write(self, group: Group) -> Decided:
        """Decide and commit a group. The answers may be given once this has returned.

        Raises what psycopg and SQLAlchemy raise, or `VersionMovedError`, with nothing written; `CommitLostError` when
        that cannot be known.
        """
        async with self._connection.use() as connection:
            states = self._remembered.reliable(group)
            if states is not None:
                decided = self._decider.decide(group, states, {})
                if decided.all_accepted and await self._write_remembered(connection, decided, states):
                    return await self._commit(connection, decided)
            states, archived, recorded = await self._read(connection, group)
            self._remembered.found(states)
            decided = self._decider.decide(group, states, recorded, archived)
            if not decided.accepted:
                return decided
            await self._write(connection, decided)
            return await self._commit(connection, decided)

    async def close(self) -> None:
        """End the connection to the database."""
        await self._connection.close()

    async def _read(self, connection: Connection, group: Group) -> tuple[dict[str, ChallengeState], set[str], Recorded]:
        """Begin the transaction: lock and read the challenges of a group, and find its trades accepted before.

        Also tells the challenges whose trades are in an archive, where they are not found.
        """
        keys = rows.trade_keys_to_json(
            (challenge_id, waiting.submission.trade.trade_id)
            for challenge_id, waiting_trades in group.items()
            for waiting in waiting_trades
        )
        cursor = psycopg.AsyncClientCursor(connection)
        await cursor.execute(queries.BEGIN_AND_READ, (rows.uuid_array(group), keys))
        cursor.nextset()
        locked = await cursor.fetchall()
        states = _states(locked)
        archived = {row[0] for row in locked if row[-1]}
        cursor.nextset()
        recorded: Recorded = {}
        for row in await cursor.fetchall():
            if row[0] not in states:
                # Made, and traded on, since the challenges were locked: not found, as it was at that moment.
                continue
            terms = states[row[0]].terms
            trade = rows.trade_from_row(row, terms, self._decider.engine(terms.rules_version))
            recorded[row[0], trade.trade.trade_id] = trade
        return states, archived, recorded

    async def _write(self, connection: Connection, decided: Decided) -> None:
        cursor = psycopg.AsyncClientCursor(connection)
        await cursor.execute(*_writing(decided))
        while cursor.nextset():
            pass
        if cursor.rowcount != len(decided.moved):
            raise VersionMovedError

    async def _write_remembered(
        self, connection: Connection, decided: Decided, states: Mapping[str, ChallengeState]
    ) -> bool:
        """Lock and write in one message; False, with nothing written, when the states were not the remembered ones."""
        query, parameters = _writing(decided)
        cursor = psycopg.AsyncClientCursor(connection)
        try:
            await cursor.execute(queries.LOCK_AND + query, (rows.uuid_array(states), *parameters))
            cursor.nextset()
            found = _states(await cursor.fetchall())
            while cursor.nextset():
                pass
            if found == states and cursor.rowcount == len(decided.moved):
                return True
        except psycopg.IntegrityError:
            # Of one state the rows follow from each other; here they met rows that follow from another.
            pass
        await connection.rollback()
        return False

    async def _commit(self, connection: Connection, decided: Decided) -> Decided:
        try:
            await connection.commit()
        except CONFLICTS:
            raise
        except psycopg.OperationalError as error:
            raise CommitLostError(decided) from error
        self._remembered.committed(state for _, state in decided.moved.values())
        return decided


def _states(locked: Iterable[rows.Row]) -> dict[str, ChallengeState]:
    return {row[0]: rows.challenge_from_row(row[:-1]) for row in locked}


def _writing(decided: Decided) -> tuple[str, list[str]]:
    """The message that writes what was decided, and its parameters."""
    query = queries.WRITE
    moved = rows.uuid_array(decided.moved)
    parameters = [rows.trades_to_json(decided.accepted), moved, rows.challenges_to_json(decided.moved.values()), moved]
    if decided.events:
        query = queries.WRITE_EVENTS_AND
        parameters.insert(0, rows.events_to_json(decided.events))
    return query, parameters
