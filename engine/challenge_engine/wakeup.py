"""A hint that there may be something new."""

import asyncio


class Wakeup:
    """Wakes everyone who waits. Losing one costs the waiter no more than its own time-out, never an event."""

    def __init__(self) -> None:
        self._next: asyncio.Event = asyncio.Event()

    def wake(self) -> None:
        """Wake all who wait now."""
        self._next.set()
        self._next = asyncio.Event()

    def subscribe(self) -> asyncio.Event:
        """What the next `wake` sets. Take it before looking for news, so that none falls between look and wait."""
        return self._next


async def wait_at_most(event: asyncio.Event, seconds: float) -> bool:
    """Whether the event was set within the time."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True
