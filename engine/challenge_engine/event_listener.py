"""Hears from other processes that there are new events."""

import asyncio
import logging
from typing import Any, cast

from challenge_engine.database import UNAVAILABLE, Connection, Database, cut
from challenge_engine.queries import NOTIFY_CHANNEL
from challenge_engine.wakeup import Wakeup

logger = logging.getLogger(__name__)

RETRY_INTERVAL_S = 0.5
CHECK_INTERVAL_S = 10.0
"""A connection that only waits would not notice that the other side is gone without a word: it asks this often."""
ANSWER_TIMEOUT_S = 5.0


class EventListener:
    """Wakes this process when another one has given positions. A lost connection costs a poll, and is made anew."""

    def __init__(self, database: Database, news: Wakeup) -> None:
        self._database = database
        self._news = news
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to listen."""
        self._task = asyncio.create_task(self._run(), name="event-listener")

    async def stop(self) -> None:
        """End."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        while True:
            try:
                async with await self._database.open() as connection:
                    await self._listen(connection)
            except UNAVAILABLE as error:
                logger.debug("the listening connection was lost: %s", type(error).__name__)
            except Exception:
                logger.exception("listening failed")
            await asyncio.sleep(RETRY_INTERVAL_S)

    async def _listen(self, connection: Connection) -> None:
        while True:
            # Said once more it changes nothing, and has to be answered.
            await _answered(connection, f"LISTEN {NOTIFY_CHANNEL}")
            self._news.wake()
            async for _ in connection.notifies(timeout=CHECK_INTERVAL_S):
                self._news.wake()


async def _answered(connection: Connection, statement: str) -> None:
    watchdog = asyncio.get_running_loop().call_later(ANSWER_TIMEOUT_S, cut, connection)
    try:
        await connection.execute(cast("Any", statement))
    finally:
        watchdog.cancel()
