"""Lets subscribers that catch up with the log take turns, and give way to those who trade."""

import asyncio
from collections import deque
from types import TracebackType
from typing import Any, Self

from challenge_engine.activity import Activity

MAX_HAND_OVER_S = 0.02
"""Who does not take a batch within this time loses its turn, and what was read for it and is still held."""
BUSY_S = 0.1
"""For so long after the last trade others go on in small pieces."""
MAX_PAUSE_S = 0.05
"""However busy it is, a piece is done after this time."""


class Turns:
    """One subscriber at a time reads the table and is sent what was found, in the order in which they asked.

    To catch up costs the same processor that decides trades. With a hundred subscribers at it at once, trades were
    accepted more slowly than they came. So while trades come, it is done in small pieces, and each piece waits for a
    moment in which no trade is being decided.
    """

    def __init__(self, gives_way_to: Activity) -> None:
        self._activity = gives_way_to
        self._is_taken = False
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def is_busy(self) -> bool:
        """Whether trades are coming in, so that catching up should be done in small pieces."""
        return self._activity.was_seen_within(BUSY_S)

    async def give_way(self) -> None:
        """Let trades go first; to be called before each piece of work."""
        await self._activity.pause(MAX_PAUSE_S)

    def ask(self) -> "Turn":
        """A turn that comes when those who asked before have had theirs; to be used in a `with` block."""
        loop = asyncio.get_running_loop()
        granted: asyncio.Future[None] = loop.create_future()
        if self._is_taken:
            self._waiting.append(granted)
        else:
            self._is_taken = True
            granted.set_result(None)
        return Turn(self, granted, loop)

    def _pass_on(self) -> None:
        """Let the next one have its turn."""
        while self._waiting:
            granted = self._waiting.popleft()
            if not granted.done():
                granted.set_result(None)
                return
        self._is_taken = False


class Turn:
    """The time in which one subscriber reads the table and is sent what was found."""

    def __init__(self, turns: Turns, granted: asyncio.Future[None], loop: asyncio.AbstractEventLoop) -> None:
        self._turns = turns
        self._granted = granted
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None
        self._is_over = False
        self.was_lost = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end()

    async def comes(self) -> None:
        """Wait for it, however long that takes."""
        await asyncio.wait([self._granted])

    async def has_come(self, seconds: float) -> bool:
        """Whether it comes within the time. Who waits again keeps the place in the queue."""
        if not self._granted.done():
            await asyncio.wait([self._granted], timeout=max(0.0, seconds))
        return self._granted.done()

    def hand_over(self, rest: deque[Any]) -> None:
        """A batch is being sent. When that takes too long the turn is over and lost, and the rest is dropped.

        So a subscriber that stalls holds no more in memory than this one batch.
        """
        if not self._is_over:
            self._timer = self._loop.call_later(MAX_HAND_OVER_S, self._lose, rest)

    def handed_over(self) -> None:
        """The batch has been taken."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def end(self) -> None:
        """Let the next one have its turn, if that has not happened yet."""
        self.handed_over()
        if self._is_over:
            return
        self._is_over = True
        if not self._granted.cancel():
            self._turns._pass_on()

    def _lose(self, rest: deque[Any]) -> None:
        self.was_lost = True
        self._is_over = True
        rest.clear()
        self._turns._pass_on()
