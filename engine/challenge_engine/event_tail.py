"""Follows the log of events: one reader for all the subscribers of a process."""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from itertools import islice

from challenge_engine.activity import Activity
from challenge_engine.event_log import BEGINNING, EventFilter, EventLog, Page, Place, PositionedEvent
from challenge_engine.paging import fitting
from challenge_engine.turns import Turns
from challenge_engine.wakeup import Wakeup, wait_at_most
from challenge_rules import ChallengeError
from challenge_rules.errors import CursorMismatchError

logger = logging.getLogger(__name__)

POLL_INTERVAL_S = 0.5
MAX_KEPT = 2048
"""So many of the newest events are kept for all subscribers together; who is further behind reads the table."""
TAKEN_AT_ONCE = 64
"""A subscriber is handed no more events than this at a time, and holds no more while its caller takes them."""
MAX_BATCH_BYTES = 128 * 1024
"""Nor more than this, as far as labels and such make events large; one event may be larger."""
FIRST_PAGE = 100
LATER_PAGE = 500
LATER_AFTER = 1000
"""Who has read so many events from the table without stalling is quick, and gets larger pages unless trades come in."""
BUSY_PIECE = 10
"""While trades come in, so many events are handed over at a time: about a millisecond's work, one to a message."""
MAX_STARTING = 4
"""So many callers look up at a time where their stream begins."""


