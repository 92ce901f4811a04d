"""Reading the log: pages and cursors, and following it with and without wake-ups."""

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from itertools import pairwise

import pytest
from sqlalchemy.engine import URL

from challenge_engine import event_log, tokens
from challenge_engine.event_log import CaughtUp, EventFilter, EventLog, Heartbeat, PositionedEvent
from challenge_engine.wakeup import Wakeup
from challenge_rules import ChallengeStatus
from challenge_rules.errors import CursorMismatchError, ValidationError
from tests.engine.harness import PATIENCE_S, RunningEngine, eventually, new_id, running_engine, sql, submission, value

ALL = EventFilter()
LONG = 3600.0
PENDING, ACTIVE, FAILED, FUNDED = ChallengeStatus


async def lives(engine: RunningEngine) -> tuple[str, str, str]:
    """Three challenges: one fails at once, one is funded, one stays pending; 3 + 3 + 1 events, all with positions."""
    failed, funded, pending = [await engine.create() for _ in range(3)]
    await engine.trading.submit(submission(failed, "t1", "-6000"))
    await engine.trading.submit(submission(funded, "t1", "20000"))
    await engine.positions.assign_all()
    return failed, funded, pending


def gist(found) -> list[tuple[str, str]]:
    return [(one.event.challenge_id, str(one.event.new_status)) for one in found]


async def one_by_one(log: EventLog, wanted: EventFilter, after: int = 0) -> list[PositionedEvent]:
    """Every matching event by pages of one."""
    found: list[PositionedEvent] = []
    token = ""
    while True:
        page, token = await log.page(wanted, after=after, limit=1, page_token=token)
        found += page.events
        if not token:
            return found


class Follower:
    """A follower's items as they come, each within the patience of the tests."""

    def __init__(self, items: AsyncIterator) -> None:
        self._items = items

    async def next(self):
        async with asyncio.timeout(PATIENCE_S):
            return await anext(self._items)

    async def events(self, count: int) -> list[PositionedEvent]:
        found = []
        while len(found) < count:
            item = await self.next()
            if isinstance(item, PositionedEvent):
                found.append(item)
        return found


@asynccontextmanager
async def following(log: EventLog, wanted: EventFilter = ALL, after: int = 0, heartbeat_s: float = LONG, **rest):
    async with aclosing(log.follow(wanted, after=after, heartbeat_s=heartbeat_s, **rest)) as items:
        yield Follower(items)


class TestPages:
    async def test_filters_choose_by_challenge_and_by_new_status(self, engine: RunningEngine):
        failed, funded, pending = await lives(engine)
        for wanted, expected in (
            (EventFilter((pending,)), {(pending, "PENDING")}),
            (EventFilter((failed,)), {(failed, status) for status in ("PENDING", "ACTIVE", "FAILED")}),
            (EventFilter((pending, funded), (PENDING,)), {(pending, "PENDING"), (funded, "PENDING")}),
            (EventFilter((), (PENDING,)), {(failed, "PENDING"), (funded, "PENDING"), (pending, "PENDING")}),
            (EventFilter((), (FAILED, FUNDED)), {(failed, "FAILED"), (funded, "FUNDED")}),
            (EventFilter((funded,), (FAILED, ACTIVE)), {(funded, "ACTIVE")}),
            (EventFilter((new_id(),)), set()),
        ):  # fmt: skip
            page = await engine.log.read(wanted, after=0, limit=100)
            assert set(gist(page.events)) == expected
            assert len(page.events) == len(expected)
            assert (page.position, page.reached_end) == (7, True)

    async def test_everything_is_read_in_the_order_of_positions(self, engine: RunningEngine):
        await lives(engine)
        page = await engine.log.read(ALL, after=0, limit=100)
        assert [one.position for one in page.events] == [1, 2, 3, 4, 5, 6, 7]
        assert [one.event for one in page.events] == await engine.all_positioned()

    async def test_a_full_page_says_whether_the_end_is_reached(self, engine: RunningEngine):
        await lives(engine)
        assert (await engine.log.read(ALL, after=0, limit=7)).reached_end
        page = await engine.log.read(ALL, after=0, limit=6)
        assert (page.position, page.reached_end) == (6, False)
        page = await engine.log.read(ALL, after=7, limit=6)
        assert (page.events, page.position, page.reached_end) == ((), 7, True)

    async def test_pages_of_any_size_join_without_gap_or_repetition(self, engine: RunningEngine):
        failed, *_ = await lives(engine)
        for wanted in (ALL, EventFilter((failed,)), EventFilter((), (PENDING,))):
            for after in (0, 2):
                whole = await engine.log.read(wanted, after=after, limit=100)
                assert await one_by_one(engine.log, wanted, after) == list(whole.events)

    async def test_a_token_of_another_list_is_refused(self, engine: RunningEngine):
        failed, *_ = await lives(engine)
        _, token = await engine.log.page(ALL, after=0, limit=1, page_token="")
        cursor = (await engine.log.cursors(ALL))(1)
        for wanted, after, bad in (
            (EventFilter((failed,)), 0, token),
            (EventFilter((), (PENDING,)), 0, token),
            (ALL, 1, token),
            (ALL, 0, token[:-2]),
            (ALL, 0, "nonsense"),
            (ALL, 0, cursor),
        ):
            with pytest.raises(ValidationError) as refused:
                await engine.log.page(wanted, after=after, limit=1, page_token=bad)
            assert [violation.field for violation in refused.value.violations] == ["page_token"]

    async def test_an_empty_log_is_at_its_end(self, engine: RunningEngine):
        assert await engine.log.last_position() == 0
        page, token = await engine.log.page(ALL, after=0, limit=10, page_token="")
        assert (page.events, page.position, token) == ((), 0, "")


