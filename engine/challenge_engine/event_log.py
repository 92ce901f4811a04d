"""Reads the log of events: pages by position, and cursors."""

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import psycopg

from challenge_engine import queries, rows
from challenge_engine.database import READ_ATTEMPTS, UNAVAILABLE, Database, WriterConnection, brief
from challenge_engine.paging import fitting
from challenge_engine.tokens import Sealer, seal, unseal, unseal_page
from challenge_rules import ChallengeEvent, ChallengeStatus
from challenge_rules.errors import CursorMismatchError, DatabaseUnavailableError

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

    def matcher(self) -> "Callable[[PositionedEvent], bool]":
        """What tells whether an event is wanted, as the database would."""
        challenge_ids, new_statuses = frozenset(self.challenge_ids), frozenset(map(str, self.new_statuses))
        return lambda positioned: (
            (not challenge_ids or positioned.stored.challenge_id in challenge_ids)
            and (not new_statuses or positioned.stored.new_status in new_statuses)
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
    stored: rows.StoredEvent

    @property
    def event(self) -> ChallengeEvent:
        """The event, made of what was stored each time one asks."""
        return rows.event_from_row(self.stored)

    @property
    def place(self) -> Place:
        """Right behind the event."""
        stored = self.stored
        return Place(self.position, _mark(stored.challenge_id, stored.challenge_sequence, stored.recorded_at))

    @property
    def size_of_terms(self) -> int:
        """What its terms, which hold the labels, take; in bytes, and 0 for all events but creations."""
        return len(self.stored.terms.encode()) if self.stored.terms else 0


@dataclass(frozen=True, slots=True)
class LogEnd:
    """The identity of a log, and its end."""

    log_id: str
    place: Place


@dataclass(frozen=True, slots=True)
class Page:
    """Events in order, the place up to which every matching event has been read, and the log's last position then."""

    events: tuple[PositionedEvent, ...]
    place: Place
    reached_end: bool
    end: int


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
        return _end(found[0])

    async def place_at(self, position: int) -> Place | None:
        """The place behind the event at a position; None when there is no such event."""
        if position == 0:
            return BEGINNING
        found = await self._database.fetch(queries.LOG_AT, {"position": position})
        return Place(position, _mark(*found[0])) if found else None

    def connection_to_follow(self) -> WriterConnection:
        """A connection for `read_new`, to be closed by its owner."""
        return WriterConnection(self._database, queries.PREPARED_TO_FOLLOW)

    async def read_new(self, connection: WriterConnection, *, after: int, limit: int, log_id: str) -> Page:
        """As `read` of all events, in one message on a connection of the caller's that has `PREPARED_TO_FOLLOW`."""
        for attempt in range(1, READ_ATTEMPTS + 1):
            try:
                async with connection.use() as session:
                    cursor = psycopg.AsyncClientCursor(session)
                    await cursor.execute(queries.FOLLOW_LOG, (after, limit))
                    ends = await cursor.fetchall()
                    cursor.nextset()
                    found = await cursor.fetchall()
            except UNAVAILABLE as error:
                logger.warning("the log was not read (attempt %d of %d): %s", attempt, READ_ATTEMPTS, brief(error))
            else:
                if not ends:
                    return await self.read(ALL_EVENTS, after=after, limit=limit, log_id=log_id)
                end = _end(ends[0])
                _require_same(end, log_id, after)
                return _page(found, end, limit)
        raise DatabaseUnavailableError

    async def read(self, wanted: EventFilter, *, after: int, limit: int, log_id: str | None = None) -> Page:
        """At most `limit` matching events after a position.

        With `log_id` a reader who goes on says which log it has been reading: `CursorMismatchError` when this is
        another one by now, or has become shorter, so that its positions mean other events.
        """
        end = await self.end()
        if log_id is not None:
            _require_same(end, log_id, after)
        last = end.place.position
        if last <= after:
            return Page((), end.place, reached_end=True, end=last)
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
        return _page(found, end, limit)

    async def page(self, wanted: EventFilter, *, after: int, limit: int, page_token: str) -> tuple[Page, str]:
        """A page of matching events, and the token of the next page (empty on the last)."""
        scope = [(await self.end()).log_id, wanted.scope(), after]
        if page_token:
            (after,) = unseal_page(EVENTS, scope, page_token)
        page = await self.read(wanted, after=after, limit=limit)
        count = fitting(page.events, lambda positioned: positioned.size_of_terms)
        if count < len(page.events):
            page = replace(page, events=page.events[:count], place=page.events[count - 1].place, reached_end=False)
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
        try:
            async with self._database.connection() as connection:
                await connection.execute(queries.LOCK_LOG)
                moved = await connection.execute(queries.MOVE_LOG)
                await connection.commit()
        except UNAVAILABLE as error:
            logger.warning("the log could not take note of its place: %s", brief(error))
            raise DatabaseUnavailableError from None
        except psycopg.errors.InsufficientPrivilege:
            raise DatabaseUnavailableError(
                "the log of events has yet to take note of its new place, which a service does when it starts"
            ) from None
        if moved.rowcount:
            logger.info("the log of events took note of its place; cursors of a log that lived elsewhere end here")


def _end(row: rows.Row) -> LogEnd:
    log_id, position, *event = row
    return LogEnd(log_id, Place(position, _mark(*event)) if position else BEGINNING)


def _require_same(end: LogEnd, log_id: str, after: int) -> None:
    if end.log_id != log_id or end.place.position < after:
        raise CursorMismatchError("the log was replaced by another one, whose positions mean other events")


def _page(found: Sequence[rows.Row], end: LogEnd, limit: int) -> Page:
    """A page of what was found after a look at the end; it may hold events that came after that look."""
    events = tuple(PositionedEvent(row[0], rows.StoredEvent._make(row[1:])) for row in found)
    place = end.place
    if events and (len(events) == limit or events[-1].position > place.position):
        place = events[-1].place
    return Page(events, place, place.position >= end.place.position, max(end.place.position, place.position))


class Cursors:
    """Turns places in a log, under a filter, into the opaque texts that stand for them."""

    def __init__(self, log_id: str, wanted: EventFilter) -> None:
        self._sealer = Sealer(CURSOR, [log_id, wanted.scope()])

    @property
    def key(self) -> bytes:
        """The same for all whose log and filter are the same: they are told the same cursors."""
        return self._sealer.key

    def at(self, place: Place) -> str:
        """The cursor that stands for a place."""
        return self._sealer.seal([place.position, place.mark])


def _mark(challenge_id: str, challenge_sequence: int, recorded_at: int) -> str:
    text = f"{challenge_id}/{challenge_sequence}/{recorded_at}"
    return hashlib.blake2b(text.encode(), digest_size=MARK_BYTES).hexdigest()
