"""A sink that keeps what it is given, and relays run against it or as processes of their own."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

from sqlalchemy.engine import URL

from challenge_engine.database import Database
from challenge_engine.event_listener import EventListener
from challenge_engine.event_log import PositionedEvent
from challenge_engine.relaying import Relay, RelayOrder
from challenge_engine.wakeup import Wakeup
from tests.engine.harness import PATIENCE_S, RunningEngine, submission

SINK = "memory://here"


async def make_events(engine: RunningEngine, challenges: int) -> None:
    """Three events each: created, active, failed or funded."""
    for number in range(challenges):
        challenge_id = await engine.create()
        await engine.trading.submit(submission(challenge_id, "t", "-6000" if number % 2 else "20000"))
    await engine.positions.assign_all()


class MemorySink:
    """Takes events for good, like a broker. `meanwhile` runs when it has taken some and not said so yet.

    An error in `refusals` is raised by one publication each, before anything is taken.
    """

    def __init__(self) -> None:
        self.taken: list[PositionedEvent] = []
        self.log_ids: set[str] = set()
        self.refusals: list[Exception] = []
        self.publications = 0
        self.meanwhile: Callable[[], Awaitable[None]] | None = None
        self.closed = False
        self._busy = False

    @property
    def positions(self) -> list[int]:
        return [event.position for event in self.taken]

    async def publish(self, log_id: str, events: Sequence[PositionedEvent]) -> None:
        assert events
        assert not self._busy, "two publications at the same time"
        self._busy = True
        try:
            self.publications += 1
            if self.refusals:
                raise self.refusals.pop(0)
            self.log_ids.add(log_id)
            self.taken += events
            if self.meanwhile is not None:
                await self.meanwhile()
        finally:
            self._busy = False

    async def close(self) -> None:
        self.closed = True


class Running:
    """A relay at work in this process."""

    def __init__(self, task: "asyncio.Task[int]", stop: asyncio.Event) -> None:
        self.task = task
        self.stop = stop

    async def stopped(self) -> int:
        """Stop it; the position it reached."""
        self.stop.set()
        return await asyncio.wait_for(self.task, PATIENCE_S)


@asynccontextmanager
async def relaying(url: URL, sink: MemorySink, name: str = SINK, **order) -> AsyncIterator[Running]:
    """A relay with a pool and a listener of its own, as a process has them; cancelled if it still works at the end."""
    database = Database(url, pool_size=2)
    news = Wakeup()
    listener = EventListener(database, news)
    listener.start()
    stop = asyncio.Event()
    task = asyncio.create_task(Relay(database, news, sink, RelayOrder(name, **order)).run(stop))
    try:
        yield Running(task, stop)
    finally:
        task.cancel()
        with contextlib.suppress(BaseException):
            await task
        await listener.stop()
        await database.close()


async def relay_once(url: URL, sink: MemorySink, name: str = SINK, **order) -> int:
    """Relay to the end of the log; the position that was reached."""
    async with relaying(url, sink, name, once=True, **order) as running:
        return await asyncio.wait_for(running.task, PATIENCE_S)


class RelayProcess:
    """A `challenge-engine relay` of its own process."""

    def __init__(self, *arguments: str, environment: dict[str, str] | None = None) -> None:
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 -- kept open for as long as the relay runs
        self.process = subprocess.Popen(
            [sys.executable, "-m", "challenge_server", "relay", *arguments],
            stdout=subprocess.DEVNULL,
            stderr=self._stderr,
            env=os.environ | (environment or {}),
        )

    def stderr(self) -> str:
        """All it has said so far."""
        return os.pread(self._stderr.fileno(), os.fstat(self._stderr.fileno()).st_size, 0).decode()

    def stop(self, signal_number: int = signal.SIGTERM) -> int:
        """Ask it to stop; its exit code."""
        self.process.send_signal(signal_number)
        return self.process.wait(PATIENCE_S)

    def kill(self) -> None:
        """End it as a power failure would."""
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """End it if it still runs, and let go of what it said."""
        if self.process.poll() is None:
            self.kill()
        self._stderr.close()
