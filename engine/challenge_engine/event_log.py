"""Reads the log of events: pages by position, cursors, and what follows."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from challenge_engine import queries, rows
from challenge_engine.database import UNAVAILABLE, Database
from challenge_engine.paging import fitting
from challenge_engine.tokens import seal, sealing_scope, unseal, unseal_page
from challenge_engine.wakeup import Wakeup, wait_at_most
from challenge_rules import ChallengeEvent, ChallengeStatus
from challenge_rules.errors import CursorMismatchError

logger = logging.getLogger(__name__)

POLL_INTERVAL_S = 0.5
PAGE_SIZE = 200
CURSOR = "cursor"
EVENTS = "events"


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events a reader wants; empty means all. CHALLENGE_CREATED counts as PENDING."""

    challenge_ids: tuple[str, ...] = ()
    new_statuses: tuple[ChallengeStatus, ...] = ()

    def scope(self) -> list[list[str]]:
        """What a token of this filter is bound to: the same for the same filter in another order."""
        return [sorted(set(self.challenge_ids)), sorted({status.value for status in self.new_statuses})]


@dataclass(frozen=True, slots=True)
class PositionedEvent:
    """An event with its place in the log."""

    position: int
    event: ChallengeEvent


@dataclass(frozen=True, slots=True)
class Page:
    """Events in order, and the position up to which every matching event has been read."""

    events: tuple[PositionedEvent, ...]
    position: int
    reached_end: bool


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """A reader has reached the end of the log at this position."""

    position: int


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Nothing matched for a while; every matching event up to this position has been sent."""

    position: int


class EventLog:
    """The positioned events. `news` wakes those who follow; they also look every POLL_INTERVAL_S."""

    def __init__(self, database: Database, news: Wakeup) -> None:
        self._database = database
        self._news = news
        self._log_id: str | None = None

    async def last_position(self) -> int:
        """The position of the newest event, 0 when there is none."""
        ((position,),) = await self._database.fetch(queries.LAST_POSITION)
        return int(position)

    async def read(self, wanted: EventFilter, *, after: int, limit: int) -> Page:
        """At most `limit` matching events after a position."""
        conditions = ""
        parameters: dict[str, object] = {"after": after, "limit": limit}
        if wanted.challenge_ids:
            conditions += queries.EVENTS_OF_CHALLENGES
            parameters["challenge_ids"] = list(wanted.challenge_ids)
        if wanted.new_statuses:
            conditions += queries.EVENTS_WITH_STATUS
            parameters["new_statuses"] = [status.value for status in wanted.new_statuses]
        last = parameters["last"] = await self.last_position()
        if last <= after:
            return Page((), after, reached_end=True)
        found = await self._database.fetch(queries.LIST_EVENTS.format(conditions=conditions), parameters)
        events = tuple(PositionedEvent(row[0], rows.event_from_row(row[1:])) for row in found)
        if len(events) == limit:
            return Page(events, events[-1].position, reached_end=events[-1].position == last)
        return Page(events, last, reached_end=True)

    async def page(self, wanted: EventFilter, *, after: int, limit: int, page_token: str) -> tuple[Page, str]:
        """A page of matching events, and the token of the next page (empty on the last)."""
        scope = [await self._scope(wanted), after]
        if page_token:
            (after,) = unseal_page(EVENTS, scope, page_token)
        page = await self.read(wanted, after=after, limit=limit)
        count = fitting(page.events, lambda positioned: positioned.event.terms)
        if count < len(page.events):
            page = Page(page.events[:count], page.events[count - 1].position, reached_end=False)
        return page, "" if page.reached_end else seal(EVENTS, scope, [page.position])

    async def follow(
        self,
        wanted: EventFilter,
        *,
        after: int,
        heartbeat_s: float,
        from_now: bool = False,
        stopping: Callable[[], bool] = lambda: False,
    ) -> AsyncIterator[PositionedEvent | CaughtUp | Heartbeat]:
        """Every matching event after a position, as it comes; `CaughtUp` at the end, `Heartbeat` when silent.

        With `from_now` the position is the end as the caller found it, and `CaughtUp` is said at once.

        Ends with a heartbeat once `stopping` says so and `news` wakes it. Reads the table alone, so that nothing is
        lost, whoever wrote it.
        """
        position = after
        clock = asyncio.get_running_loop().time
        last_sent = clock()
        told_caught_up = from_now
        if from_now:
            yield CaughtUp(position)
        while not stopping():
            news = self._news.subscribe()
            page = await self.read(wanted, after=position, limit=PAGE_SIZE)
            for event in page.events:
                yield event
            position = page.position
            if page.events:
                last_sent = clock()
            if not page.reached_end:
                told_caught_up = False
                continue
            if not told_caught_up:
                yield CaughtUp(position)
                told_caught_up = True
                last_sent = clock()
            silent_for = clock() - last_sent
            if silent_for >= heartbeat_s:
                yield Heartbeat(position)
                last_sent = clock()
                silent_for = 0.0
            if not stopping():
                await wait_at_most(news, min(POLL_INTERVAL_S, heartbeat_s - silent_for))
        yield Heartbeat(position)

    async def cursors(self, wanted: EventFilter) -> Callable[[int], str]:
        """What turns a position of this log under this filter into the opaque text that stands for it."""
        scope = sealing_scope(await self._scope(wanted))
        return lambda position: seal(CURSOR, scope, [position])

    async def position_of(self, wanted: EventFilter, cursor: str) -> int:
        """The position a cursor stands for; `CursorMismatchError` when it is not one of this log and filter."""
        try:
            (position,) = unseal(CURSOR, await self._scope(wanted), cursor)
        except ValueError:
            raise CursorMismatchError from None
        if position > await self.last_position():
            raise CursorMismatchError("the cursor is ahead of this log, which must be another one")
        return int(position)

    async def _scope(self, wanted: EventFilter) -> list[object]:
        if self._log_id is None:
            ((self._log_id,),) = await self._database.fetch(queries.LOG_ID)
        return [self._log_id, wanted.scope()]


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
                    await connection.execute(f"LISTEN {queries.NOTIFY_CHANNEL}")
                    self._news.wake()
                    async for _ in connection.notifies():
                        self._news.wake()
            except UNAVAILABLE as error:
                logger.debug("the listening connection was lost: %s", type(error).__name__)
            except Exception:
                logger.exception("listening failed")
            await asyncio.sleep(POLL_INTERVAL_S)
