"""Rebuild: the table of challenges follows from events and trades alone, bit by bit."""

import random
from typing import Any

import pytest
from sqlalchemy.engine import URL

from challenge_engine.rebuilding import CannotSwapError, Rebuilt, rebuild
from challenge_engine.snapshots import say_nothing
from challenge_engine.verifying import replay
from challenge_rules.money import format_amount
from tests.engine.harness import RunningEngine, running_engine, sql, submission, tampering


def rebuilt(url: URL, *, swap: bool = False) -> Rebuilt:
    return rebuild(url, swap=swap, progress=say_nothing)


async def rows_of(url: URL) -> list[Any]:
    return await sql(url, "SELECT c::text FROM challenges c ORDER BY challenge_id")


async def live(engine: RunningEngine) -> list[str]:
    """Ten challenges of all fates, of odd balances and labels, and one without trades."""
    dice = random.Random(5)
    ids = [
        await engine.create(dice.choice(("100000", "0.01", "99.00000001")), labels=(("k", "ü\"\\'"),))
        for _ in range(10)
    ]
    for number in range(12):
        await engine.batch(
            *(
                submission(each, f"t{number}", format_amount(dice.randint(-(10**12), 10**12)), number * 9_000)
                for each in ids[:-1]
            )
        )
    return ids


async def test_it_is_equal_to_the_last_bit_while_the_service_runs(engine: RunningEngine):
    await live(engine)
    found = rebuilt(engine.url)
    assert (found.differing, found.faults, found.challenges, found.is_equal) == ([], [], 10, True)


@pytest.mark.parametrize(
    ("statement", "what"),
    [
        (
            "UPDATE challenges SET equity = equity + 0.00000001, peak_equity = peak_equity + 0.00000001"
            " WHERE challenge_id = %(one)s",
            "equity, peak_equity",
        ),
        ("UPDATE challenges SET version = DEFAULT, labels = '{}' WHERE challenge_id = %(one)s", "labels"),
        ("UPDATE challenges SET chain_head = sha256('') WHERE challenge_id = %(one)s", "chain_head"),
        ("DELETE FROM challenges WHERE challenge_id = %(one)s", "the row is missing"),
    ],
)
async def test_what_was_changed_is_named_and_put_right_once_the_service_has_stopped(
    database_url: URL, statement: str, what: str
):
    async with running_engine(database_url) as engine:
        ids = await live(engine)
        before = await rows_of(database_url)
        async with tampering(database_url) as connection:
            await connection.execute(statement, {"one": ids[-1]})
        (differing,) = rebuilt(database_url).differing
        assert (differing.challenge_id, differing.what) == (ids[-1], what)
        with pytest.raises(CannotSwapError, match="stop every server"):
            rebuilt(database_url, swap=True)
    found = rebuilt(database_url, swap=True)
    assert (found.is_swapped, found.differing_count) == (True, 1)
    assert await rows_of(database_url) == before
    assert rebuilt(database_url).is_equal
    async with running_engine(database_url) as engine:
        # The triggers that keep history are back.
        assert (
            await sql(
                database_url,
                "SELECT tgname FROM pg_trigger WHERE tgrelid = 'challenges'::regclass AND NOT tgisinternal"
                " AND tgenabled <> 'A'",
            )
            == []
        )
        await engine.trading.submit(submission(ids[-1], "more", "1", 10**6))
    assert replay(database_url).is_clean


async def test_a_row_that_nothing_accounts_for_is_named_and_never_removed(database_url: URL):
    """Its events may have been taken away: then the row is what is left to tell of it."""
    async with running_engine(database_url) as engine:
        await live(engine)
        stranger = await engine.create()
    async with tampering(database_url) as connection:
        await connection.execute("DELETE FROM challenge_events WHERE challenge_id = %s", (stranger,))
    found = rebuilt(database_url)
    assert [each.challenge_id for each in found.faults] == [stranger]
    with pytest.raises(CannotSwapError, match="challenge-engine verify"):
        rebuilt(database_url, swap=True)
    assert await sql(database_url, "SELECT 1 FROM challenges WHERE challenge_id = %s", (stranger,)) == [(1,)]


async def test_bits_that_are_equal_but_not_the_same_are_found(database_url: URL):
    """100 and 100.00000000 are equal to SQL, and not the same in the table."""
    async with running_engine(database_url) as engine:
        challenge_id = await engine.create("100")
    async with tampering(database_url) as connection:
        await connection.execute("ALTER TABLE challenges ALTER COLUMN equity TYPE numeric")
        await connection.execute("UPDATE challenges SET equity = 100.0")
    try:
        (differing,) = rebuilt(database_url).differing
        assert differing.challenge_id == challenge_id
    finally:
        async with tampering(database_url) as connection:
            await connection.execute("ALTER TABLE challenges ALTER COLUMN equity TYPE numeric(24, 8)")


async def test_nothing_is_made_of_trades_that_have_faults_themselves(database_url: URL):
    async with running_engine(database_url) as engine:
        ids = await live(engine)
    async with tampering(database_url) as connection:
        await connection.execute("UPDATE trades SET symbol = 'x' WHERE challenge_id = %s AND sequence = 1", (ids[0],))
        await connection.execute("UPDATE challenges SET labels = '{}' WHERE challenge_id = %s", (ids[-1],))
    before = await rows_of(database_url)
    with pytest.raises(CannotSwapError, match="challenge-engine verify"):
        rebuilt(database_url, swap=True)
    assert await rows_of(database_url) == before
