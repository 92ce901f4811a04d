"""Challenges whose state the writer remembers: written without being read first, and never wrongly."""

import asyncio
from collections.abc import Callable

import pytest
from sqlalchemy.engine import URL

from challenge_engine.remembered import RememberedStates
from challenge_engine.writer import GroupWriter
from challenge_rules import ChallengeEngine, ChallengeState
from challenge_rules.engine import initial_state
from tests.engine.harness import (
    NOON,
    RunningEngine,
    locked_challenge,
    make_terms,
    new_id,
    plant_trade_trigger,
    proxied,
    running_engine,
    sql,
    submission,
    told,
    uproot_trigger,
)


def history(challenge_id: str, length: int) -> list[ChallengeState]:
    """The states of a challenge, from its creation on."""
    states = [initial_state(make_terms(challenge_id))]
    for number in range(length):
        trade = submission(challenge_id, f"t{number}", "1", number).trade
        states.append(ChallengeEngine().decide(states[-1], trade, recorded_at=NOON).state)
    return states


class TestRememberedStates:
    def test_a_challenge_is_relied_upon_once_it_was_found_as_it_was_left(self):
        challenge_id = new_id()
        created, first, second, third = history(challenge_id, 3)
        remembered = RememberedStates()
        remembered.committed({challenge_id: created}, {challenge_id: first})
        assert remembered.reliable([challenge_id]) is None
        remembered.committed({challenge_id: first}, {challenge_id: second})
        assert remembered.reliable([challenge_id]) == {challenge_id: second}
        remembered.committed({challenge_id: second}, {challenge_id: third})
        assert remembered.reliable([challenge_id]) == {challenge_id: third}

    def test_one_that_somebody_else_moved_in_between_is_not(self):
        challenge_id = new_id()
        created, first, second, third = history(challenge_id, 3)
        remembered = RememberedStates()
        remembered.committed({challenge_id: created}, {challenge_id: first})
        remembered.committed({challenge_id: second}, {challenge_id: third})
        assert remembered.reliable([challenge_id]) is None

    def test_all_are_reliable_or_none(self):
        known, unknown = new_id(), new_id()
        created, first, second = history(known, 2)
        remembered = RememberedStates()
        remembered.committed({known: created}, {known: first})
        remembered.committed({known: first}, {known: second})
        assert remembered.reliable([known, unknown]) is None
        assert remembered.reliable([]) == {}

    @pytest.mark.parametrize("forget", [lambda it, one: it.forget([one, new_id()]), lambda it, one: it.clear()])
    def test_what_is_forgotten_has_to_be_found_again(self, forget: Callable[[RememberedStates, str], None]):
        challenge_id = new_id()
        created, first, second, third = history(challenge_id, 3)
        remembered = RememberedStates()
        remembered.committed({challenge_id: created}, {challenge_id: first})
        remembered.committed({challenge_id: first}, {challenge_id: second})
        forget(remembered, challenge_id)
        assert remembered.reliable([challenge_id]) is None
        remembered.committed({challenge_id: second}, {challenge_id: third})
        assert remembered.reliable([challenge_id]) is None

    def test_those_used_last_are_kept(self):
        ids = [new_id() for _ in range(4)]
        histories = {challenge_id: history(challenge_id, 3) for challenge_id in ids}
        remembered = RememberedStates(capacity=3)
        for step in range(3):
            for challenge_id in (*ids[:3], ids[0]) if step == 0 else ids[:3]:
                before, after = histories[challenge_id][step : step + 2]
                remembered.committed({challenge_id: before}, {challenge_id: after})
        newest = ids[3]
        remembered.committed({newest: histories[newest][0]}, {newest: histories[newest][1]})
        assert len(remembered) == 3
        assert remembered.reliable([ids[0]]) is None
        assert remembered.reliable(ids[1:3]) == {each: histories[each][3] for each in ids[1:3]}


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[set[str]]:
    """The challenges of every group that was read before it was decided."""
    seen: list[set[str]] = []
    real = GroupWriter._read

    async def read(self, connection, group):
        seen.append(set(group))
        return await real(self, connection, group)

    monkeypatch.setattr(GroupWriter, "_read", read)
    return seen


