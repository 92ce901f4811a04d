"""Lets subscribers that catch up with the log take turns, and give way to those who trade."""

import asyncio
from collections import deque
from types import TracebackType
from typing import Any, Self

from challenge_engine.activity import Activity

MAX_HAND_OVER_S = 0.02
"""Who does not take a batch within this time loses its turn, and what was read for it and is still held. Who does not
begin within this time when the turn comes, because the message before is still on its way, asks again."""
BUSY_S = 0.05
"""For so long after the last trade others go on in small pieces."""
REST_S = 0.01
"""So long they rest before each of these pieces. One takes about a millisecond, so a tenth of the time is theirs."""
MAX_PAUSE_S = 0.005
"""However busy it is, a rested one does its piece after this time, so that catching up never stands still."""


class Turns:
    """A few subscribers at a time, one unless told otherwise, have their turn, in the order in which they asked.

    To catch up costs the same processor that decides trades. With a hundred subscribers at it at once, trades were
    accepted more slowly than they came. So while trades come, it is done in small pieces with rests between them, and
    each piece waits for a moment in which no trade is being decided.
    """

    def __init__(self, gives_way_to: Activity, at_once: int = 1) -> None:
        self._activity = gives_way_to
        self._free = at_once
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def is_busy(self) -> bool:
        """Whether trades are coming in, so that catching up should be done in small pieces."""
        return self._activity.was_seen_within(BUSY_S)

    async def give_way(self) -> None:
        """Let trades go first, for a while; to be called before each piece of work."""
        if self.is_busy:
            await asyncio.sleep(REST_S)
        await self._activity.pause(MAX_PAUSE_S)

    def ask(self) -> "Turn":
        """A turn that comes when those who asked before have had theirs; to be used in a `with` block."""
        return Turn(self)

    def _queue_up(self) -> asyncio.Future[None]:
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._free:
            self._free -= 1
            granted.set_result(None)
        else:
            self._waiting.append(granted)
        return granted

    def _pass_on(self) -> None:
        """Let the next one have its turn."""
        while self._waiting:
            granted = self._waiting.popleft()
            if not granted.done():
                granted.set_result(None)
                return
        self._free += 1


class Turn:
    """The time in which one subscriber reads the table and is sent what was found."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._has_begun = False
        self._is_over = False
        self.was_lost = False
        self._granted = self._ask()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end()

    async def comes(self) -> None:
        """Wait for it, however long that takes."""
        while not self._has_begun:
            await asyncio.wait([self._granted])
            await self.has_come(0)

    async def has_come(self, seconds: float) -> bool:
        """Whether it comes within the time. Who waits again at once keeps the place in the queue."""
        if not self._granted.done():
            await asyncio.wait([self._granted], timeout=max(0.0, seconds))
        if self._granted.done():
            self._has_begun = True
            self._stop_timer()
        return self._has_begun

    def hand_over(self, dropped_if_late: deque[Any]) -> None:
        """A batch is being sent. When that takes too long the turn is lost, and the rest of what was read is dropped.

        So a subscriber that stalls holds no more in memory than this one batch, also one whose turn has ended before.
        """
        self._timer = self._loop.call_later(MAX_HAND_OVER_S, self._lose, dropped_if_late)

    def handed_over(self) -> None:
        """The batch has been taken."""
        self._stop_timer()

    def end(self) -> None:
        """Let the next one have its turn, if that has not happened yet."""
        self._stop_timer()
        if self._is_over:
            return
        self._is_over = True
        if not self._granted.cancel():
            self._turns._pass_on()

    def _ask(self) -> asyncio.Future[None]:
        granted = self._turns._queue_up()
        granted.add_done_callback(self._expect_beginning)
        return granted

    def _expect_beginning(self, granted: asyncio.Future[None]) -> None:
        if not granted.cancelled() and not self._has_begun and not self._is_over:
            self._timer = self._loop.call_later(MAX_HAND_OVER_S, self._ask_again)

    def _ask_again(self) -> None:
        self._granted = self._ask()
        self._turns._pass_on()

    def _lose(self, rest: deque[Any]) -> None:
        self.was_lost = True
        rest.clear()
        if not self._is_over:
            self._is_over = True
            self._turns._pass_on()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
