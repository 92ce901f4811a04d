"""Following the log: one reader for all, with and without wake-ups, fast and slow."""

import asyncio
import gc
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from itertools import pairwise

import pytest
from sqlalchemy.engine import URL

from challenge_engine import event_tail, turns
from challenge_engine.event_log import BEGINNING, EventFilter, EventLog, PositionedEvent
from challenge_engine.event_tail import CaughtUp, EventBatch, EventTail, Heartbeat
from challenge_engine.wakeup import Wakeup
from challenge_rules import ChallengeStatus
from challenge_rules.errors import CursorMismatchError, DatabaseUnavailableError
from tests.engine.harness import (
    PATIENCE_S,
    RunningEngine,
    eventually,
    gist,
    lives,
    new_id,
    proxied,
    running_engine,
    sql,
    submission,
    tampering,
    value,
)

ALL = EventFilter()
LONG = 3600.0
PENDING, ACTIVE, FAILED, FUNDED = ChallengeStatus


class Follower:
    """A follower's items as they come, each within the patience of the tests."""

    def __init__(self, items: AsyncIterator) -> None:
        self._items = items
        self._events: list[PositionedEvent] = []

    async def next(self):
        """An event, or what else it is told."""
        if not self._events:
            async with asyncio.timeout(PATIENCE_S):
                item = await anext(self._items)
            if not isinstance(item, EventBatch):
                return item
            self._events = list(item.events)
        return self._events.pop(0)

    def held(self) -> list[PositionedEvent]:
        """The rest of the batch that was taken last."""
        rest, self._events = self._events, []
        return rest

    async def events(self, count: int) -> list[PositionedEvent]:
        found = []
        while len(found) < count:
            item = await self.next()
            if isinstance(item, PositionedEvent):
                found.append(item)
        return found


@asynccontextmanager
async def following(
    engine: RunningEngine,
    wanted: EventFilter = ALL,
    after: int = 0,
    heartbeat_s: float = LONG,
    *,
    tail: EventTail | None = None,
    **rest,
):
    end, place = await engine.log.end(), await engine.log.place_at(after)
    assert place is not None
    rest = {"end": end.place.position, **rest}
    items = (tail or engine.tail).follow(wanted, log_id=end.log_id, after=place, heartbeat_s=heartbeat_s, **rest)
    async with aclosing(items):
        yield Follower(items)


@asynccontextmanager
async def deaf_tail(engine: RunningEngine):
    """A tail that hears of nothing."""
    tail = EventTail(engine.log, Wakeup())
    yield tail
    await tail.stop()


async def place(engine: RunningEngine, position: int):
    """The place behind an event."""
    return await engine.log.place_at(position)