async def relied_upon(engine: RunningEngine, count: int = 1) -> list[str]:
    """Challenges with the trades t0 and t1, at 0 s and 1 s, whose state the writer relies upon."""
    challenges = [await engine.create() for _ in range(count)]
    for number in range(2):
        await engine.batch(*(submission(each, f"t{number}", "1", number) for each in challenges))
    return challenges


async def test_from_its_third_trade_on_a_challenge_is_not_read_first(engine: RunningEngine, reads: list[set[str]]):
    (challenge_id,) = await relied_upon(engine)
    assert reads == [{challenge_id}] * 2
    for number in range(2, 6):
        assert told(await engine.trading.submit(submission(challenge_id, f"t{number}", "1", number))) == number + 1
    assert reads == [{challenge_id}] * 2
    state = await engine.state(challenge_id)
    assert (state.last_sequence, state.equity) == (6, 100006 * 10**8)


async def test_sent_again_it_is_replayed_and_with_other_content_refused(engine: RunningEngine):
    (challenge_id,) = await relied_upon(engine)
    answers = await engine.batch(
        submission(challenge_id, "t1", "1", 1),
        submission(challenge_id, "t2", "1", 2),
        submission(challenge_id, "t2", "1", 2),
    )
    assert [told(answer) for answer in answers] == [-2, 3, -3]
    # Later than all others, so that only the table knows of it.
    answers = await engine.batch(submission(challenge_id, "t0", "1", 9), submission(challenge_id, "t9", "1", 9))
    assert [told(answer) for answer in answers] == ["TRADE_ID_REUSED", 4]
    assert told(await engine.trading.submit(submission(challenge_id, "t10", "1", 10))) == 5


async def test_refusals_and_trades_that_are_only_validated_write_nothing(engine: RunningEngine):
    one, two = await relied_upon(engine, 2)
    answers = await engine.batch(
        submission(one, "late", "1", 1),
        submission(two, "ahead", "1", 2, expected_sequence=9),
        submission(one, "t2", "1", 2, validate_only=True),
        submission(two, "t2", "1", 2),
        submission(one, "end", "-6000", 3),
        submission(one, "after", "1", 4),
    )
    assert [told(answer) for answer in answers] == [
        "TRADE_OUT_OF_ORDER",
        "SEQUENCE_MISMATCH",
        3,
        3,
        3,
        "CHALLENGE_TERMINAL",
    ]
    assert [(await engine.state(each)).last_sequence for each in (one, two)] == [3, 3]
    assert [event.new_status for event in engine.emitted] == ["PENDING", "PENDING", "ACTIVE", "ACTIVE", "FAILED"]


async def test_what_another_process_wrote_is_seen_and_the_challenge_read_from_then_on(
    database_url: URL, engine: RunningEngine, reads: list[set[str]]
):
    (challenge_id,) = await relied_upon(engine)
    async with running_engine(database_url) as other:
        for number in range(2, 8):
            one = submission(challenge_id, f"t{number}", "1", number)
            writer = (other, engine)[number % 2]
            assert told(await writer.trading.submit(one)) == number + 1
    assert reads == [{challenge_id}] * 8


async def test_a_trade_that_another_process_accepted_is_replayed(database_url: URL, engine: RunningEngine):
    (challenge_id,) = await relied_upon(engine)
    one = submission(challenge_id, "t2", "-6000", 2)
    async with running_engine(database_url) as other:
        first = await other.trading.submit(one)
    second = await engine.trading.submit(one)
    assert (told(first), told(second), second.status) == (3, -3, "FAILED")
    assert told((await engine.batch(submission(challenge_id, "t3", "1", 3)))[0]) == "CHALLENGE_TERMINAL"


