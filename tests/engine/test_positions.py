"""Positions of events: 1, 2, 3 … without gaps, in order within a challenge, given after commit by whoever lives."""

import asyncio
import logging
import random
from contextlib import AsyncExitStack
from itertools import groupby

from sqlalchemy.engine import URL

from challenge_engine import positions
from challenge_engine.positions import PositionAssigner
from challenge_engine.wakeup import Wakeup
from tests.engine.harness import (
    RunningEngine,
    eventually,
    lock_waiters,
    plant_trade_trigger,
    running_engine,
    sql,
    sql_session,
    submission,
    submitted,
    value,
)

ALL_POSITIONED = (
    "SELECT NOT EXISTS (SELECT FROM event_outbox)"
    " AND (SELECT count(*) FROM event_positions) = (SELECT count(*) FROM challenge_events)"
)


async def positioned(url: URL) -> None:
    """Return once every event has its position."""

    async def all_are() -> bool:
        return bool(await value(url, ALL_POSITIONED))

    await eventually(all_are)


async def in_log_order(url: URL) -> list[tuple[int, str, int]]:
    return [
        tuple(row)
        for row in await sql(
            url, "SELECT position, challenge_id::text, challenge_sequence FROM event_positions ORDER BY position"
        )
    ]


def assert_gapless_and_in_order(log: list[tuple[int, str, int]]) -> None:
    assert [position for position, _, _ in log] == list(range(1, len(log) + 1))
    for _, own in groupby(sorted(log, key=lambda row: (row[1], row[0])), key=lambda row: row[1]):
        sequences = [sequence for _, _, sequence in own]
        assert sequences == list(range(1, len(sequences) + 1))


async def test_three_processes_and_six_writers_give_gapless_positions_beside_a_long_transaction(database_url: URL):
    """The long transaction has written too, and holds back neither the positions nor those who read them."""
    async with AsyncExitStack() as stack, sql_session(database_url, autocommit=False) as long:
        engines = [await stack.enter_async_context(running_engine(database_url)) for _ in range(3)]
        await long.execute("SELECT pg_current_xact_id(), count(*) FROM challenges")
        await long.execute("CREATE TABLE something_else (id int)")

        async def write(writer: int) -> None:
            dice = random.Random(writer)
            engine = engines[writer % 3]
            for _ in range(12):
                challenge_id = await engine.create()
                await engine.batch(
                    submission(challenge_id, "a", "1", 1),
                    submission(challenge_id, "b", dice.choice(("-6000", "20000", "1")), 2),
                )

        await asyncio.gather(*map(write, range(6)))
        await positioned(database_url)
        log = await in_log_order(database_url)
        assert len(log) >= 6 * 12 * 2
        assert_gapless_and_in_order(log)
        await long.rollback()


async def test_an_event_has_no_position_before_its_transaction_commits(engine: RunningEngine):
    """One that waits in COMMIT is overtaken by one that commits; it gets a later position, not a hole kept for it."""
    slow, fast = await engine.create(), await engine.create()
    await plant_trade_trigger(
        engine.url,
        f"IF NEW.challenge_id = '{slow}' THEN PERFORM pg_advisory_xact_lock(7); END IF;",
        at_commit=True,
        table="challenge_events",
    )
    async with running_engine(engine.url) as other, sql_session(engine.url) as holder:
        await holder.execute("SELECT pg_advisory_lock(7)")
        waiting = await submitted(engine.trading.submit(submission(slow, "t1")))
        await lock_waiters(engine.url)
        await other.trading.submit(submission(fast, "t1"))
        await other.positions.assign_all()
        assert [row[1:] for row in await in_log_order(engine.url)] == [(slow, 1), (fast, 1), (fast, 2)]
        await holder.execute("SELECT pg_advisory_unlock(7)")
        await waiting
        await positioned(engine.url)
        assert (await in_log_order(engine.url))[-1] == (4, slow, 2)


async def test_events_of_a_process_that_died_are_given_positions_by_another(database_url: URL):
    async with running_engine(database_url, assign=False) as dying:
        challenge_id = await dying.create()
        await dying.trading.submit(submission(challenge_id, "t1", "-6000"))
    assert await in_log_order(database_url) == []
    async with running_engine(database_url):
        await positioned(database_url)
    assert await in_log_order(database_url) == [(1, challenge_id, 1), (2, challenge_id, 2), (3, challenge_id, 3)]