class TestCursors:
    async def test_a_cursor_stands_for_its_position_also_in_another_process(self, engine: RunningEngine):
        failed, funded, _ = await lives(engine)
        wanted = EventFilter((failed, funded), (FAILED, FUNDED))
        cursor = (await engine.log.cursors(wanted))(5)
        assert await engine.log.position_of(wanted, cursor) == 5
        async with running_engine(engine.url, assign=False) as other:
            same = EventFilter((funded, failed, failed), (FUNDED, FAILED))
            assert await other.log.position_of(same, cursor) == 5

    async def test_a_cursor_of_another_filter_is_refused(self, engine: RunningEngine):
        failed, funded, _ = await lives(engine)
        cursor = (await engine.log.cursors(EventFilter((failed,), (FAILED,))))(5)
        for other in (
            ALL,
            EventFilter((failed,)),
            EventFilter((), (FAILED,)),
            EventFilter((failed, funded), (FAILED,)),
            EventFilter((failed,), (FAILED, FUNDED)),
        ):
            with pytest.raises(CursorMismatchError):
                await engine.log.position_of(other, cursor)

    async def test_a_cursor_of_another_log_is_refused(self, engine: RunningEngine):
        await lives(engine)
        cursor = (await engine.log.cursors(ALL))(5)
        await sql(engine.url, "UPDATE event_log SET log_id = gen_random_uuid()")
        with pytest.raises(CursorMismatchError):
            await EventLog(engine.database, engine.news).position_of(ALL, cursor)

    async def test_a_cursor_ahead_of_the_log_is_refused(self, engine: RunningEngine):
        await lives(engine)
        assert await engine.log.position_of(ALL, (await engine.log.cursors(ALL))(7)) == 7
        with pytest.raises(CursorMismatchError):
            await engine.log.position_of(ALL, (await engine.log.cursors(ALL))(8))

    async def test_malformed_cursors_are_refused(self, engine: RunningEngine):
        await lives(engine)
        cursor = (await engine.log.cursors(ALL))(5)
        _, page_token = await engine.log.page(ALL, after=0, limit=1, page_token="")
        changed = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))[:-2] + b"6]"
        for bad in (
            "",
            "x",
            "….",
            "\0",
            cursor + "A",
            cursor[:-1],
            cursor[1:],
            "A" * (tokens.MAX_TOKEN_LENGTH + 1),
            page_token,
            base64.urlsafe_b64encode(changed).decode().rstrip("="),
        ):
            with pytest.raises(CursorMismatchError):
                await engine.log.position_of(ALL, bad)


