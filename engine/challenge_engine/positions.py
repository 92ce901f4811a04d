"""Gives events their global positions, after commit, one process at a time."""

import asyncio
import logging

import psycopg
from sqlalchemy import exc

from challenge_engine import queries
from challenge_engine.database import CONFLICTS, UNAVAILABLE, Database, WriterConnection
from challenge_engine.wakeup import Wakeup, wait_at_most

logger = logging.getLogger(__name__)

POLL_INTERVAL_S = 0.5
RETRY_INTERVAL_S = 0.5
MAX_PER_TRANSACTION = 1000


class PositionAssigner:
    """Moves events from the outbox into the log.

    Every process runs one: it looks when its own process has committed events, and every POLL_INTERVAL_S for those of
    processes that died before they looked. A row lock lets one work at a time, which makes positions gapless; it is
    taken and left in one message, so that a process that stands still holds nobody up.
    """

    def __init__(self, database: Database, assigned: Wakeup) -> None:
        self._connection = WriterConnection(database, prepared={})
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
        total = 0
        async with self._turn:
            while True:
                assigned = await self._assign_some()
                total += assigned
                if assigned < MAX_PER_TRANSACTION:
                    return total

    async def _assign_some(self) -> int:
        async with self._connection.use() as connection:
            cursor = await connection.execute(queries.OUTBOX_HAS_ROWS)
            row = await cursor.fetchone()
            if row is None or not row[0]:
                return 0
            giving = psycopg.AsyncClientCursor(connection)
            await giving.execute(queries.GIVE_POSITIONS, {"limit": MAX_PER_TRANSACTION})
            for _ in range(queries.RESULTS_BEFORE_POSITIONS):
                giving.nextset()
            row = await giving.fetchone()
        if row is None:
            return 0
        self._assigned.wake()
        return int(row[0])

    async def _run(self) -> None:
        failure = ""
        while True:
            self._committed.clear()
            try:
                await self.assign_all()
            except UNAVAILABLE + CONFLICTS as error:
                logger.debug("no positions were given: %s", type(error).__name__)
                await asyncio.sleep(RETRY_INTERVAL_S)
            except Exception as error:
                if str(error) != failure:
                    failure = str(error)
                    logger.exception("no positions are given, until this is mended")
                await asyncio.sleep(RETRY_INTERVAL_S)
            else:
                failure = ""
                await wait_at_most(self._committed, POLL_INTERVAL_S)
