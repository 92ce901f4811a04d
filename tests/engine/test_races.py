"""Many writers at once, as several processes would be: services with pools of their own on one database."""

import asyncio
import logging
import random
from collections import Counter
from contextlib import AsyncExitStack

import pytest
from sqlalchemy.engine import URL

from challenge_rules import ChallengeEngine, ChallengeState, Decision, RecordedTrade
from challenge_rules.engine import initial_state
from challenge_rules.errors import ChallengeError
from tests.engine.harness import RunningEngine, answer_in_wire_form, make_terms, running_engine, submission, told, value

WRITERS = 16
PROCESSES = 3


@pytest.fixture
async def engines(database_url: URL):
    """Three engines on one database."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(running_engine(database_url)) for _ in range(PROCESSES)]


async def all_trades(engine: RunningEngine, challenge_id: str) -> list[RecordedTrade]:
    trades: list[RecordedTrade] = []
    token = ""
    while True:
        page, token = await engine.reader.list_trades(challenge_id, first=1, last=0, limit=500, page_token=token)
        trades += page
        if not token:
            return trades


async def replayed_state(engine: RunningEngine, challenge_id: str) -> ChallengeState:
    """What the pure engine makes of the stored trades in order; each must give the stored decision again."""
    pure, state = ChallengeEngine(), initial_state((await engine.state(challenge_id)).terms)
    for recorded in await all_trades(engine, challenge_id):
        outcome = pure.decide(state, recorded.trade, recorded_at=recorded.decision.recorded_at or 0)
        assert outcome.decision == recorded.decision
        state = outcome.state
    return state


async def send_until_settled(engine: RunningEngine, one) -> Decision | ChallengeError:
    """As the SDK does: a write conflict is sent again."""
    for _ in range(10):
        (answer,) = await engine.batch(one)
        if told(answer) != "WRITE_CONFLICT":
            return answer
    return answer


def no_deadlocks(caplog: pytest.LogCaptureFixture) -> bool:
    return "deadlock" not in caplog.text.lower()


async def test_sixteen_writers_on_one_challenge_leave_no_gap_and_the_right_equity(
    engines: list[RunningEngine], caplog: pytest.LogCaptureFixture
):
    """Each writer sends its trades in order; what another overtook is refused as out of order, and nothing is lost."""
    caplog.set_level(logging.DEBUG)
    challenge_id = await engines[0].create()
    dice = random.Random(16)
    moments = list(range(WRITERS * 12))
    dice.shuffle(moments)

    async def write(writer: int) -> list:
        engine = engines[writer % PROCESSES]
        answers = []
        for number, second in enumerate(sorted(moments[writer::WRITERS])):
            one = submission(challenge_id, f"w{writer}-{number}", str(dice.choice((-3, 5, 0.25))), second)
            answers.append((one, await send_until_settled(engine, one)))
        return answers

    settled = [pair for answers in await asyncio.gather(*map(write, range(WRITERS))) for pair in answers]
    decisions = {one.trade.trade_id: answer for one, answer in settled if isinstance(answer, Decision)}
    assert {told(answer) for _, answer in settled if not isinstance(answer, Decision)} <= {"TRADE_OUT_OF_ORDER"}
    stored = await all_trades(engines[0], challenge_id)
    assert [recorded.decision.sequence for recorded in stored] == list(range(1, len(decisions) + 1))
    assert {recorded.trade.trade_id: recorded.decision for recorded in stored} == decisions
    assert await replayed_state(engines[0], challenge_id) == await engines[0].state(challenge_id)
    assert no_deadlocks(caplog)


async def test_sixteen_writers_on_many_challenges_never_wait_in_a_circle(
    engines: list[RunningEngine], caplog: pytest.LogCaptureFixture
):
    """Batches over many challenges in random order, through three services, so that groups overlap all the time."""
    caplog.set_level(logging.DEBUG)
    challenges = [await engines[0].create() for _ in range(20)]
    clock = iter(range(1, 10**6))
    accepted: Counter[str] = Counter()

    async def write(writer: int) -> None:
        dice = random.Random(writer)
        for number in range(6):
            batch = [
                submission(challenge_id, f"w{writer}-{number}", dice.choice(("-1.5", "2", "0.00000001")), next(clock))
                for challenge_id in dice.sample(challenges, 12)
            ]
            for answer in await engines[writer % PROCESSES].batch(*batch):
                assert told(answer) in {"TRADE_OUT_OF_ORDER", "WRITE_CONFLICT"} or isinstance(answer, Decision)
                if isinstance(answer, Decision):
                    accepted[answer.challenge_id] += 1

    await asyncio.gather(*map(write, range(WRITERS)))
    for challenge_id in challenges:
        state = await engines[1].state(challenge_id)
        assert state.last_sequence == accepted[challenge_id]
        assert await replayed_state(engines[2], challenge_id) == state
    assert accepted.total() > 0
    assert await value(engines[0].url, "SELECT count(*) FROM trades") == accepted.total()
    assert no_deadlocks(caplog)


async def test_of_duplicates_that_race_through_different_services_one_is_decided_and_the_others_replay_it(
    engines: list[RunningEngine],
):
    challenge_id = await engines[0].create()
    for number in range(15):
        one = submission(challenge_id, f"t{number}", "-1.25", number)
        answers = await asyncio.gather(*(send_until_settled(engines[n % PROCESSES], one) for n in range(WRITERS)))
        assert Counter(map(told, answers)) == {number + 1: 1, -(number + 1): WRITERS - 1}
        assert len({str({**answer_in_wire_form(answer), "replayed": None}) for answer in answers}) == 1
    assert (await engines[0].state(challenge_id)).last_sequence == 15


async def test_of_different_trades_that_race_under_one_trade_id_one_is_decided_and_the_others_are_refused(
    engines: list[RunningEngine],
):
    challenge_id = await engines[0].create()
    for number in range(10):
        answers = await asyncio.gather(
            *(
                send_until_settled(engines[n % PROCESSES], submission(challenge_id, f"t{number}", str(n), number))
                for n in range(6)
            )
        )
        assert Counter(map(told, answers)) == {number + 1: 1, "TRADE_ID_REUSED": 5}


async def test_of_racing_writers_with_the_same_expected_sequence_one_wins(engines: list[RunningEngine]):
    challenge_id = await engines[0].create()
    for sequence in range(1, 11):
        answers = await asyncio.gather(
            *(
                send_until_settled(
                    engines[n % PROCESSES],
                    submission(challenge_id, f"t{sequence}-{n}", "1", sequence, expected_sequence=sequence),
                )
                for n in range(6)
            )
        )
        gists = Counter(map(told, answers))
        assert gists[sequence] == 1
        assert gists.total() == 6
        assert set(gists) <= {sequence, "TRADE_OUT_OF_ORDER", "SEQUENCE_MISMATCH"}


async def test_a_challenge_ends_once_however_many_end_it(engines: list[RunningEngine]):
    for _ in range(5):
        challenge_id = await engines[0].create()
        answers = await asyncio.gather(
            *(
                send_until_settled(engines[n % PROCESSES], submission(challenge_id, f"t{n}", "-6000", n))
                for n in range(9)
            )
        )
        gists = Counter(map(told, answers))
        assert gists[1] == 1
        assert gists["CHALLENGE_TERMINAL"] == 8
        events = await engines[0].all_positioned()
        assert [str(e.new_status) for e in events if e.challenge_id == challenge_id] == ["PENDING", "ACTIVE", "FAILED"]


async def test_creations_of_one_id_through_different_services_make_one_challenge(engines: list[RunningEngine]):
    terms = make_terms()
    answers = await asyncio.gather(*(engines[n % PROCESSES].trading.create_challenge(terms) for n in range(WRITERS)))
    assert Counter(replayed for _, replayed in answers) == {False: 1, True: WRITERS - 1}
    assert sum(len(engine.emitted) for engine in engines) == 1