class TestFollowing:
    async def test_from_the_beginning_it_tells_all_then_that_it_has_caught_up_then_what_comes(
        self, engine: RunningEngine
    ):
        await lives(engine)
        async with following(engine.log) as follower:
            past = await follower.events(7)
            assert [one.event for one in past] == await engine.all_positioned()
            assert await follower.next() == CaughtUp(7)
            new = await engine.create()
            item = await follower.next()
            assert (item.position, item.event.challenge_id) == (8, new)

    async def test_from_now_it_says_at_once_that_it_has_caught_up_and_tells_what_comes_after(
        self, engine: RunningEngine
    ):
        """Also what came between the caller's look at the end and the first read."""
        await lives(engine)
        between = await engine.create()
        await engine.positions.assign_all()
        async with following(engine.log, after=7, from_now=True) as follower:
            assert await follower.next() == CaughtUp(7)
            assert gist([await follower.next()]) == [(between, "PENDING")]
            later = await engine.create()
            assert gist([await follower.next()]) == [(later, "PENDING")]

    async def test_it_is_resumable_at_every_position_and_exclusive(self, engine: RunningEngine):
        await lives(engine)
        for after in range(8):
            async with following(engine.log, after=after) as follower:
                assert [one.position for one in await follower.events(7 - after)] == list(range(after + 1, 8))
                assert await follower.next() == CaughtUp(7)

    async def test_more_than_a_page_is_read_before_it_has_caught_up(self, engine: RunningEngine, monkeypatch):
        monkeypatch.setattr(event_log, "PAGE_SIZE", 2)
        await lives(engine)
        async with following(engine.log) as follower:
            items = [await follower.next() for _ in range(8)]
        assert [type(item) for item in items] == [PositionedEvent] * 7 + [CaughtUp]

    async def test_filtered_it_tells_only_what_matches_and_moves_past_the_rest(self, engine: RunningEngine):
        _, funded, _ = await lives(engine)
        async with following(engine.log, EventFilter((funded,), (FUNDED,))) as follower:
            item = await follower.next()
            assert gist([item]) == [(funded, "FUNDED")]
            assert await follower.next() == CaughtUp(7)

    async def test_live_events_come_by_wake_up_from_another_process_too(self, database_url: URL, monkeypatch):
        """Nobody polls within the test's patience: it is the notification that wakes."""
        monkeypatch.setattr(event_log, "POLL_INTERVAL_S", LONG)
        async with running_engine(database_url) as here, running_engine(database_url) as there:

            async def both_listen() -> bool:
                return (
                    await value(
                        database_url,
                        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                        " AND query LIKE 'LISTEN%' AND state = 'idle'",
                    )
                    == 2
                )

            await eventually(both_listen)
            async with following(here.log) as follower:
                assert await follower.next() == CaughtUp(0)
                challenge_id = await there.create()
                await there.trading.submit(submission(challenge_id, "t1"))
                assert gist(await follower.events(2)) == [(challenge_id, "PENDING"), (challenge_id, "ACTIVE")]

    async def test_with_every_wake_up_lost_events_come_by_poll(self, engine: RunningEngine):
        deaf = EventLog(engine.database, Wakeup())
        async with following(deaf) as follower:
            assert await follower.next() == CaughtUp(0)
            challenge_id = await engine.create()
            assert gist([await follower.next()]) == [(challenge_id, "PENDING")]

    async def test_no_event_falls_between_reading_and_waiting(self, engine: RunningEngine, monkeypatch):
        """However often it is woken, every event comes once and in order, while others write."""
        monkeypatch.setattr(event_log, "PAGE_SIZE", 3)
        total = 60

        async def write() -> None:
            for _ in range(total // 3):
                await asyncio.gather(*(engine.create() for _ in range(3)))

        async with following(engine.log) as follower:
            writing = asyncio.create_task(write())
            found = await follower.events(total)
            await writing
        assert [one.position for one in found] == list(range(1, total + 1))

    async def test_silence_is_broken_by_heartbeats_at_the_asked_interval(self, engine: RunningEngine):
        await lives(engine)
        clock = asyncio.get_running_loop().time
        async with following(engine.log, EventFilter((new_id(),)), heartbeat_s=0.1) as follower:
            assert await follower.next() == CaughtUp(7)
            beats = [clock()]
            for _ in range(4):
                assert await follower.next() == Heartbeat(7)
                beats.append(clock())
        assert all(later - earlier >= 0.099 for earlier, later in pairwise(beats))

    async def test_a_heartbeat_carries_the_position_of_events_that_did_not_match(self, engine: RunningEngine):
        async with following(engine.log, EventFilter((new_id(),)), heartbeat_s=0.05) as follower:
            assert await follower.next() == CaughtUp(0)
            await engine.create()

            async def moved() -> bool:
                return (await follower.next()).position == 1

            await eventually(moved)

    async def test_wake_ups_alone_do_not_put_off_the_heartbeat(self, engine: RunningEngine):
        """Events that do not match keep waking the follower; silence is counted from what it was last told."""
        async with following(engine.log, EventFilter((new_id(),)), heartbeat_s=0.2) as follower:
            assert await follower.next() == CaughtUp(0)
            beat = asyncio.create_task(follower.next())
            while not beat.done():
                engine.news.wake()
                await asyncio.wait([beat], timeout=0.01)
            assert isinstance(beat.result(), Heartbeat)

    async def test_it_stops_with_a_last_heartbeat(self, engine: RunningEngine):
        await lives(engine)
        stopping = False
        async with following(engine.log, after=5, stopping=lambda: stopping) as follower:
            assert [one.position for one in await follower.events(2)] == [6, 7]
            assert await follower.next() == CaughtUp(7)
            last = asyncio.create_task(follower.next())
            await asyncio.sleep(0)
            stopping = True
            engine.news.wake()
            assert await last == Heartbeat(7)
            with pytest.raises(StopAsyncIteration):
                await follower.next()

    async def test_a_follower_that_stops_before_it_begins_tells_where_it_stands(self, engine: RunningEngine):
        async with following(engine.log, after=3, stopping=lambda: True) as follower:
            assert await follower.next() == Heartbeat(3)


class TestListening:
    async def test_a_listening_connection_that_is_terminated_is_made_anew(self, database_url: URL, monkeypatch):
        async with running_engine(database_url) as here, running_engine(database_url, assign=False) as there:
            listeners = (
                "FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%' AND state = 'idle'"
            )

            async def listener() -> int | None:
                found = await sql(database_url, f"SELECT pid {listeners}")
                return found[0][0] if found else None

            first = await eventually(listener)
            await sql(database_url, "SELECT pg_terminate_backend(%s, 10000)", (first,))
            second = await eventually(listener)
            assert second != first
            monkeypatch.setattr(event_log, "POLL_INTERVAL_S", LONG)
            async with following(here.log) as follower:
                assert await follower.next() == CaughtUp(0)
                await here.positions.stop()
                challenge_id = await there.create()
                await there.positions.assign_all()
                assert gist([await follower.next()]) == [(challenge_id, "PENDING")]
