"""Gives events their global positions, after commit, one process at a time."""

import asyncio
import logging

import psycopg
from sqlalchemy import exc

from challenge_engine import queries
from challenge_engine.database import CONFLICTS, UNAVAILABLE, Database, WriterConnection, brief
from challenge_engine.wakeup import Wakeup, wait_at_most

logger = logging.getLogger(__name__)

POLL_INTERVAL_S = 0.5
MIN_INTERVAL_S = 0.01
"""While events come in quick succession, those of so long a time get their positions together: each time costs a
commit, and all who follow the log a read."""
RETRY_INTERVAL_S = 0.5
PATIENCE_S = 5.0
"""A database that is away for longer is worth a line in the log."""
MAX_PER_TRANSACTION = 1000


class PositionAssigner:
    """Moves events from the outbox into the log.

    Every process runs one: it looks when its own process has committed events, and every POLL_INTERVAL_S for those of
    processes that died before they looked. A row lock lets one work at a time, which makes positions gapless; it is
    taken and left in one message, so that a process that stands still holds nobody up.
    """

    def __init__(self, database: Database, assigned: Wakeup) -> None:
        self._connection = WriterConnection(database, queries.PREPARED_TO_GIVE_POSITIONS)
        self._turn = asyncio.Lock()
        self._assigned = assigned
        self._committed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look for events."""
        self._task = asyncio.create_task(self._run(), name="event-positions")

    async def stop(self) -> None:
        """Give the events that wait their positions, if the database lets us, and end."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            try:
                await self.assign_all()
            except (psycopg.Error, exc.SQLAlchemyError):
                logger.info("no positions were given at the end; the next process that looks gives those missing")
        await self._connection.close()

    def wake(self) -> None:
        """Say that events have been committed."""
        self._committed.set()

    async def assign_all(self) -> int:
        """Give every event that waits its position; returns how many there were."""
        async with self._turn:
            return await self._assign()

    async def _assign(self) -> int:
        total = 0
        while True:
            assigned = await self._assign_some()
            total += assigned
            if assigned < MAX_PER_TRANSACTION:
                return total

    async def _assign_some(self) -> int:
        async with self._connection.use() as connection:
            giving = psycopg.AsyncClientCursor(connection)
            await giving.execute(queries.GIVE_POSITIONS, (MAX_PER_TRANSACTION,))
            for _ in range(queries.RESULTS_BEFORE_POSITIONS):
                giving.nextset()
            row = await giving.fetchone()
        if row is None:
            return 0
        self._assigned.wake()
        return int(row[0])

    async def _any_waits(self) -> bool:
        async with self._connection.use() as connection:
            cursor = await connection.execute(queries.OUTBOX_HAS_ROWS)
            row = await cursor.fetchone()
        return row is not None and bool(row[0])

    async def _run(self) -> None:
        clock = asyncio.get_running_loop().time
        failing_since: float | None = None
        told = ""
        while True:
            began = clock()
            has_news = self._committed.is_set()
            self._committed.clear()
            try:
                async with self._turn:
                    # Of events that this process has committed it knows; for others it looks before it takes the lock.
                    if has_news or await self._any_waits():
                        await self._assign()
            except Exception as error:
                failing_since = failing_since or clock()
                # What passes by itself is told when it has lasted; anything else at once.
                lasts = clock() - failing_since >= PATIENCE_S
                if str(error) != told and (lasts or not isinstance(error, UNAVAILABLE + CONFLICTS)):
                    told = str(error)
                    logger.exception("no positions are given, so that event streams stand still, until this is mended")
                else:
                    logger.debug("no positions were given: %s", brief(error))
                await asyncio.sleep(RETRY_INTERVAL_S)
            else:
                if told:
                    logger.info("positions are given again")
                failing_since, told = None, ""
                if await wait_at_most(self._committed, POLL_INTERVAL_S):
                    await asyncio.sleep(max(0.0, began + MIN_INTERVAL_S - clock()))
