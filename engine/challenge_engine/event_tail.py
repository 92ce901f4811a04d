"""Follows the log of events: one reader for all the subscribers of a process."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from itertools import islice

from challenge_engine.database import UNAVAILABLE, Database
from challenge_engine.event_log import ALL_EVENTS, BEGINNING, EventFilter, EventLog, Page, Place, PositionedEvent
from challenge_engine.paging import fitting
from challenge_engine.queries import NOTIFY_CHANNEL
from challenge_engine.wakeup import Wakeup, wait_at_most
from challenge_rules import ChallengeError, ChallengeEvent

logger = logging.getLogger(__name__)

POLL_INTERVAL_S = 0.5
MAX_KEPT = 2048
"""So many of the newest events are kept for all subscribers together; who is further behind reads the table."""
TAKEN_AT_ONCE = 64
"""A subscriber holds no more of the kept ones than this while its caller takes them."""
FIRST_PAGE = 50
LATER_PAGE = 500
LATER_AFTER = 1000
"""Who has read so many events from the table is quick, and gets larger pages: one that stalls should hold little."""


MAX_CATCHING_UP = 4
"""So many subscribers read the table at a time. With a hundred at once trades were accepted slower than they came."""
MAX_TURN_S = 0.1
"""How long one that does not take what it is sent keeps its turn from the others."""


@dataclass(frozen=True, slots=True)
class EventBatch:
    """Matching events in order, at least one; together they fit one message."""

    events: tuple[PositionedEvent, ...]


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """A reader has reached the end of the log."""

    place: Place


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Nothing matched for a while; every matching event up to this place has been sent."""

    place: Place


Item = EventBatch | CaughtUp | Heartbeat


