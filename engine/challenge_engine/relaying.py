"""Brings the log of events to a sink outside: at least once, in order per challenge, one relay at a time.

A relay reads a page of the log, has the sink take it, and only then stores its cursor. One that dies in between sends
the page again, so a sink may be given an event twice, under the same position; it is never left out. Who may work is
settled by an advisory lock of a session that also writes the cursor: when the session is lost, so is the claim.
"""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, cast

import psycopg
from psycopg.rows import TupleRow
from sqlalchemy.engine import URL

from challenge_engine import relay_queries
from challenge_engine.database import (
    UNAVAILABLE,
    Connection,
    Database,
    brief,
    check_usable,
    cut,
)
from challenge_engine.event_log import ALL_EVENTS, EventLog, PositionedEvent
from challenge_engine.wakeup import Wakeup, wait_at_most
from challenge_rules.errors import CursorMismatchError, DatabaseUnavailableError

logger = logging.getLogger(__name__)

PAGE_SIZE = 200
POLL_INTERVAL_S = 0.5
TAKEOVER_INTERVAL_S = 1.0
"""How often a relay that waits looks whether the one at work is gone."""
ANSWER_TIMEOUT_S = 10.0
"""A session of the database that has not answered for so long counts as lost."""
MIN_PAUSE_S = 0.2
MAX_PAUSE_S = 15.0
ONCE_ATTEMPTS = 5
"""So often a relay that runs once tries in vain before it gives up; others never do."""
STOP_GRACE_S = 10.0
"""How long a page that is on its way when the relay is stopped may take."""
PROGRESS_INTERVAL_S = 10.0
MAX_NAME_LENGTH = 200


class RelayError(RuntimeError):
    """The relay cannot go on as things are; the message says what to do."""


class SinkError(Exception):
    """The sink has not taken what it was given, or has not said so; it may later. The message holds no secret."""


class SinkLostEventsError(SinkError):
    """The sink has lost what it had confirmed after a position."""

    def __init__(self, position: int) -> None:
        super().__init__(f"it has lost the events after position {position}, which it had confirmed")
        self.position = position


class Sink(Protocol):
    """Where a relay brings the events.

    It may be given events again, alone or among others, after an error or by another process.
    """

    async def publish(self, log_id: str, events: Sequence[PositionedEvent]) -> None:
        """Return once all these events, which are in log order, are safely there.

        An event must not get there before those of its challenge that come before it. Raises `SinkError` when it makes
        sense to try again, and `RelayError` when it does not. May be cancelled.
        """

    async def close(self) -> None:
        """Let go of the connection; the sink is not used again."""


@dataclass(frozen=True, slots=True)
class RelayOrder:
    """What a relay is to do.

    `sink` is the name under which the cursor is stored; `start` the position after which a sink begins that has no
    cursor yet. With `reset` it begins there in any case. With `once` the relay ends when the end of the log is reached.
    """

    sink: str
    start: int = 0
    reset: bool = False
    once: bool = False

    def __post_init__(self) -> None:
        if not self.sink or len(self.sink) > MAX_NAME_LENGTH or not self.sink.isprintable():
            raise RelayError(f"the name of a sink must have 1 to {MAX_NAME_LENGTH} printable characters")


class ClaimLostError(Exception):
    """The cursor is not where this relay left it, or its session has ended: another relay may be at work."""


_LOST = (*UNAVAILABLE, DatabaseUnavailableError, ClaimLostError)


class Claim:
    """The right to bring events to one sink, and the cursor; both on one session, and lost with it."""

    def __init__(self, connection: Connection, sink: str, log_id: str, position: int) -> None:
        self._connection = connection
        self._sink = sink
        self.log_id = log_id
        self.position = position

    async def check(self) -> None:
        """Raise `ClaimLostError`, or what the database raises, unless the claim still holds."""
        if not (await _execute(self._connection, relay_queries.CURSOR_IS, self._cursor())).rowcount:
            raise ClaimLostError("the cursor was moved by somebody else")

    async def move(self, to: int) -> None:
        """Store that the sink has everything up to a position. Raises as `check` does."""
        moved = await _execute(self._connection, relay_queries.MOVE_CURSOR, {**self._cursor(), "to": to})
        if not moved.rowcount:
            raise ClaimLostError("the cursor was moved by somebody else")
        self.position = to

    def _cursor(self) -> dict[str, object]:
        return {"sink": self._sink, "log_id": self.log_id, "position": self.position}


