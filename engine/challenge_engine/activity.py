"""What others give way to."""

import asyncio
from types import TracebackType
from typing import Self

from challenge_engine.wakeup import Wakeup, wait_at_most


class Activity:
    """Work that goes on in this process. Whoever does it is inside a `with` block; several may be at once."""

    def __init__(self) -> None:
        self._going_on = 0
        self._ended = Wakeup()
        self._last_at = float("-inf")

    def __enter__(self) -> Self:
        self._going_on += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._going_on -= 1
        if not self._going_on:
            self._last_at = asyncio.get_running_loop().time()
            self._ended.wake()

    def was_seen_within(self, seconds: float) -> bool:
        """Whether something goes on, or did so a short while ago."""
        return self._going_on > 0 or asyncio.get_running_loop().time() - self._last_at < seconds

    async def pause(self, at_most_s: float) -> None:
        """Return when nothing goes on, but in any case after that time."""
        ended = self._ended.subscribe()
        if self._going_on:
            await wait_at_most(ended, at_most_s)