class TestFollowing:
    async def test_from_the_beginning_it_tells_all_then_that_it_has_caught_up_then_what_comes(
        self, engine: RunningEngine
    ):
        await lives(engine)
        async with following(engine) as follower:
            past = await follower.events(7)
            assert [one.event for one in past] == await engine.all_positioned()
            assert await follower.next() == CaughtUp(await place(engine, 7))
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
        async with following(engine, after=7, end=7, from_now=True) as follower:
            assert await follower.next() == CaughtUp(await place(engine, 7))
            assert gist([await follower.next()]) == [(between, "PENDING")]
            later = await engine.create()
            assert gist([await follower.next()]) == [(later, "PENDING")]

    async def test_it_is_resumable_at_every_position_and_exclusive(self, engine: RunningEngine):
        await lives(engine)
        for after in range(8):
            async with following(engine, after=after) as follower:
                assert [one.position for one in await follower.events(7 - after)] == list(range(after + 1, 8))
                assert await follower.next() == CaughtUp(await place(engine, 7))

    async def test_more_than_a_page_is_read_before_it_has_caught_up(self, engine: RunningEngine, monkeypatch):
        monkeypatch.setattr(event_tail, "FIRST_PAGE", 2)
        await lives(engine)
        async with following(engine) as follower:
            items = [await follower.next() for _ in range(8)]
        assert [type(item) for item in items] == [PositionedEvent] * 7 + [CaughtUp]

    async def test_filtered_it_tells_only_what_matches_and_moves_past_the_rest(self, engine: RunningEngine):
        _, funded, _ = await lives(engine)
        async with following(engine, EventFilter((funded,), (FUNDED,))) as follower:
            item = await follower.next()
            assert gist([item]) == [(funded, "FUNDED")]
            assert await follower.next() == CaughtUp(await place(engine, 7))

    async def test_live_events_come_by_wake_up_from_another_process_too(self, database_url: URL, monkeypatch):
        """Nobody polls within the test's patience: it is the notification that wakes."""
        monkeypatch.setattr(event_tail, "POLL_INTERVAL_S", LONG)
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
            async with following(here) as follower:
                assert await follower.next() == CaughtUp(BEGINNING)
                challenge_id = await there.create()
                await there.trading.submit(submission(challenge_id, "t1"))
                assert gist(await follower.events(2)) == [(challenge_id, "PENDING"), (challenge_id, "ACTIVE")]

    async def test_with_every_wake_up_lost_events_come_by_poll(self, engine: RunningEngine):
        async with deaf_tail(engine) as deaf, following(engine, tail=deaf) as follower:
            assert await follower.next() == CaughtUp(BEGINNING)
            challenge_id = await engine.create()
            assert gist([await follower.next()]) == [(challenge_id, "PENDING")]

    async def test_no_event_falls_between_reading_and_waiting(self, engine: RunningEngine, monkeypatch):
        """However often it is woken, every event comes once and in order, while others write."""
        monkeypatch.setattr(event_tail, "FIRST_PAGE", 3)
        total = 60

        async def write() -> None:
            for _ in range(total // 3):
                await asyncio.gather(*(engine.create() for _ in range(3)))

        async with following(engine) as follower:
            writing = asyncio.create_task(write())
            found = await follower.events(total)
            await writing
        assert [one.position for one in found] == list(range(1, total + 1))

    async def test_nobody_has_caught_up_before_the_end_that_the_caller_saw(self, engine: RunningEngine, monkeypatch):
        """However far the tail, which hears of nothing here, lags behind the table."""
        monkeypatch.setattr(event_tail, "POLL_INTERVAL_S", LONG)
        async with deaf_tail(engine) as deaf, following(engine, tail=deaf) as first:
            assert await first.next() == CaughtUp(BEGINNING)
            await is_live(deaf)
            await engine.create()
            await engine.positions.assign_all()
            async with following(engine, tail=deaf) as second:
                assert [one.position for one in await second.events(1)] == [1]
                assert await second.next() == CaughtUp(await place(engine, 1))

    async def test_whatever_it_is_told_stands_after_every_matching_event_before_it(
        self, engine: RunningEngine, monkeypatch: pytest.MonkeyPatch
    ):
        """Places of `CaughtUp` and `Heartbeat` are cursors to store: none may run ahead of an event still to come.

        Followers with filters of all kinds, at their own pace, while three challenges at a time come into being, and
        the tail, which keeps few events, is lost again and again.
        """
        monkeypatch.setattr(event_tail, "MAX_KEPT", 5)
        monkeypatch.setattr(event_tail, "FIRST_PAGE", 3)
        monkeypatch.setattr(event_tail, "TAKEN_AT_ONCE", 2)
        dice = random.Random(4)
        ids = [new_id() for _ in range(60)]
        filters = [
            ALL,
            EventFilter((), (ACTIVE,)),
            EventFilter(tuple(ids[::7])),
            EventFilter(tuple(ids[:9]), (PENDING,)),
        ]
        told: list[list[object]] = [[] for _ in filters]

        async def follow(wanted: EventFilter, found: list[object]) -> None:
            async with following(engine, wanted, heartbeat_s=0.001) as follower:
                is_over = False
                while not is_over:
                    found.append(item := await follower.next())
                    if not dice.randrange(8):
                        await asyncio.sleep(dice.random() / 50)
                    # Who waits for its turn to look for more at the end is told heartbeats there, too.
                    at_end = isinstance(item, Heartbeat) and item.place.position == 120
                    is_over = at_end and any(isinstance(each, CaughtUp) for each in found)

        following_all = [asyncio.create_task(follow(*pair)) for pair in zip(filters, told, strict=True)]
        for some in zip(*[iter(ids)] * 3, strict=True):
            await asyncio.gather(*(engine.create(challenge_id=each) for each in some))
            await asyncio.gather(*(engine.trading.submit(submission(each, "t1")) for each in some))
            if not dice.randrange(3):
                engine.tail._lose()
        await asyncio.gather(*following_all)
        for wanted, found in zip(filters, told, strict=True):
            table = (await engine.log.read(wanted, after=0, limit=1000)).events
            seen: list[int] = []
            for item in found:
                if isinstance(item, PositionedEvent):
                    seen.append(item.position)
                else:
                    assert isinstance(item, CaughtUp | Heartbeat)
                    assert seen == [each.position for each in table if each.position <= item.place.position]
            assert seen == [each.position for each in table]
            assert {type(item) for item in found} == {PositionedEvent, CaughtUp, Heartbeat}

    async def test_silence_is_broken_by_heartbeats_at_the_asked_interval(self, engine: RunningEngine):
        await lives(engine)
        clock = asyncio.get_running_loop().time
        async with following(engine, EventFilter((new_id(),)), heartbeat_s=0.1) as follower:
            assert await follower.next() == CaughtUp(await place(engine, 7))
            beats = [clock()]
            for _ in range(4):
                assert await follower.next() == Heartbeat(await place(engine, 7))
                beats.append(clock())
        assert all(later - earlier >= 0.099 for earlier, later in pairwise(beats))
        # Nor much later, unless the machine is so slow that all of them are.
        assert min(later - earlier for earlier, later in pairwise(beats)) < 0.2

    async def test_a_heartbeat_carries_the_position_of_events_that_did_not_match(self, engine: RunningEngine):
        async with following(engine, EventFilter((new_id(),)), heartbeat_s=0.05) as follower:
            assert await follower.next() == CaughtUp(BEGINNING)
            await engine.create()

            async def moved() -> bool:
                return (await follower.next()).place.position == 1

            await eventually(moved)

    async def test_wake_ups_alone_do_not_put_off_the_heartbeat(self, engine: RunningEngine):
        """Events that do not match keep waking the follower; silence is counted from what it was last told."""
        async with following(engine, EventFilter((new_id(),)), heartbeat_s=0.2) as follower:
            assert await follower.next() == CaughtUp(BEGINNING)
            beat = asyncio.create_task(follower.next())
            while not beat.done():
                engine.news.wake()
                await asyncio.wait([beat], timeout=0.01)
            assert isinstance(beat.result(), Heartbeat)

    async def test_it_stops_with_a_last_heartbeat(self, engine: RunningEngine):
        await lives(engine)
        stopping = False
        async with following(engine, after=5, stopping=lambda: stopping) as follower:
            assert [one.position for one in await follower.events(2)] == [6, 7]
            assert await follower.next() == CaughtUp(await place(engine, 7))
            last = asyncio.create_task(follower.next())
            await asyncio.sleep(0)
            stopping = True
            engine.tail.wake_followers()
            assert await last == Heartbeat(await place(engine, 7))
            with pytest.raises(StopAsyncIteration):
                await follower.next()

    async def test_a_follower_that_stops_before_it_begins_tells_where_it_stands(self, engine: RunningEngine):
        await lives(engine)
        async with following(engine, after=3, stopping=lambda: True) as follower:
            assert await follower.next() == Heartbeat(await place(engine, 3))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[EventFilter]:
    """How often the table was read, by filter; by the tail, under ALL."""
    counted: Counter[EventFilter] = Counter()
    real, real_new = EventLog.read, EventLog.read_new

    async def read(self, wanted, **rest):
        counted[wanted] += 1
        return await real(self, wanted, **rest)

    async def read_new(self, connection, **rest):
        counted[ALL] += 1
        return await real_new(self, connection, **rest)

    monkeypatch.setattr(EventLog, "read", read)
    monkeypatch.setattr(EventLog, "read_new", read_new)
    return counted


async def is_live(tail: EventTail) -> None:
    """Return once the tail keeps what comes."""

    async def live() -> bool:
        return tail.is_live

    await eventually(live)


class TestOneReaderForAll:
    async def test_many_followers_cost_the_queries_of_one(self, engine: RunningEngine, reads: Counter[EventFilter]):
        """Each with a filter of its own, so that it is known who read."""
        followed = [await engine.create() for _ in range(20)]
        await engine.positions.assign_all()
        async with AsyncExitStack() as stack:
            followers = []
            for challenge_id in followed:
                follower = await stack.enter_async_context(following(engine, EventFilter((challenge_id,))))
                assert gist([await follower.next()]) == [(challenge_id, "PENDING")]
                assert await follower.next() == CaughtUp(await place(engine, 20))
                followers.append(follower)
            await is_live(engine.tail)
            waiting = [asyncio.create_task(follower.next()) for follower in followers]
            await asyncio.sleep(0)
            reads.clear()
            for challenge_id in followed:
                await engine.trading.submit(submission(challenge_id, "t1"))
            told = await asyncio.gather(*waiting)
        assert gist(told) == [(challenge_id, "ACTIVE") for challenge_id in followed]
        assert set(reads) == {ALL}

    async def test_live_filters_choose_what_the_database_chooses(self, engine: RunningEngine):
        some = [await engine.create() for _ in range(3)]
        await engine.positions.assign_all()
        filters = [
            EventFilter(ids, statuses)
            for ids in ((), (some[0],), (some[0], some[2]), (new_id(),))
            for statuses in ((), (PENDING,), (ACTIVE,), (FAILED, FUNDED), (PENDING, FUNDED))
        ]
        async with AsyncExitStack() as stack:
            followers = [await stack.enter_async_context(following(engine, each, after=3)) for each in filters]
            for follower in followers:
                assert isinstance(await follower.next(), CaughtUp)
            await is_live(engine.tail)
            for challenge_id, pnl in zip(some, ("-6000", "20000", "1"), strict=True):
                await engine.trading.submit(submission(challenge_id, "t1", pnl))
            await engine.create()
            await engine.positions.assign_all()
            for wanted, follower in zip(filters, followers, strict=True):
                expected = (await engine.log.read(wanted, after=3, limit=100)).events
                assert tuple(await follower.events(len(expected))) == expected

    async def test_who_falls_behind_reads_the_table_loses_nothing_and_hears_again_that_it_has_caught_up(
        self, engine: RunningEngine, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(event_tail, "MAX_KEPT", 5)
        async with following(engine) as slow, following(engine) as quick:
            for follower in (slow, quick):
                assert await follower.next() == CaughtUp(BEGINNING)
            await is_live(engine.tail)
            for position in range(1, 41):
                await engine.create()
                assert (await quick.next()).position == position
            assert len(engine.tail._kept) == 5
            assert [one.position for one in await slow.events(40)] == list(range(1, 41))
            assert await slow.next() == CaughtUp(await place(engine, 40))
            await engine.create()
            assert (await slow.next()).position == (await quick.next()).position == 41

    async def test_a_follower_holds_few_events_however_many_are_kept(self, engine: RunningEngine):
        async with following(engine) as quick, following(engine) as slow:
            for follower in (slow, quick):
                assert await follower.next() == CaughtUp(BEGINNING)
            await is_live(engine.tail)
            await asyncio.gather(*(engine.create() for _ in range(4)))
            assert [one.position for one in await slow.events(4)] == [1, 2, 3, 4]
            for _ in range(3):
                await asyncio.gather(*(engine.create() for _ in range(60)))
            assert [one.position for one in await quick.events(184)] == list(range(1, 185))
            taken: list[list[PositionedEvent]] = []
            while sum(map(len, taken)) < 180:
                taken.append([await slow.next(), *slow.held()])
        assert max(map(len, taken)) <= event_tail.TAKEN_AT_ONCE
        assert [one.position for some in taken for one in some] == list(range(5, 185))

    async def test_those_that_stall_keep_nobody_from_catching_up(self, engine: RunningEngine):
        for _ in range(3):
            await engine.create()
        await engine.positions.assign_all()
        async with AsyncExitStack() as stack:
            stalled = [await stack.enter_async_context(following(engine)) for _ in range(12)]
            for follower in stalled:
                assert (await follower.next()).position == 1
            async with following(engine) as quick:
                assert [one.position for one in await quick.events(3)] == [1, 2, 3]
                assert await quick.next() == CaughtUp(await place(engine, 3))
            for follower in stalled:
                assert [one.position for one in await follower.events(2)] == [2, 3]

    async def test_one_that_stalls_holds_a_batch_and_nothing_else(
        self, engine: RunningEngine, monkeypatch: pytest.MonkeyPatch
    ):
        """Also one that was quick before and was read a large page for."""
        monkeypatch.setattr(event_tail, "TAKEN_AT_ONCE", 2)
        monkeypatch.setattr(event_tail, "LATER_AFTER", 0)
        ids = {await engine.create() for _ in range(20)}
        await engine.positions.assign_all()

        async def only_the_batch_is_left() -> bool:
            held = [each for each in gc.get_objects() if type(each) is PositionedEvent]
            return sum(each.event.challenge_id in ids for each in held) == 2

        async with following(engine) as stalled:
            assert (await stalled.next()).position == 1
            stalled.held()
            await eventually(only_the_batch_is_left)
            assert [one.position for one in await stalled.events(18)] == list(range(3, 21))

    async def test_who_waits_for_its_turn_hears_heartbeats(self, engine: RunningEngine, monkeypatch):
        monkeypatch.setattr(turns, "MAX_HAND_OVER_S", LONG)
        await engine.create()
        await engine.positions.assign_all()
        async with following(engine) as busy, following(engine, heartbeat_s=0.05) as waiting:
            assert (await busy.next()).position == 1
            for _ in range(3):
                assert await waiting.next() == Heartbeat(BEGINNING)
            assert await busy.next() == CaughtUp(await place(engine, 1))
            assert [one.position for one in await waiting.events(1)] == [1]

    async def test_who_waits_for_its_turn_when_the_server_stops_reads_no_more(
        self, engine: RunningEngine, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(turns, "MAX_HAND_OVER_S", LONG)
        await engine.create()
        await engine.positions.assign_all()
        stopping = False
        async with following(engine) as busy, following(engine, stopping=lambda: stopping) as waiting:
            assert (await busy.next()).position == 1
            told = asyncio.create_task(waiting.next())
            await asyncio.sleep(0)
            stopping = True
            assert await busy.next() == CaughtUp(await place(engine, 1))
            assert await told == Heartbeat(BEGINNING)

    async def test_who_leaves_in_its_turn_or_in_the_queue_gives_it_back(
        self, engine: RunningEngine, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(turns, "MAX_HAND_OVER_S", LONG)
        await engine.create()
        await engine.positions.assign_all()
        for _ in range(3):
            async with following(engine) as follower:
                assert (await follower.next()).position == 1
                async with following(engine) as waiting:
                    told = asyncio.create_task(waiting.next())
                    await asyncio.sleep(0)
                    told.cancel()
                    await asyncio.wait([told])

    async def test_nobody_reads_when_nobody_follows(self, engine: RunningEngine, reads: Counter[EventFilter]):
        async def ended() -> bool:
            return not engine.tail.is_live

        for _ in range(2):
            async with following(engine) as follower:
                while not isinstance(await follower.next(), CaughtUp):
                    pass
                await is_live(engine.tail)
            engine.news.wake()
            await eventually(ended)
            reads.clear()
            await engine.create()
            await engine.positions.assign_all()
            assert not reads

    async def test_a_log_that_is_replaced_ends_whoever_follows(self, engine: RunningEngine):
        async with following(engine) as live, following(engine, EventFilter((new_id(),))) as other:
            for follower in (live, other):
                assert await follower.next() == CaughtUp(BEGINNING)
            await is_live(engine.tail)
            await sql(engine.url, "UPDATE event_log SET log_id = gen_random_uuid()")
            for follower in (live, other):
                with pytest.raises(CursorMismatchError, match="replaced"):
                    await follower.next()

    async def test_a_log_that_has_become_shorter_ends_whoever_follows(self, engine: RunningEngine):
        await lives(engine)
        async with following(engine) as follower:
            await follower.events(7)
            await follower.next()
            await is_live(engine.tail)
            async with tampering(engine.url) as restoring:
                await restoring.execute("DELETE FROM event_positions WHERE position > 5")
            with pytest.raises(CursorMismatchError, match="replaced"):
                await follower.next()

    async def test_without_a_database_followers_hear_so_and_can_follow_again_once_it_is_back(self, database_url: URL):
        async with proxied(database_url) as proxy, running_engine(proxy.url(database_url)) as engine:
            async with following(engine) as follower:
                assert await follower.next() == CaughtUp(BEGINNING)
                await is_live(engine.tail)
                await proxy.away()
                with pytest.raises(DatabaseUnavailableError):
                    await follower.next()
            await proxy.listen()
            await engine.create()
            async with following(engine) as follower:
                assert [one.position for one in await follower.events(1)] == [1]

    async def test_a_tail_that_was_stopped_leaves_its_followers_to_the_table(self, engine: RunningEngine):
        async with following(engine) as follower:
            assert await follower.next() == CaughtUp(BEGINNING)
            await is_live(engine.tail)
            await engine.tail.stop()
            await engine.create()
            assert (await follower.next()).position == 1