async def test_a_running_process_finds_events_of_one_that_dies_later(database_url: URL):
    async with running_engine(database_url) as living:
        await living.positions.assign_all()
        async with running_engine(database_url, assign=False) as dying:
            await dying.create()
        await positioned(database_url)


async def test_stopping_gives_positions_to_what_was_just_committed(database_url: URL, monkeypatch):
    monkeypatch.setattr(positions, "POLL_INTERVAL_S", 3600)
    async with running_engine(database_url, assign=False) as engine:
        engine.positions.start()
        await engine.positions.assign_all()
        engine.trading._on_commit = lambda: None
        await engine.create()
        await engine.positions.stop()
        assert await value(database_url, ALL_POSITIONED)


async def test_more_than_fit_one_transaction_are_placed_too(database_url: URL, monkeypatch):
    monkeypatch.setattr(positions, "MAX_PER_TRANSACTION", 3)
    async with running_engine(database_url, assign=False) as engine:
        for _ in range(10):
            await engine.create()
        assert await engine.positions.assign_all() == 10
        assert await engine.positions.assign_all() == 0
        assert_gapless_and_in_order(await in_log_order(database_url))


async def test_assigning_at_the_same_time_places_each_event_once(database_url: URL):
    """Without gaps, although the numbers of the outbox have some, as after every transaction that was rolled back."""
    async with running_engine(database_url, assign=False) as engine:
        await sql(database_url, "SELECT nextval(pg_get_serial_sequence('event_outbox', 'outbox_id'))")
        for _ in range(20):
            await engine.create()
        assigners = [PositionAssigner(engine.database, Wakeup()) for _ in range(6)]
        placed = await asyncio.gather(*(assigner.assign_all() for assigner in assigners))
        for assigner in assigners:
            await assigner.stop()
        assert sum(placed) == 20
        assert_gapless_and_in_order(await in_log_order(database_url))


async def test_whoever_holds_the_log_too_long_is_outlived(database_url: URL, short_lock_timeout):
    """A giver of positions that hangs in its transaction delays the others; once it is gone they go on."""
    async with running_engine(database_url) as engine, sql_session(database_url, autocommit=False) as hanging:
        await hanging.execute("SELECT FROM event_log FOR UPDATE")
        await engine.create()
        await lock_waiters(database_url)
        await hanging.rollback()
        await positioned(database_url)


async def test_a_process_that_dies_is_succeeded_within_a_second_or_two(database_url: URL):
    """Its events get positions, and those of others do not wait for it, however far apart they look by themselves."""
    clock = asyncio.get_running_loop().time
    async with running_engine(database_url, assign=False) as dying, running_engine(database_url):
        for _ in range(3):
            await asyncio.sleep(0.1)
            await dying.create()
            began = clock()
            await positioned(database_url)
            assert clock() - began < 3.0


async def test_events_in_quick_succession_get_their_positions_together(database_url: URL, monkeypatch):
    monkeypatch.setattr(positions, "MIN_INTERVAL_S", 0.2)
    given = []
    real = PositionAssigner._assign_some

    async def assign_some(self: PositionAssigner) -> int:
        given.append(await real(self))
        return given[-1]

    async with running_engine(database_url) as engine:
        await engine.create()
        await positioned(database_url)
        monkeypatch.setattr(PositionAssigner, "_assign_some", assign_some)
        for _ in range(10):
            await engine.create()
        await positioned(database_url)
    assert sum(given) == 10
    assert len(given) < 10


async def test_positions_that_cannot_be_given_for_long_are_told_once_and_so_is_the_end(
    database_url: URL, monkeypatch, caplog, short_lock_timeout
):
    monkeypatch.setattr(positions, "PATIENCE_S", 0.3)
    monkeypatch.setattr(positions, "RETRY_INTERVAL_S", 0.01)
    caplog.set_level(logging.INFO, positions.__name__)

    def told(words: str) -> int:
        return sum(words in record.message for record in caplog.records)

    async def is_told() -> bool:
        return bool(told("no positions are given"))

    async def is_over() -> bool:
        return bool(told("positions are given again"))

    async with running_engine(database_url) as engine, sql_session(database_url, autocommit=False) as hanging:
        await hanging.execute("SELECT FROM event_log FOR UPDATE")
        await engine.create()
        await eventually(is_told)
        await lock_waiters(database_url)
        await hanging.rollback()
        await eventually(is_over)
    assert (told("no positions are given"), told("positions are given again")) == (1, 1)
