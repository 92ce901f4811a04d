"""Challenges whose state the writer remembers: written without being read first, and never wrongly."""

import asyncio
import random
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from sqlalchemy.engine import URL

from challenge_engine.remembered import MAX_LABEL_CHARACTERS, RememberedStates
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
    tampering,
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


def remembering(challenge_id: str, *states: ChallengeState) -> RememberedStates:
    """What a process remembers that read each of these states and committed the next."""
    remembered = RememberedStates()
    for before, after in pairwise(states):
        remembered.found({challenge_id: before})
        remembered.committed([after])
    return remembered


class TestRememberedStates:
    def test_a_challenge_is_relied_upon_once_it_was_found_as_it_was_left(self):
        challenge_id = new_id()
        created, first, second, third = history(challenge_id, 3)
        remembered = remembering(challenge_id, created, first)
        assert remembered.reliable([challenge_id]) is None
        remembered.found({challenge_id: first})
        assert remembered.reliable([challenge_id]) == {challenge_id: first}
        for state in (second, third):
            remembered.committed([state])
            assert remembered.reliable([challenge_id]) == {challenge_id: state}

    def test_one_that_somebody_else_moved_in_between_is_not(self):
        challenge_id = new_id()
        created, first, second, third = history(challenge_id, 3)
        remembered = remembering(challenge_id, created, first)
        remembered.found({challenge_id: second})
        remembered.committed([third])
        assert remembered.reliable([challenge_id]) is None

    def test_one_that_was_relied_upon_and_is_found_different_is_not_any_more(self):
        challenge_id = new_id()
        created, first, second, third = history(challenge_id, 3)
        remembered = remembering(challenge_id, created, first, second)
        assert remembered.reliable([challenge_id]) == {challenge_id: second}
        remembered.found({challenge_id: third})
        assert remembered.reliable([challenge_id]) is None

    def test_all_are_reliable_or_none(self):
        known, unknown = new_id(), new_id()
        remembered = remembering(known, *history(known, 2))
        assert remembered.reliable([known]) is not None
        assert remembered.reliable([known, unknown]) is None

    def test_those_used_last_are_kept(self):
        ids = [new_id() for _ in range(4)]
        states = {challenge_id: history(challenge_id, 2) for challenge_id in ids}
        remembered = RememberedStates(capacity=3)
        for challenge_id in ids[:3]:
            remembered.committed([states[challenge_id][1]])
            remembered.found({challenge_id: states[challenge_id][1]})
        remembered.committed([states[ids[0]][2]])
        remembered.committed([states[ids[3]][1]])
        assert len(remembered) == 3
        assert remembered.reliable([ids[1]]) is None
        assert remembered.reliable([ids[0], ids[2]]) == {ids[0]: states[ids[0]][2], ids[2]: states[ids[2]][1]}

    @pytest.mark.parametrize(
        ("characters", "is_kept"), [(MAX_LABEL_CHARACTERS, True), (MAX_LABEL_CHARACTERS + 1, False)]
    )
    def test_one_with_large_labels_is_not_remembered(self, characters: int, is_kept: bool):
        state = initial_state(make_terms(labels=(("key", "x" * (characters - 3)),)))
        remembered = RememberedStates()
        remembered.committed([state])
        assert len(remembered) == is_kept


@dataclass
class Ways:
    """How often groups were read before they were decided, and written on remembered states, and that in vain."""

    read: list[set[str]] = field(default_factory=list)
    unread: int = 0
    in_vain: int = 0


@pytest.fixture
def ways(monkeypatch: pytest.MonkeyPatch) -> Ways:
    """Counts the ways that groups go."""
    counted = Ways()
    real_read, real_write = GroupWriter._read, GroupWriter._write_remembered

    async def read(self, connection, group):
        counted.read.append(set(group))
        return await real_read(self, connection, group)

    async def write(self, connection, decided, states):
        is_written = await real_write(self, connection, decided, states)
        counted.unread += is_written
        counted.in_vain += not is_written
        return is_written

    monkeypatch.setattr(GroupWriter, "_read", read)
    monkeypatch.setattr(GroupWriter, "_write_remembered", write)
    return counted


async def relied_upon(engine: RunningEngine, count: int = 1) -> list[str]:
    """Challenges with the trades t0 and t1, at 0 s and 1 s, whose state the writer relies upon."""
    challenges = [await engine.create() for _ in range(count)]
    for number in range(2):
        await engine.batch(*(submission(each, f"t{number}", "1", number) for each in challenges))
    return challenges