class _Turns:
    """Lets few subscribers catch up at a time, a page each, and none that stalls stand in the way of the others."""

    def __init__(self) -> None:
        self._free = asyncio.Semaphore(MAX_CATCHING_UP)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a turn. It lasts to the end of the block, but at most MAX_TURN_S."""
        await self._free.acquire()
        loop = asyncio.get_running_loop()
        ending: list[asyncio.TimerHandle] = []

        def end() -> None:
            if ending:
                ending.pop().cancel()
                self._free.release()

        ending.append(loop.call_later(MAX_TURN_S, end))
        try:
            yield
        finally:
            end()


class EventTail:
    """The newest events, read once for everybody who follows.

    It reads while somebody follows: when `news` says so, and every POLL_INTERVAL_S. Those who follow take from it what
    it keeps, and read the table where it keeps too little or cannot be relied upon; so a slow one costs memory to
    nobody, and all together they cost the queries of one.
    """

    def __init__(self, log: EventLog, news: Wakeup) -> None:
        self._log = log
        self._news = news
        self._followers = 0
        self._task: asyncio.Task[None] | None = None
        self._moved = Wakeup()
        self._turns = _Turns()
        self._log_id: str | None = None
        self._place = BEGINNING
        self._kept: dict[int, PositionedEvent] = {}

    @property
    def is_live(self) -> bool:
        """Whether it keeps the events that come."""
        return self._log_id is not None

    async def stop(self) -> None:
        """End reading; who follows goes on by reading the table."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        self._lose()

    def wake_followers(self) -> None:
        """Let everybody who follows look whether to stop."""
        self._moved.wake()

    async def follow(
        self,
        wanted: EventFilter,
        *,
        log_id: str,
        after: Place,
        heartbeat_s: float,
        from_now: bool = False,
        stopping: Callable[[], bool] = lambda: False,
    ) -> AsyncGenerator[Item]:
        """Every matching event after a place of the log, as it comes; `CaughtUp` at the end, `Heartbeat` when silent.

        With `from_now` the place is the end as the caller found it, and `CaughtUp` is said at once.

        Ends with a heartbeat once `stopping` says so and somebody wakes it. Raises `CursorMismatchError` when the log
        is replaced, `DatabaseUnavailableError` when it cannot be read.
        """
        self._followers += 1
        self._start()
        try:
            async for item in self._follow(wanted, log_id, after, heartbeat_s, from_now, stopping):
                yield item
        finally:
            self._followers -= 1

    async def _follow(
        self,
        wanted: EventFilter,
        log_id: str,
        place: Place,
        heartbeat_s: float,
        from_now: bool,
        stopping: Callable[[], bool],
    ) -> AsyncGenerator[Item]:
        clock = asyncio.get_running_loop().time
        last_sent = clock()
        matches = wanted.matcher()
        told_caught_up = from_now
        read_from_table = 0
        if from_now:
            yield CaughtUp(place)
        while not stopping():
            moved = self._moved.subscribe()
            page = self._page_after(place, log_id, matches)
            async with nullcontext() if page is not None else self._turns.turn():
                if page is None:
                    if stopping():
                        break  # while it waited for its turn
                    # Left behind by the tail, or at the end without one?
                    left_behind = self._log_id == log_id
                    limit = FIRST_PAGE if read_from_table < LATER_AFTER else LATER_PAGE
                    page = await self._log.read(wanted, after=place.position, limit=limit, log_id=log_id)
                    read_from_table += len(page.events)
                    told_caught_up = told_caught_up and page.reached_end and not left_behind
                else:
                    read_from_table = 0
                for batch in _batches(page.events):
                    yield EventBatch(batch)
                    last_sent = clock()
            place = page.place
            if not page.reached_end:
                continue
            if not told_caught_up:
                yield CaughtUp(place)
                told_caught_up = True
                last_sent = clock()
            silent_for = clock() - last_sent
            if silent_for >= heartbeat_s:
                yield Heartbeat(place)
                last_sent = clock()
                silent_for = 0.0
            if not stopping():
                remaining = heartbeat_s - silent_for
                await wait_at_most(moved, remaining if self._log_id == log_id else min(POLL_INTERVAL_S, remaining))
        yield Heartbeat(place)

    def _page_after(self, place: Place, log_id: str, matches: Callable[[ChallengeEvent], bool]) -> Page | None:
        """What is kept after a place, at most TAKEN_AT_ONCE; None when only the table knows."""
        end = self._place
        if self._log_id != log_id or place.position < end.position - len(self._kept):
            return None
        if place.position >= end.position:
            return Page((), place, reached_end=True)
        last = min(place.position + TAKEN_AT_ONCE, end.position)
        seen = [self._kept[position] for position in range(place.position + 1, last + 1)]
        reached_end = last == end.position
        wanted = tuple(positioned for positioned in seen if matches(positioned.event))
        return Page(wanted, end if reached_end else seen[-1].place, reached_end)

    def _start(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="event-tail")

    def _lose(self) -> None:
        self._log_id = None
        self._kept = {}
        self._moved.wake()

    async def _run(self) -> None:
        try:
            while self._followers:
                news = self._news.subscribe()
                try:
                    behind = await self._advance()
                except ChallengeError as error:
                    logger.debug("the tail of the log was lost: %s", error)
                    self._lose()
                    behind = False
                except Exception:
                    logger.exception("reading the tail of the log failed")
                    self._lose()
                    behind = False
                if not behind:
                    await wait_at_most(news, POLL_INTERVAL_S)
        finally:
            self._lose()

    async def _advance(self) -> bool:
        """Read what is new; whether there is more."""
        if self._log_id is None:
            end = await self._log.end()
            self._log_id, self._place, self._kept = end.log_id, end.place, {}
            self._moved.wake()
            return False
        page = await self._log.read(ALL_EVENTS, after=self._place.position, limit=LATER_PAGE, log_id=self._log_id)
        if page.events:
            self._kept.update((positioned.position, positioned) for positioned in page.events)
            for position in list(islice(self._kept, max(0, len(self._kept) - MAX_KEPT))):
                del self._kept[position]
            self._place = page.place
            self._moved.wake()
        return not page.reached_end


def _batches(events: tuple[PositionedEvent, ...]) -> list[tuple[PositionedEvent, ...]]:
    """The events in portions that fit one message."""
    batches = []
    while events:
        count = fitting(events, lambda positioned: positioned.event.terms)
        batches.append(events[:count])
        events = events[count:]
    return batches


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
                    await connection.execute(f"LISTEN {NOTIFY_CHANNEL}")
                    self._news.wake()
                    async for _ in connection.notifies():
                        self._news.wake()
            except UNAVAILABLE as error:
                logger.debug("the listening connection was lost: %s", type(error).__name__)
            except Exception:
                logger.exception("listening failed")
            await asyncio.sleep(POLL_INTERVAL_S)