@dataclass(frozen=True, slots=True)
class EventBatch:
    """Matching events in order, at least one and at most TAKEN_AT_ONCE; together they fit one message.

    Those that are `shared` are handed, as the very same objects, to everybody who follows.
    """

    events: tuple[PositionedEvent, ...]
    shared: bool = False


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """A reader has reached the end of the log."""

    place: Place


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Nothing matched for a while; every matching event up to this place has been sent."""

    place: Place


Item = EventBatch | CaughtUp | Heartbeat


class EventTail:
    """The newest events, read once for everybody who follows.

    It reads while somebody has reached the end of the log: when `news` says so, and every POLL_INTERVAL_S. Those who
    follow take from it what it keeps, and read the table where it keeps too little or cannot be relied upon; so a slow
    one costs memory to nobody, and all together they cost the queries of one. Those who read the table take turns, and
    let the activity of others go first.
    """

    def __init__(self, log: EventLog, news: Wakeup, *, gives_way_to: Activity | None = None) -> None:
        self._log = log
        self._connection = log.connection_to_follow()
        self._news = news
        self._at_end = 0
        self._is_stopped = False
        self._task: asyncio.Task[None] | None = None
        self._moved = Wakeup()
        self._turns = Turns(gives_way_to or Activity())
        self._starts = Turns(gives_way_to or Activity(), at_once=MAX_STARTING)
        self._log_id: str | None = None
        self._place = BEGINNING
        self._kept: dict[int, PositionedEvent] = {}

    @property
    def is_live(self) -> bool:
        """Whether it keeps the events that come."""
        return self._log_id is not None

    async def stop(self) -> None:
        """End reading, for good; who follows goes on by reading the table."""
        self._is_stopped = True
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        await self._connection.close()
        self._lose()

    def wake_followers(self) -> None:
        """Let everybody who follows look whether to stop."""
        self._moved.wake()

    @asynccontextmanager
    async def starting(self) -> AsyncIterator[None]:
        """For what a caller has to look up before it follows: a few at a time and between trades, however many come."""
        with self._starts.ask() as turn:
            await turn.comes()
            await self._starts.give_way()
            yield

    async def follow(
        self,
        wanted: EventFilter,
        *,
        log_id: str,
        after: Place,
        end: int,
        heartbeat_s: float,
        from_now: bool = False,
        stopping: Callable[[], bool] = lambda: False,
    ) -> AsyncGenerator[Item]:
        """Every matching event after a place of the log, as it comes; `CaughtUp` at the end, `Heartbeat` when silent.

        `end` is the last position as the caller found it: nobody has caught up before that. With `from_now` it is also
        the place to begin after, and `CaughtUp` is said at once.

        Ends with a heartbeat once `stopping` says so and somebody wakes it. Raises `CursorMismatchError` when the log
        is replaced, `DatabaseUnavailableError` when it cannot be read.
        """
        follower = _Follower(self, wanted, log_id, after, end, heartbeat_s, stopping)
        try:
            async with aclosing(follower.items(from_now)) as items:
                async for item in items:
                    yield item
        finally:
            follower.leave_end()

    def _has_reached(self, log_id: str, known_end: int) -> bool:
        """Whether the tail can be relied upon by one who knows that the log goes up to a position."""
        return self._log_id == log_id and self._place.position >= known_end

    def _knows_after(self, place: Place, log_id: str, known_end: int) -> bool:
        """Whether the tail keeps everything after a place."""
        return self._has_reached(log_id, known_end) and place.position >= self._place.position - len(self._kept)

    def _is_far_ahead_of(self, place: Place, log_id: str, known_end: int) -> bool:
        """Whether the tail is live, and further than it could keep what lies between."""
        return self._has_reached(log_id, known_end) and place.position < self._place.position - MAX_KEPT

    def _page_after(
        self, place: Place, log_id: str, known_end: int, matches: Callable[[PositionedEvent], bool]
    ) -> Page | None:
        """What is kept after a place, at most TAKEN_AT_ONCE; None when only the table knows."""
        end = self._place
        if not self._knows_after(place, log_id, known_end):
            return None
        if place.position >= end.position:
            return Page((), place, reached_end=True, end=end.position)
        last = min(place.position + TAKEN_AT_ONCE, end.position)
        seen = [self._kept[position] for position in range(place.position + 1, last + 1)]
        seen = seen[: fitting(seen, _size_of_terms, MAX_BATCH_BYTES)]
        reached_end = seen[-1].position == end.position
        wanted = tuple(positioned for positioned in seen if matches(positioned))
        return Page(wanted, end if reached_end else seen[-1].place, reached_end, end.position)

    def _join(self) -> None:
        """Somebody has reached the end, and relies on being told what comes."""
        self._at_end += 1
        if not self._is_stopped and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._run(), name="event-tail")

    def _leave(self) -> None:
        self._at_end -= 1

    def _lose(self) -> None:
        self._log_id = None
        self._kept = {}
        self._moved.wake()

    async def _run(self) -> None:
        try:
            while self._at_end:
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
        page = await self._log.read_new(
            self._connection, after=self._place.position, limit=LATER_PAGE, log_id=self._log_id
        )
        if page.events:
            self._kept.update((positioned.position, positioned) for positioned in page.events)
            for position in list(islice(self._kept, max(0, len(self._kept) - MAX_KEPT))):
                del self._kept[position]
            self._place = page.place
            self._moved.wake()
        return not page.reached_end


class _Follower:
    """One who follows: where it stands in the log, and what it was told last."""

    def __init__(
        self,
        tail: EventTail,
        wanted: EventFilter,
        log_id: str,
        place: Place,
        known_end: int,
        heartbeat_s: float,
        stopping: Callable[[], bool],
    ) -> None:
        self._tail = tail
        self._wanted = wanted
        self._matches = wanted.matcher()
        self._log_id = log_id
        self._place = place
        self._known_end = known_end
        self._heartbeat_s = heartbeat_s
        self._stopping = stopping
        self._clock = asyncio.get_running_loop().time
        self._last_told_at = self._clock()
        self._told_caught_up = False
        self._reached_end = False
        self._read_from_table = 0
        self._is_slow = False
        self._is_at_end = False

    def reach_end(self) -> None:
        """From now on it is for the tail to tell what comes."""
        if not self._is_at_end:
            self._is_at_end = True
            self._tail._join()

    def leave_end(self) -> None:
        """It is over, or has fallen behind what the tail keeps, which need not read on for its sake."""
        if self._is_at_end:
            self._is_at_end = False
            self._tail._leave()

    async def items(self, from_now: bool) -> AsyncGenerator[Item]:
        """See `EventTail.follow`."""
        if from_now:
            self._told_caught_up = True
            self.reach_end()
            yield CaughtUp(self._place)
        while not self._stopping():
            moved = self._tail._moved.subscribe()
            page = self._tail._page_after(self._place, self._log_id, self._known_end, self._matches)
            if page is None:
                async with aclosing(self._from_table()) as items:
                    async for item in items:
                        yield item
                        self._last_told_at = self._clock()
            else:
                self._read_from_table, self._is_slow = 0, False
                if page.events:
                    yield EventBatch(page.events, shared=True)
                    self._last_told_at = self._clock()
                self._place, self._reached_end = page.place, page.reached_end
            if not self._reached_end or self._place.position < self._known_end:
                continue
            self.reach_end()
            if not self._told_caught_up:
                self._told_caught_up = True
                yield CaughtUp(self._place)
                self._last_told_at = self._clock()
            if self._silence_left_s() <= 0:
                yield Heartbeat(self._place)
                self._last_told_at = self._clock()
            if not self._stopping():
                relies_on_tail = self._tail._has_reached(self._log_id, self._known_end)
                silence_left_s = self._silence_left_s()
                await wait_at_most(moved, silence_left_s if relies_on_tail else min(POLL_INTERVAL_S, silence_left_s))
        yield Heartbeat(self._place)

    def _silence_left_s(self) -> float:
        return self._last_told_at + self._heartbeat_s - self._clock()

    async def _from_table(self) -> AsyncGenerator[Item]:
        """A page of the table, when its turn has come; heartbeats if that takes long."""
        with self._tail._turns.ask() as turn:
            while not await turn.has_come(self._silence_left_s()):
                yield Heartbeat(self._place)
            await self._tail._turns.give_way()
            if self._stopping() or self._tail._knows_after(self._place, self._log_id, self._known_end):
                # It is as well told from what is kept by now.
                self._reached_end = False
                return
            page = await self._read_page()
            batches = _batches(page.events, BUSY_PIECE if self._tail._turns.is_busy else TAKEN_AT_ONCE)
            # What is dropped when the turn is lost must not be held here.
            page = replace(page, events=())
            if self._is_slow:
                turn.end()
            while batches:
                await self._tail._turns.give_way()
                batch = batches.popleft()
                turn.hand_over(batches)
                yield EventBatch(batch)
                turn.handed_over()
                self._place = batch[-1].place
            self._is_slow = turn.was_lost
            if turn.was_lost:
                self._read_from_table, self._reached_end = 0, False
            else:
                self._place, self._reached_end = page.place, page.reached_end

    async def _read_page(self) -> Page:
        # Left behind by the tail? One that has just begun keeps little, but is not far ahead.
        left_behind = self._tail._is_far_ahead_of(self._place, self._log_id, self._known_end)
        if left_behind:
            self.leave_end()
        is_quick = self._read_from_table >= LATER_AFTER and not self._is_slow and not self._tail._turns.is_busy
        limit = LATER_PAGE if is_quick else FIRST_PAGE
        page = await self._tail._log.read(self._wanted, after=self._place.position, limit=limit, log_id=self._log_id)
        if page.end < self._known_end:
            raise CursorMismatchError("the log has become shorter: its positions mean other events")
        self._known_end = page.end
        self._told_caught_up = self._told_caught_up and page.reached_end and not left_behind
        self._read_from_table += len(page.events)
        return page


def _size_of_terms(positioned: PositionedEvent) -> int:
    return positioned.size_of_terms


def _batches(events: tuple[PositionedEvent, ...], at_most: int) -> deque[tuple[PositionedEvent, ...]]:
    """The events in portions that are small enough to be held by one who stalls."""
    batches: deque[tuple[PositionedEvent, ...]] = deque()
    while events:
        some = events[:at_most]
        count = fitting(some, _size_of_terms, MAX_BATCH_BYTES)
        batches.append(some[:count])
        events = events[count:]
    return batches