async def test_from_its_third_trade_on_a_challenge_is_not_read_first(engine: RunningEngine, ways: Ways):
    (challenge_id,) = await relied_upon(engine)
    for number in range(2, 6):
        assert told(await engine.trading.submit(submission(challenge_id, f"t{number}", "1", number))) == number + 1
    assert ways == Ways([{challenge_id}] * 2, unread=4)
    state = await engine.state(challenge_id)
    assert (state.last_sequence, state.equity) == (6, 100006 * 10**8)


async def test_sent_again_it_is_replayed(engine: RunningEngine, ways: Ways):
    (challenge_id,) = await relied_upon(engine)
    answers = await engine.batch(
        submission(challenge_id, "t1", "1", 1),
        submission(challenge_id, "t2", "1", 2),
        submission(challenge_id, "t2", "1", 2),
    )
    assert [told(answer) for answer in answers] == [-2, 3, -3]
    assert told(await engine.trading.submit(submission(challenge_id, "t3", "1", 3))) == 4
    assert (ways.unread, ways.in_vain) == (1, 0)


async def test_an_id_used_again_for_a_later_trade_is_refused_though_only_the_table_knows_it(
    engine: RunningEngine, ways: Ways
):
    one, two = await relied_upon(engine, 2)
    answers = await engine.batch(
        submission(one, "t0", "1", 9), submission(two, "t2", "1", 9), submission(one, "t9", "1", 9.5)
    )
    assert [told(answer) for answer in answers] == ["TRADE_ID_REUSED", 3, 3]
    assert (ways.unread, ways.in_vain) == (0, 1)
    answers = await engine.batch(submission(one, "t10", "1", 10), submission(two, "t10", "1", 10))
    assert [told(answer) for answer in answers] == [4, 4]
    assert (ways.unread, ways.in_vain) == (1, 1)


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
    database_url: URL, engine: RunningEngine, ways: Ways
):
    (challenge_id,) = await relied_upon(engine)
    async with running_engine(database_url) as other:
        for number in range(2, 8):
            one = submission(challenge_id, f"t{number}", "1", number)
            writer = (other, engine)[number % 2]
            assert told(await writer.trading.submit(one)) == number + 1
    assert ways == Ways([{challenge_id}] * 8, unread=0, in_vain=1)


async def test_a_row_that_was_set_back_is_believed_though_its_keys_are_free(engine: RunningEngine, ways: Ways):
    """As after a restore under the feet of the service: no key stands in the way of what was decided on memory."""
    (challenge_id,) = await relied_upon(engine)
    async with tampering(engine.url) as restoring:
        await restoring.execute("DELETE FROM trades WHERE challenge_id = %s AND sequence = 2", (challenge_id,))
        await restoring.execute(
            "UPDATE challenges SET last_sequence = 1, equity = 100001, peak_equity = 100001,"
            " last_executed_at = last_executed_at - interval '1 second' WHERE challenge_id = %s",
            (challenge_id,),
        )
    decision = await engine.trading.submit(submission(challenge_id, "t2", "1", 2))
    assert (told(decision), decision.equity) == (2, 100002 * 10**8)
    assert ways.in_vain == 1


async def test_a_row_that_changed_without_its_version_is_believed(engine: RunningEngine, ways: Ways):
    """A version counts trades; it does not say which. Verdicts are made on the row that is locked."""
    (challenge_id,) = await relied_upon(engine)
    await sql(engine.url, "UPDATE challenges SET equity = 94000 WHERE challenge_id = %s", (challenge_id,))
    decision = await engine.trading.submit(submission(challenge_id, "t2", "-1000", 2))
    assert (told(decision), decision.status, decision.equity) == (3, "FAILED", 93000 * 10**8)
    assert (ways.unread, ways.in_vain) == (0, 1)


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


@pytest.mark.parametrize("max_group", [1, 3, 256])
async def test_many_callers_of_many_challenges_through_two_processes_lose_and_double_nothing(
    database_url: URL, ways: Ways, max_group: int
):
    """Mostly through one process, as a gateway that keeps its connection; now and then through the other."""
    dice = random.Random(max_group)
    async with (
        running_engine(database_url, max_group=max_group) as engine,
        running_engine(database_url, max_group=max_group) as other,
    ):
        challenges = await relied_upon(engine, 12)

        async def play(challenge_id: str) -> None:
            for number in range(2, 32):
                writer = other if dice.random() < 0.05 else engine
                one = submission(challenge_id, f"t{number}", "1", number)
                assert told(await writer.trading.submit(one)) == number + 1
                if dice.random() < 0.02:
                    assert told(await engine.trading.submit(one)) == -(number + 1)

        await asyncio.gather(*map(play, challenges))
        for challenge_id in challenges:
            assert (await engine.state(challenge_id)).equity == 100032 * 10**8
    assert ways.unread > 5
    assert ways.in_vain > 0
