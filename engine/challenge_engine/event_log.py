"""Reads the log of events: pages by position, and cursors."""

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass

from challenge_engine import queries, rows
from challenge_engine.database import Database
from challenge_engine.paging import fitting
from challenge_engine.tokens import seal, sealing_scope, unseal, unseal_page
from challenge_rules import ChallengeEvent, ChallengeStatus
from challenge_rules.errors import CursorMismatchError

logger = logging.getLogger(__name__)

CURSOR = "cursor"
EVENTS = "events"
MARK_BYTES = 8


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events a reader wants; empty means all. CHALLENGE_CREATED counts as PENDING."""

    challenge_ids: tuple[str, ...] = ()
    new_statuses: tuple[ChallengeStatus, ...] = ()

    def scope(self) -> list[list[str]]:
        """What a token of this filter is bound to: the same for the same filter in another order."""
        return [sorted(set(self.challenge_ids)), sorted({status.value for status in self.new_statuses})]

    def matcher(self) -> Callable[[ChallengeEvent], bool]:
        """What tells whether an event is wanted, as the database would."""
        challenge_ids, new_statuses = frozenset(self.challenge_ids), frozenset(self.new_statuses)
        return lambda event: (
            (not challenge_ids or event.challenge_id in challenge_ids)
            and (not new_statuses or event.new_status in new_statuses)
        )


ALL_EVENTS = EventFilter()


@dataclass(frozen=True, slots=True)
class Place:
    """A place in a log: right behind an event, or before the first one at position 0.

    The mark is a digest of that event. A log that was restored to an earlier moment may hold another one there by now.
    """

    position: int
    mark: str


BEGINNING = Place(0, "")


@dataclass(frozen=True, slots=True)
class PositionedEvent:
    """An event with its place in the log."""

    position: int
    event: ChallengeEvent

    @property
    def place(self) -> Place:
        """Right behind the event."""
        event = self.event
        return Place(self.position, _mark(event.challenge_id, event.challenge_sequence, event.recorded_at))


@dataclass(frozen=True, slots=True)
class LogEnd:
    """The identity of a log, and its end."""

    log_id: str
    place: Place


@dataclass(frozen=True, slots=True)
class Page:
    """Events in order, and the place up to which every matching event has been read."""

    events: tuple[PositionedEvent, ...]
    place: Place
    reached_end: bool


class EventLog:
    """The positioned events."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def end(self) -> LogEnd:
        """The end of the log as it is now."""
        found = await self._database.fetch(queries.LOG_END)
        if not found:
            await self._settle()
            found = await self._database.fetch(queries.LOG_END)
        ((log_id, position, *event),) = found
        return LogEnd(log_id, Place(position, _mark(*event)) if position else BEGINNING)

    async def place_at(self, position: int) -> Place | None:
        """The place behind the event at a position; None when there is no such event."""
        if position == 0:
            return BEGINNING
        found = await self._database.fetch(queries.LOG_AT, {"position": position})
        return Place(position, _mark(*found[0])) if found else None

    async def read(self, wanted: EventFilter, *, after: int, limit: int, log_id: str | None = None) -> Page:
        """At most `limit` matching events after a position.

        With `log_id` a reader who goes on says which log it has been reading: `CursorMismatchError` when this is
        another one by now, or has become shorter, so that its positions mean other events.
        """
        end = await self.end()
        if log_id is not None and (end.log_id != log_id or end.place.position < after):
            raise CursorMismatchError("the log was replaced by another one, whose positions mean other events")
        last = end.place.position
        if last <= after:
            return Page((), end.place, reached_end=True)
        positions = queries.EVENTS_BETWEEN
        parameters: dict[str, object] = {"after": after, "limit": limit, "last": last}
        if wanted.new_statuses:
            positions = queries.EVENTS_WITH_STATUS
            parameters["new_statuses"] = sorted({status.value for status in wanted.new_statuses})
        if wanted.challenge_ids:
            positions = (
                queries.EVENTS_OF_CHALLENGES_WITH_STATUS if wanted.new_statuses else queries.EVENTS_OF_CHALLENGES
            )
            parameters["challenge_ids"] = list(wanted.challenge_ids)
        found = await self._database.fetch(queries.LIST_EVENTS.format(positions=positions), parameters)
        events = tuple(PositionedEvent(row[0], rows.event_from_row(row[1:])) for row in found)
        if len(events) == limit:
            return Page(events, events[-1].place, reached_end=events[-1].position == last)
        return Page(events, end.place, reached_end=True)

    async def page(self, wanted: EventFilter, *, after: int, limit: int, page_token: str) -> tuple[Page, str]:
        """A page of matching events, and the token of the next page (empty on the last)."""
        scope = [(await self.end()).log_id, wanted.scope(), after]
        if page_token:
            (after,) = unseal_page(EVENTS, scope, page_token)
        page = await self.read(wanted, after=after, limit=limit)
        count = fitting(page.events, lambda positioned: positioned.event.terms)
        if count < len(page.events):
            page = Page(page.events[:count], page.events[count - 1].place, reached_end=False)
        return page, "" if page.reached_end else seal(EVENTS, scope, [page.place.position])

    async def place_of(self, wanted: EventFilter, cursor: str) -> Place:
        """The place a cursor stands for; `CursorMismatchError` when it is not one of this log and filter."""
        end = await self.end()
        try:
            position, *marks = unseal(CURSOR, [end.log_id, wanted.scope()], cursor)
        except ValueError:
            raise CursorMismatchError from None
        place = await self.place_at(position)
        if place is None:
            raise CursorMismatchError("the cursor is ahead of this log, which must be another one")
        if marks and marks != [place.mark]:
            raise CursorMismatchError("the log has another event at this cursor's place: it was restored in between")
        return place

    async def _settle(self) -> None:
        """Let the log take note of where it lives, under a new identity if it has lived elsewhere."""
        async with self._database.connection() as connection:
            await connection.execute(queries.LOCK_LOG)
            moved = await connection.execute(queries.MOVE_LOG)
            await connection.commit()
        if moved.rowcount:
            logger.info("the log of events took note of its place; cursors of a log that lived elsewhere end here")


def cursors(log_id: str, wanted: EventFilter) -> Callable[[Place], str]:
    """What turns a place in a log under a filter into the opaque text that stands for it."""
    scope = sealing_scope([log_id, wanted.scope()])
    return lambda place: seal(CURSOR, scope, [place.position, place.mark])


def _mark(challenge_id: str, challenge_sequence: int, recorded_at: int) -> str:
    text = f"{challenge_id}/{challenge_sequence}/{recorded_at}"
    return hashlib.blake2b(text.encode(), digest_size=MARK_BYTES).hexdigest()
