"""The filler of the benchmarks: what it stores is what the service would have stored."""

import uuid
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from sqlalchemy.engine import URL

from bench import filling
from challenge_engine.event_log import EventFilter
from challenge_rules import (
    ChallengeEngine,
    ChallengeEvent,
    ChallengeState,
    ChallengeStatus,
    RecordedTrade,
    TradeSubmission,
)
from challenge_rules.money import parse_amount
from tests.engine.harness import conninfo, running_engine, sql, value

CHALLENGES = 20
TRADES = 30


@pytest.fixture
def filled(database_url: URL) -> list[str]:
    return filling.fill(conninfo(database_url), challenges=CHALLENGES, trades_per_challenge=TRADES, block=7)


def _decided(number: int) -> tuple[ChallengeState, list[RecordedTrade], list[ChallengeEvent]]:
    """What the pure engine makes of a challenge."""
    engine = ChallengeEngine()
    state, created = engine.create(filling.terms(number))
    recorded, events = [], [created]
    for sequence in range(1, TRADES + 1):
        trade = filling.trade(sequence)
        outcome = engine.decide(state, trade, recorded_at=trade.executed_at + filling.RECORDING_DELAY)
        state = outcome.state
        recorded.append(RecordedTrade(trade, outcome.decision, outcome.state.chain_head))
        events.extend(outcome.events)
    return state, recorded, events


async def _rows(url: URL, table: str, challenge_id: str) -> list[Any]:
    """Everything a table holds of a challenge, but for its id, and for the links that hold it, too."""
    own = "'{challenge_id,chain_hash,chain_head}'::text[]"
    found = await sql(
        url, f"SELECT to_jsonb(t) - {own} FROM {table} t WHERE challenge_id = %s ORDER BY 1", (challenge_id,)
    )
    return [row[0] for row in found]


async def test_the_service_reads_what_the_pure_engine_decides(database_url: URL, filled: list[str]) -> None:
    assert len(filled) == CHALLENGES
    async with running_engine(database_url) as engine:
        for number, challenge_id in enumerate(filled):
            state, recorded, _ = _decided(number)
            assert state.status is ChallengeStatus.ACTIVE
            assert state.terms.challenge_id == challenge_id
            assert await engine.state(challenge_id) == state
            found = await engine.reader.list_trades(challenge_id, first=1, last=0, limit=TRADES, page_token="")
            assert found == (recorded, "")


async def test_every_column_is_as_the_service_itself_would_have_written_it(
    database_url: URL, filled: list[str]
) -> None:
    """Another challenge with the terms of the first goes through the service at the same moments."""
    now = 0
    terms = replace(filling.terms(0), challenge_id=str(uuid.uuid4()))
    async with running_engine(database_url, clock=lambda: now) as engine:
        await engine.trading.create_challenge(terms)
        for sequence in range(1, TRADES + 1):
            trade = filling.trade(sequence)
            now = trade.executed_at + filling.RECORDING_DELAY
            await engine.trading.submit(TradeSubmission(terms.challenge_id, trade))
    for table, count in (("challenges", 1), ("trades", TRADES), ("challenge_events", 2)):
        stored = await _rows(database_url, table, filled[0])
        assert len(stored) == count
        assert stored == await _rows(database_url, table, terms.challenge_id)


async def test_the_log_holds_the_events_without_gaps_all_creations_first(database_url: URL, filled: list[str]) -> None:
    decided = [_decided(number)[2] for number in range(CHALLENGES)]
    async with running_engine(database_url) as engine:
        page = await engine.log.read(EventFilter(), after=0, limit=1000)
    assert [positioned.position for positioned in page.events] == list(range(1, 2 * CHALLENGES + 1))
    expected = [events[place] for place in range(2) for events in decided]
    assert [positioned.event for positioned in page.events] == expected


async def test_a_filled_challenge_trades_on_and_the_log_goes_on(database_url: URL, filled: list[str]) -> None:
    following = filling.trade(TRADES + 1)
    ruinous = replace(filling.trade(TRADES + 2), realized_pnl=parse_amount("-6000"))
    async with running_engine(database_url) as engine:
        for challenge_id in filled:
            replayed = await engine.trading.submit(TradeSubmission(challenge_id, filling.trade(TRADES)))
            assert (replayed.sequence, replayed.replayed) == (TRADES, True)
            decision = await engine.trading.submit(TradeSubmission(challenge_id, following))
            assert (decision.sequence, decision.status) == (TRADES + 1, ChallengeStatus.ACTIVE)
        await engine.trading.submit(TradeSubmission(filled[3], ruinous))
        events = await engine.all_positioned()
    assert len(events) == 2 * CHALLENGES + 1
    assert (events[-1].challenge_id, events[-1].challenge_sequence) == (filled[3], 3)
    assert events[-1].new_status is ChallengeStatus.FAILED


async def test_the_load_left_out_no_check_that_would_have_failed(database_url: URL, filled: list[str]) -> None:
    """Foreign keys are added once more, which checks them, and triggers do their work again."""
    async with await psycopg.AsyncConnection.connect(conninfo(database_url)) as connection:
        for table, key, parent in (
            ("trades", "challenge_id", "challenges"),
            ("challenge_events", "challenge_id", "challenges"),
            ("event_positions", "challenge_id, challenge_sequence", "challenge_events"),
        ):
            await connection.execute(f"ALTER TABLE {table} ADD FOREIGN KEY ({key}) REFERENCES {parent}".encode())
        with pytest.raises(psycopg.errors.RestrictViolation):
            await connection.execute("DELETE FROM trades")


def test_ids_are_those_of_version_7_in_the_order_of_their_creation_and_always_the_same(filled: list[str]) -> None:
    assert filled == sorted(set(filled)) == [filling.challenge_id(number) for number in range(CHALLENGES)]
    assert {uuid.UUID(challenge_id).version for challenge_id in filled} == {7}
    assert {uuid.UUID(challenge_id).variant for challenge_id in filled} == {uuid.RFC_4122}


async def test_a_database_is_filled_in_several_steps_also_with_challenges_that_wait_for_their_first_trade(
    database_url: URL, filled: list[str]
) -> None:
    more = filling.fill(conninfo(database_url), challenges=5, trades_per_challenge=0, first=CHALLENGES)
    assert not set(more) & set(filled)
    async with running_engine(database_url) as engine:
        assert {(await engine.state(challenge_id)).status for challenge_id in more} == {ChallengeStatus.PENDING}
        page = await engine.log.read(EventFilter(), after=2 * CHALLENGES, limit=1000)
        assert [positioned.event.challenge_id for positioned in page.events] == more
        decision = await engine.trading.submit(TradeSubmission(more[0], filling.trade(1)))
    assert decision.sequence == 1


async def test_filling_twice_is_refused_and_leaves_nothing(database_url: URL, filled: list[str]) -> None:
    with pytest.raises(psycopg.errors.UniqueViolation):
        filling.fill(conninfo(database_url), challenges=2 * CHALLENGES, trades_per_challenge=1)
    assert await value(database_url, "SELECT count(*) FROM challenges") == CHALLENGES