async def test_a_row_that_is_locked_is_a_conflict_of_its_challenge_alone(database_url: URL, short_lock_timeout):
    async with running_engine(database_url) as engine:
        stuck, other = await relied_upon(engine, 2)
        async with locked_challenge(database_url, stuck):
            answers = await engine.batch(submission(stuck, "t2", "1", 2), submission(other, "t2", "1", 2))
        assert [told(answer) for answer in answers] == ["WRITE_CONFLICT", 3]
        assert told(await engine.trading.submit(submission(stuck, "t2", "1", 2))) == 3


async def test_a_statement_that_fails_fails_its_trade_alone(engine: RunningEngine):
    one, two = await relied_upon(engine, 2)
    await plant_trade_trigger(engine.url, "IF NEW.trade_id = 'poison' THEN RAISE EXCEPTION 'planted'; END IF;")
    answers = await engine.batch(
        submission(one, "t2", "1", 2), submission(two, "poison", "1", 2), submission(two, "t3", "1", 3)
    )
    assert [told(answer) for answer in answers] == [3, "INTERNAL", "PREDECESSOR_FAILED"]
    assert told(await engine.trading.submit(submission(two, "t3", "1", 3))) == 3


async def test_lost_before_commit_it_is_executed_again(engine: RunningEngine):
    (challenge_id,) = await relied_upon(engine)
    await sql(engine.url, "CREATE SEQUENCE planted.attempts")
    await plant_trade_trigger(
        engine.url,
        "IF nextval('planted.attempts') = 1 THEN PERFORM pg_terminate_backend(pg_backend_pid()); END IF;",
    )
    assert told(await engine.trading.submit(submission(challenge_id, "t2", "1", 2))) == 3
    await uproot_trigger(engine.url)
    assert told(await engine.trading.submit(submission(challenge_id, "t3", "1", 3))) == 4


async def test_lost_during_commit_the_outcome_is_unknown_and_sending_again_tells_it(database_url: URL):
    async with proxied(database_url) as proxy, running_engine(proxy.url(database_url), assign=False) as engine:
        (challenge_id,) = await relied_upon(engine)
        proxy.lose_next_commit = True
        one = submission(challenge_id, "t2", "1", 2)
        assert [told(answer) for answer in await engine.batch(one)] == ["OUTCOME_UNKNOWN"]
        assert proxy.lost == 1
        assert [told(answer) for answer in await engine.batch(one)] == [-3]


async def test_after_a_lost_session_nothing_is_relied_upon(engine: RunningEngine, reads: list[set[str]]):
    """Whoever ended it may have restored another database under the same name, where versions mean other trades."""
    (challenge_id,) = await relied_upon(engine)
    await sql(
        engine.url,
        "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'",
    )
    await sql(engine.url, "UPDATE challenges SET equity = 98000 WHERE challenge_id = %s", (challenge_id,))
    decision = await engine.trading.submit(submission(challenge_id, "t2", "-1000", 2))
    assert decision.equity == 97000 * 10**8
    assert reads == [{challenge_id}] * 3


async def test_many_callers_of_many_challenges_through_two_processes_lose_and_double_nothing(
    database_url: URL, engine: RunningEngine
):
    challenges = await relied_upon(engine, 12)
    async with running_engine(database_url) as other:

        async def play(challenge_id: str, index: int) -> None:
            """Mostly through one process, as a gateway that keeps its connection; now and then through the other."""
            for number in range(2, 22):
                writer = other if (number + index) % 7 == 0 else engine
                one = submission(challenge_id, f"t{number}", "1", number)
                assert told(await writer.trading.submit(one)) == number + 1
                if number % 5 == 0:
                    assert told(await engine.trading.submit(one)) == -(number + 1)

        await asyncio.gather(*(play(each, index) for index, each in enumerate(challenges)))
    for challenge_id in challenges:
        assert (await engine.state(challenge_id)).equity == 100022 * 10**8