class Relay:
    """Brings the log to a sink until it is stopped. `news` wakes it; it also looks every POLL_INTERVAL_S."""

    def __init__(self, database: Database, news: Wakeup, sink: Sink, order: RelayOrder) -> None:
        self._database = database
        self._log = EventLog(database)
        self._news = news
        self._sink = sink
        self._order = order
        self._reset = order.reset
        self._database_trouble = Trouble("the database cannot be used", order)
        self._sink_trouble = Trouble(f"{order.sink} does not take events", order)
        self._told_position = 0
        self._told_at = 0.0

    async def run(self, stop: asyncio.Event) -> int:
        """Work until `stop` is set, or with `once` until the end of the log; returns the position that was reached.

        A database or a sink that is away is waited for. Raises `RelayError` where waiting does not help.
        """
        position = 0
        try:
            while not stop.is_set():
                try:
                    async with self._claimed(stop) as claim:
                        if claim is None:
                            break
                        try:
                            await self._work(claim, stop)
                            return claim.position
                        finally:
                            position = claim.position
                except _LOST as error:
                    await self._database_trouble.pause(brief(error), stop)
                except CursorMismatchError:
                    raise RelayError(_other_log(self._order.sink)) from None
        finally:
            await self._sink.close()
        return position

    @asynccontextmanager
    async def _claimed(self, stop: asyncio.Event) -> AsyncIterator[Claim | None]:
        """The claim on the sink, waited for while another relay has it; None when stopped meanwhile."""
        connection = await self._database.open()
        try:
            timeout = {"timeout": f"{ANSWER_TIMEOUT_S:.0f}s"}
            await _execute(connection, relay_queries.CONFIGURE_CLAIM, timeout)
            yield await self._begin(connection) if await self._have_lock(connection, stop) else None
        finally:
            with _bounded(connection):
                await connection.close()

    async def _have_lock(self, connection: Connection, stop: asyncio.Event) -> bool:
        told = False
        while not stop.is_set():
            found = await _execute(connection, relay_queries.TRY_CLAIM, {"sink": self._order.sink})
            if await found.fetchone() == (True,):
                return True
            if self._order.once:
                raise RelayError(f"another relay is at work on {self._order.sink}")
            if not told:
                logger.info("another relay is at work on %s; waiting", self._order.sink)
                told = True
            await wait_at_most(stop, TAKEOVER_INTERVAL_S)
        return False

    async def _begin(self, connection: Connection) -> Claim:
        end = await self._log.end()
        sink, start = self._order.sink, self._order.start
        begin = {"sink": sink, "log_id": end.log_id, "position": start}
        if start > end.place.position:
            raise RelayError(f"the log ends at position {end.place.position}, it has nothing at position {start} yet")
        if self._reset:
            await _execute(connection, relay_queries.RESET_CURSOR, begin)
            self._reset = False
        found = await (await _execute(connection, relay_queries.BEGIN_AT_CURSOR, begin)).fetchone()
        assert found is not None
        log_id, position = found
        if log_id != end.log_id or position > end.place.position:
            raise RelayError(_other_log(sink))
        logger.info("relaying to %s the events after position %d", sink, position)
        self._told_position, self._told_at = position, asyncio.get_running_loop().time()
        return Claim(connection, sink, log_id, position)

    async def _work(self, claim: Claim, stop: asyncio.Event) -> None:
        while not stop.is_set():
            news = self._news.subscribe()
            page = await self._log.read(ALL_EVENTS, after=claim.position, limit=PAGE_SIZE, log_id=claim.log_id)
            if page.events:
                if not await self._deliver(claim, page.events, stop):
                    return
                self._tell_progress(claim.position)
            self._database_trouble.is_over()
            if page.reached_end and claim.position == page.place.position and not stop.is_set():
                if self._order.once:
                    return
                await _either(news, stop, POLL_INTERVAL_S)

    async def _deliver(self, claim: Claim, events: Sequence[PositionedEvent], stop: asyncio.Event) -> bool:
        """Have the sink take the events, however often that needs trying, and move the cursor; False when stopped."""
        while True:
            await claim.check()
            try:
                if not await self._publish(claim.log_id, events, stop):
                    return False
            except SinkLostEventsError as lost:
                logger.warning("%s: %s; they are sent again", self._order.sink, lost)
                await claim.move(lost.position)
                return True
            except SinkError as error:
                await self._sink_trouble.pause(str(error), stop)
                if stop.is_set():
                    return False
            else:
                await claim.move(events[-1].position)
                self._sink_trouble.is_over()
                return True

    async def _publish(self, log_id: str, events: Sequence[PositionedEvent], stop: asyncio.Event) -> bool:
        """Whether the sink took the events; a stop leaves it STOP_GRACE_S for that."""
        publishing = asyncio.create_task(self._sink.publish(log_id, events), name="publish")
        stopped = asyncio.create_task(stop.wait(), name="stop")
        try:
            await asyncio.wait((publishing, stopped), return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait((publishing,), timeout=STOP_GRACE_S)
            if not publishing.done():
                return False
            publishing.result()
            return True
        finally:
            stopped.cancel()
            publishing.cancel()
            await asyncio.wait((publishing, stopped))

    def _tell_progress(self, position: int) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._told_at >= PROGRESS_INTERVAL_S:
            logger.info("%s has the events up to position %d, %d more", self._order.sink, position,
                        position - self._told_position)  # fmt: skip
            self._told_position, self._told_at = position, now


class Trouble:
    """An outage that is waited out: told once, with pauses that grow."""

    def __init__(self, what: str, order: RelayOrder) -> None:
        self._what = what
        self._attempts_left = ONCE_ATTEMPTS if order.once else None
        self._pause_s = 0.0

    async def pause(self, error: str, stop: asyncio.Event) -> None:
        """Wait before the next attempt, or until `stop`; a relay that runs once raises `RelayError` in the end."""
        if self._attempts_left is not None:
            self._attempts_left -= 1
            if not self._attempts_left:
                raise RelayError(f"{self._what}: {error}")
        if self._pause_s:
            logger.debug("%s: %s", self._what, error)
        else:
            how_long = "until it does" if self._attempts_left is None else "a few times"
            logger.warning("%s, trying again %s: %s", self._what, how_long, error)
        self._pause_s = min(max(MIN_PAUSE_S, self._pause_s * 2), MAX_PAUSE_S)
        # A little at random, so that two relays do not knock at the same moment.
        await wait_at_most(stop, self._pause_s * random.uniform(0.8, 1.0))  # noqa: S311 -- not a secret

    def is_over(self) -> None:
        """Something has succeeded."""
        if self._pause_s:
            logger.info("over: %s", self._what)
            self._pause_s = 0.0
            self._attempts_left = ONCE_ATTEMPTS if self._attempts_left is not None else None


def check_relayable(url: URL) -> None:
    """Raise `DatabaseError` unless the database has the schema this release knows, and lets a relay work on it."""
    check_usable(url, relay_queries.MISSING_PRIVILEGES)


def _other_log(sink: str) -> str:
    return (
        f"the cursor of {sink} belongs to another log: the database was restored, copied or imported, and positions"
        " mean other events now. Decide where the sink is to begin, and start once with --reset and --from-beginning"
        " or --after-position N"
    )


async def _either(first: asyncio.Event, second: asyncio.Event, seconds: float) -> None:
    waiting = [asyncio.create_task(event.wait()) for event in (first, second)]
    try:
        await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()


async def _execute(
    connection: Connection, query: str, parameters: Mapping[str, object]
) -> psycopg.AsyncCursor[TupleRow]:
    with _bounded(connection):
        return await connection.execute(cast("Any", query), parameters)


@contextmanager
def _bounded(connection: Connection) -> Iterator[None]:
    """A session that is silent for longer is cut, which the one who waits for it is told as a lost connection."""
    watchdog = asyncio.get_running_loop().call_later(ANSWER_TIMEOUT_S, cut, connection)
    try:
        yield
    finally:
        watchdog.cancel()
