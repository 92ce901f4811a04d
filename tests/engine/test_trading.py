"""Creating challenges and submitting trades: what callers are told, and what PostgreSQL then holds."""

import asyncio
from dataclasses import replace

import psycopg
import pytest
from sqlalchemy.engine import URL

from challenge_engine import backoff, creating, trading
from challenge_engine.submissions import Answer
from challenge_rules import (
    ChallengeEngine,
    ChallengeError,
    ChallengeStatus,
    Decision,
    Limits,
    Rule,
    Trade,
    TradeSubmission,
)
from challenge_rules.engine import initial_state
from challenge_rules.errors import ChallengeExistsError, DrainingError, OverloadedError
from challenge_rules.money import parse_amount
from tests.engine.harness import (
    NOON,
    NOW,
    SECOND,
    RunningEngine,
    busy_writer,
    lock_waiters,
    locked_challenge,
    make_terms,
    new_id,
    plant_trade_trigger,
    proxied,
    running_engine,
    sql,
    sql_session,
    submission,
    submitted,
    told,
    uproot_trigger,
    value,
)

SKEW = 5 * SECOND


async def stored_trades(url: URL, challenge_id: str) -> list[tuple[str, int]]:
    return [
        tuple(row)
        for row in await sql(
            url, "SELECT trade_id, sequence FROM trades WHERE challenge_id = %s ORDER BY sequence", (challenge_id,)
        )
    ]


async def reason_of(coroutine) -> str:
    with pytest.raises(ChallengeError) as refused:
        await coroutine
    return str(refused.value.reason)


def decisions_by_the_pure_engine(terms, submissions: list[TradeSubmission]) -> list[str | int]:
    pure, state, told_by_it = ChallengeEngine(), initial_state(terms), []
    for one in submissions:
        try:
            outcome = pure.decide(state, one.trade, recorded_at=NOW)
        except ChallengeError as error:
            told_by_it.append(str(error.reason))
        else:
            state = outcome.state
            told_by_it.append(outcome.decision.sequence)
    return told_by_it


class TestCreating:
    async def test_a_new_challenge_is_stored_as_it_was_answered(self, engine: RunningEngine):
        terms = make_terms(
            balance="123.45678901",
            limits=Limits(12_345, 999_999, 100_000_000),
            currency_code="JPY",
            labels=(("desk", "7"), ("über", "Ärger 😀 \\ \"'")),
        )
        state, replayed = await engine.trading.create_challenge(terms)
        assert (state, replayed) == (initial_state(terms), False)
        assert await engine.state(terms.challenge_id) == state

    async def test_the_same_again_is_a_replay_whenever_it_says_it_was_created(self, engine: RunningEngine):
        terms = make_terms(labels=(("a", "1"), ("b", "2")))
        state, _ = await engine.trading.create_challenge(terms)
        again = await engine.trading.create_challenge(replace(terms, created_at=terms.created_at + 5))
        assert again == (state, True)
        assert await value(engine.url, "SELECT count(*) FROM challenge_events") == 1

    async def test_a_replay_gives_the_challenge_as_it_is_now(self, engine: RunningEngine):
        terms = make_terms()
        await engine.trading.create_challenge(terms)
        await engine.trading.submit(submission(terms.challenge_id, "t1", "-6000"))
        state, replayed = await engine.trading.create_challenge(terms)
        assert replayed
        assert (state.status, state.last_sequence) == (ChallengeStatus.FAILED, 1)

    async def test_other_content_under_a_known_id_is_refused_with_every_differing_field(self, engine: RunningEngine):
        terms = make_terms(labels=(("a", "1"),))
        await engine.trading.create_challenge(terms)
        for differing, other in {
            "initial_balance": replace(terms, initial_balance=terms.initial_balance + 1),
            "limits.max_daily_drawdown_pct": replace(terms, limits=Limits(50_001, 100_000, 100_000)),
            "limits.max_total_drawdown_pct": replace(terms, limits=Limits(50_000, 99_999, 100_000)),
            "limits.profit_target_pct": replace(terms, limits=Limits(50_000, 100_000, 100_001)),
            "currency_code": replace(terms, currency_code="EUR"),
            "labels": replace(terms, labels=()),
            "initial_balance,limits.profit_target_pct,labels": replace(
                terms, initial_balance=1_000_000, limits=Limits(profit_target_pct=1), labels=(("a", "2"),)
            ),
        }.items():
            with pytest.raises(ChallengeExistsError) as refused:
                await engine.trading.create_challenge(other)
            assert refused.value.metadata == {"differing_fields": differing}
        assert await engine.state(terms.challenge_id) == initial_state(terms)

    async def test_of_sixteen_creations_at_once_one_makes_it_and_the_others_replay_it(self, engine: RunningEngine):
        terms = make_terms()
        answers = await asyncio.gather(*(engine.trading.create_challenge(terms) for _ in range(16)))
        assert sorted(replayed for _, replayed in answers) == [False] + [True] * 15
        assert {state for state, _ in answers} == {initial_state(terms)}
        assert await value(engine.url, "SELECT count(*) FROM challenge_events") == 1
        assert len(engine.emitted) == 1

    async def test_of_creations_with_other_content_at_once_one_wins_and_the_others_are_refused(
        self, engine: RunningEngine
    ):
        terms = make_terms()
        answers = await asyncio.gather(
            *(
                engine.trading.create_challenge(replace(terms, initial_balance=terms.initial_balance + number))
                for number in range(8)
            ),
            return_exceptions=True,
        )
        assert sorted(type(answer).__name__ for answer in answers) == ["ChallengeExistsError"] * 7 + ["tuple"]

    async def test_more_than_the_allowed_number_at_once_is_refused(self, database_url: URL, monkeypatch):
        monkeypatch.setattr(creating, "MAX_WAITING_TO_CREATE", 6)
        async with running_engine(database_url, pool_size=1) as engine:
            async with engine.database.connection():
                waiting = [await submitted(engine.create()) for _ in range(6)]
                with pytest.raises(OverloadedError) as refused:
                    await engine.create()
                assert refused.value.retry_after_s > 0
            await asyncio.gather(*waiting)
            assert await value(database_url, "SELECT count(*) FROM challenges") == 6

    async def test_another_transaction_that_makes_the_same_challenge_and_never_ends_is_a_write_conflict(
        self, database_url: URL, short_lock_timeout
    ):
        terms = make_terms()
        async with (
            running_engine(database_url) as engine,
            await psycopg.AsyncConnection.connect(
                engine.database.url.set(drivername="postgresql").render_as_string(hide_password=False)
            ) as other,
        ):
            await other.execute(
                "INSERT INTO challenges (challenge_id, initial_balance, max_daily_drawdown_pct, max_total_drawdown_pct,"
                " profit_target_pct, currency_code, labels, rules_version, equity, peak_equity, daily_start_equity,"
                " created_at, chain_head) VALUES (%s, 1, 5, 10, 10, 'USD', '{}', 1, 1, 1, 1, now(), sha256(''))",
                (terms.challenge_id,),
            )
            assert await reason_of(engine.trading.create_challenge(terms)) == "WRITE_CONFLICT"
            await other.rollback()
            assert await engine.trading.create_challenge(terms) == (initial_state(terms), False)


class TestSubmitting:
    async def test_a_trade_is_decided_recorded_and_moves_the_challenge(self, engine: RunningEngine):
        challenge_id = await engine.create()
        decision = await engine.trading.submit(submission(challenge_id, "t1", "-1234.00000001", symbol="BTC"))
        assert (decision.sequence, decision.status, decision.recorded_at) == (1, ChallengeStatus.ACTIVE, NOW)
        state = await engine.state(challenge_id)
        assert (state.equity, state.version) == (parse_amount("98765.99999999"), 2)
        (recorded,), _ = await engine.reader.list_trades(challenge_id, first=1, last=0, limit=10, page_token="")
        assert recorded.decision == decision
        assert recorded.trade == Trade("t1", parse_amount("-1234.00000001"), NOON, "BTC")

    async def test_the_same_again_gets_the_recorded_decision_even_after_the_end(self, engine: RunningEngine):
        challenge_id = await engine.create()
        first = await engine.trading.submit(submission(challenge_id, "t1", "-1", 1))
        last = await engine.trading.submit(submission(challenge_id, "t2", "20000", 2))
        assert last.status is ChallengeStatus.FUNDED
        for one, decision in ((submission(challenge_id, "t1", "-1.00", 1), first),
                              (submission(challenge_id, "t2", "20000", 2), last)):  # fmt: skip
            assert await engine.trading.submit(one) == replace(decision, replayed=True)
        assert await value(engine.url, "SELECT count(*) FROM trades") == 2

    async def test_the_same_id_with_other_content_is_refused_with_every_differing_field(self, engine: RunningEngine):
        challenge_id = await engine.create()
        await engine.trading.submit(submission(challenge_id, "t1", "1", 1, symbol="BTC"))
        for differing, other in {
            "realized_pnl": submission(challenge_id, "t1", "1.00000001", 1, symbol="BTC"),
            "executed_at": submission(challenge_id, "t1", "1", 1.000001, symbol="BTC"),
            "symbol": submission(challenge_id, "t1", "1", 1, symbol="btc"),
            "realized_pnl,executed_at,symbol": submission(challenge_id, "t1", "2", 0),
        }.items():
            with pytest.raises(ChallengeError) as refused:
                await engine.trading.submit(other)
            assert refused.value.reason == "TRADE_ID_REUSED"
            assert refused.value.metadata == {"differing_fields": differing}

    async def test_the_same_trade_id_on_two_challenges_is_two_trades(self, engine: RunningEngine):
        one, two = await engine.create(), await engine.create()
        answers = await engine.batch(submission(one, "t", "1"), submission(two, "t", "2"), submission(one, "t", "1"))
        assert [told(answer) for answer in answers] == [1, 1, -1]

    async def test_an_unknown_challenge_is_not_found_and_takes_nothing_down(self, engine: RunningEngine):
        known = await engine.create()
        answers = await engine.batch(submission(new_id(), "t1"), submission(known, "t1"), submission(new_id(), "t1"))
        assert [told(answer) for answer in answers] == ["CHALLENGE_NOT_FOUND", 1, "CHALLENGE_NOT_FOUND"]

    async def test_refused_trades_are_not_remembered(self, engine: RunningEngine):
        challenge_id = await engine.create()
        refused = submission(challenge_id, "t1", "1", expected_sequence=9)
        assert await reason_of(engine.trading.submit(refused)) == "SEQUENCE_MISMATCH"
        assert told(await engine.trading.submit(submission(challenge_id, "t1", "2", 7))) == 1

    async def test_the_checks_stand_in_their_binding_order(self, database_url: URL):
        now = [NOON + 10 * SECOND]
        async with running_engine(database_url, clock=lambda: now[0]) as engine:
            live, ended, full = (
                await engine.create(),
                await engine.create(),
                await engine.create(balance="9999999999999999"),
            )
            await engine.trading.submit(submission(live, "t1", "1", 15))
            await engine.trading.submit(submission(ended, "t1", "-6000", 15))
            now[0] = NOON
            for expected, one in (
                # a replay looks at neither clock, nor order, nor sequence, nor the end
                (-1, submission(ended, "t1", "-6000", 15, expected_sequence=7)),
                (-1, submission(live, "t1", "1", 15, expected_sequence=7)),
                ("TRADE_ID_REUSED", submission(ended, "t1", "1", 3000, expected_sequence=7)),
                ("CHALLENGE_TERMINAL", submission(ended, "t2", "1", 3000, expected_sequence=7)),
                ("CHALLENGE_TERMINAL", submission(ended, "t2", "1", 1)),
                ("TRADE_IN_FUTURE", submission(live, "t2", "1", 15, expected_sequence=7)),
                ("TRADE_IN_FUTURE", submission(live, "t2", "1", 5.000001)),
                ("TRADE_OUT_OF_ORDER", submission(live, "t2", "1", 5, expected_sequence=7)),
                ("SEQUENCE_MISMATCH", submission(full, "t1", "9999999999999999", 5, expected_sequence=7)),
                ("EQUITY_OUT_OF_RANGE", submission(full, "t1", "9999999999999999", 5, expected_sequence=1)),
                (1, submission(full, "t1", "-1", 5, expected_sequence=1)),
            ):
                (answer,) = await engine.batch(one)
                assert told(answer) == expected, one

    async def test_a_refusal_tells_what_the_caller_needs(self, engine: RunningEngine):
        live, ended = await engine.create(), await engine.create()
        await engine.batch(submission(live, "t1", "1", 1.5), submission(ended, "t1", "-6000"))
        for one, metadata in (
            (submission(live, "t2", "1", 1.5), {"last_executed_at": "2025-01-02T12:00:01.500000Z"}),
            (submission(live, "t2", "1", 2, expected_sequence=1), {"next_sequence": "2"}),
            (submission(ended, "t2", "1", 2), {"status": "FAILED"}),
        ):
            (answer,) = await engine.batch(one)
            assert isinstance(answer, ChallengeError)
            assert answer.metadata == metadata

    async def test_a_decisive_first_trade_changes_the_status_twice(self, engine: RunningEngine):
        challenge_id = await engine.create()
        decision = await engine.trading.submit(submission(challenge_id, "t1", "-5000.00000001"))
        assert (decision.previous_status, decision.status, decision.reason) == (
            ChallengeStatus.PENDING,
            ChallengeStatus.FAILED,
            Rule.MAX_DAILY_DRAWDOWN,
        )
        changes = await sql(
            engine.url, "SELECT old_status, new_status FROM challenge_events ORDER BY challenge_sequence"
        )
        assert changes == [(None, "PENDING"), ("PENDING", "ACTIVE"), ("ACTIVE", "FAILED")]

    async def test_no_trades_are_no_answers(self, engine: RunningEngine):
        assert await engine.batch() == []


class TestValidatingOnly:
    async def test_it_is_decided_at_its_place_writes_nothing_and_is_not_seen_by_later_items(
        self, engine: RunningEngine
    ):
        challenge_id = await engine.create()
        answers = await engine.batch(
            submission(challenge_id, "t1", "-1000", 1),
            submission(challenge_id, "dry", "-4000.00000001", 2, validate_only=True),
            submission(challenge_id, "t2", "1", 2, expected_sequence=2),
            submission(challenge_id, "dry", "1", 3),
        )
        assert [told(answer) for answer in answers] == [1, 2, 2, 3]
        dry = answers[1]
        assert isinstance(dry, Decision)
        assert (dry.status, dry.recorded_at) == (ChallengeStatus.FAILED, None)
        assert [answer.recorded_at for answer in answers if answer is not dry] == [NOW] * 3
        assert await stored_trades(engine.url, challenge_id) == [("t1", 1), ("t2", 2), ("dry", 3)]

    async def test_alone_it_leaves_the_challenge_and_its_events_as_they_were(self, engine: RunningEngine):
        challenge_id = await engine.create()
        before = await engine.state(challenge_id)
        await engine.trading.submit(submission(challenge_id, "dry", "-90000", validate_only=True))
        assert await engine.state(challenge_id) == before
        assert await value(engine.url, "SELECT count(*) FROM trades") == 0
        assert await value(engine.url, "SELECT count(*) FROM challenge_events") == 1
        assert len(engine.emitted) == 1

    async def test_of_an_accepted_trade_it_gives_the_recorded_decision_without_recorded_at(self, engine: RunningEngine):
        challenge_id = await engine.create()
        decision = await engine.trading.submit(submission(challenge_id, "t1", "1"))
        again = await engine.trading.submit(submission(challenge_id, "t1", "1", validate_only=True))
        assert again == replace(decision, replayed=True, recorded_at=None)

    async def test_it_is_refused_for_what_a_real_trade_is_refused_for(self, engine: RunningEngine):
        challenge_id = await engine.create()
        await engine.trading.submit(submission(challenge_id, "t1", "1", 1))
        answers = await engine.batch(
            submission(challenge_id, "t1", "2", 1, validate_only=True),
            submission(challenge_id, "t2", "2", 1, validate_only=True),
            submission(challenge_id, "t2", "2", 2, validate_only=True, expected_sequence=1),
            submission(new_id(), "t2", "2", 2, validate_only=True),
        )
        assert [told(answer) for answer in answers] == [
            "TRADE_ID_REUSED",
            "TRADE_OUT_OF_ORDER",
            "SEQUENCE_MISMATCH",
            "CHALLENGE_NOT_FOUND",
        ]


class TestBatches:
    async def test_every_kind_of_item_is_answered_in_its_place(self, engine: RunningEngine):
        one, two, ended = await engine.create(), await engine.create(), await engine.create()
        await engine.batch(submission(one, "old", "1", 1), submission(ended, "end", "-6000", 1))
        answers = await engine.batch(
            submission(two, "a", "1", 1),
            submission(one, "old", "1", 1),
            submission(one, "old", "2", 1),
            submission(ended, "late", "1", 2),
            submission(new_id(), "x"),
            submission(one, "b", "1", 2),
            submission(one, "b", "1", 2),
            submission(one, "b", "1", 3),
            submission(one, "c", "1", 2),
            submission(one, "d", "1", 3, expected_sequence=5),
            submission(one, "e", "1", 3, validate_only=True),
            submission(one, "f", "1", 10**8),
            submission(ended, "end", "-6000", 1),
            submission(two, "g", "-6000", 2),
            submission(two, "h", "1", 3),
            submission(one, "i", "1", 4, expected_sequence=3),
        )
        assert [told(answer) for answer in answers] == [
            1, -1, "TRADE_ID_REUSED", "CHALLENGE_TERMINAL", "CHALLENGE_NOT_FOUND", 2, -2, "TRADE_ID_REUSED",
            "TRADE_OUT_OF_ORDER", "SEQUENCE_MISMATCH", 3, "TRADE_IN_FUTURE", -1, 2, "CHALLENGE_TERMINAL", 3,
        ]  # fmt: skip
        assert await stored_trades(engine.url, one) == [("old", 1), ("b", 2), ("i", 3)]

    @pytest.mark.parametrize("max_group", [1, 7, 256])
    async def test_the_answers_do_not_depend_on_how_trades_are_grouped(self, database_url: URL, max_group: int):
        """120 trades of one challenge and 60 of ten others in one call, with refusals and replays among them."""
        terms = make_terms()
        others = [make_terms() for _ in range(10)]
        submissions = [
            submission(
                terms.challenge_id, f"t{number}", f"{(-1) ** number * (number % 90)}", number - (number % 9 == 0)
            )
            for number in range(120)
        ]
        everything = submissions + [
            submission(other.challenge_id, f"t{number}", "-900", number) for number in range(6) for other in others
        ]
        async with running_engine(database_url, max_group=max_group) as engine:
            for each in (terms, *others):
                await engine.trading.create_challenge(each)
            answers = [told(answer) for answer in await engine.trading.submit_batch(everything)]
            again = [told(answer) for answer in await engine.trading.submit_batch(everything)]
            expected = decisions_by_the_pure_engine(terms, submissions)
            assert answers[:120] == expected
            assert answers[120:] == [sequence for sequence in range(1, 7) for _ in others]
            assert again[:120] == [-gist if isinstance(gist, int) else "TRADE_OUT_OF_ORDER" for gist in expected]
            states = [await engine.state(other.challenge_id) for other in others]
            assert {(state.status, state.version) for state in states} == {(ChallengeStatus.FAILED, 7)}

    async def test_five_hundred_trades_of_one_challenge_span_groups_without_a_gap(self, database_url: URL):
        async with running_engine(database_url, max_group=64) as engine:
            challenge_id = await engine.create()
            answers = await engine.trading.submit_batch(
                [submission(challenge_id, f"t{number}", "0.00000001", number) for number in range(500)]
            )
            assert [told(answer) for answer in answers] == list(range(1, 501))
            assert (await engine.state(challenge_id)).equity == parse_amount("100000.000005")
            assert await value(database_url, "SELECT count(DISTINCT xmin::text) FROM trades") == 8


class TestWaitingTogether:
    async def test_trades_of_different_calls_that_wait_together_are_decided_by_executed_at(self, engine: RunningEngine):
        challenge_id = await engine.create()
        async with busy_writer(engine):
            calls = [
                await submitted(engine.trading.submit(submission(challenge_id, f"t{second}", "1", second)))
                for second in (5, 2, 9, 1, 7, 3, 8, 4, 6)
            ]
        decisions = await asyncio.gather(*calls)
        assert [decision.sequence for decision in decisions] == [5, 2, 9, 1, 7, 3, 8, 4, 6]

    async def test_within_a_call_request_order_stands_even_against_executed_at(self, engine: RunningEngine):
        challenge_id = await engine.create()
        async with busy_writer(engine):
            batch = await submitted(
                engine.batch(submission(challenge_id, "b3", "1", 3), submission(challenge_id, "b1", "1", 1))
            )
            unary = await submitted(engine.trading.submit(submission(challenge_id, "u2", "1", 2)))
        assert told(await unary) == 1
        assert [told(answer) for answer in await batch] == [2, "TRADE_OUT_OF_ORDER"]

    async def test_what_waits_together_is_written_together(self, engine: RunningEngine):
        challenges = [await engine.create() for _ in range(5)]
        async with busy_writer(engine):
            calls = [
                await submitted(engine.trading.submit(submission(challenge_id, f"t{second}", "1", second)))
                for challenge_id in challenges
                for second in range(4)
            ]
        await asyncio.gather(*calls)
        assert await transactions_of(engine, challenges) == 1


async def transactions_of(engine: RunningEngine, challenges: list[str]) -> int:
    """In how many transactions the trades of these challenges were written."""
    query = "SELECT count(DISTINCT xmin::text) FROM trades WHERE challenge_id = ANY(%s::uuid[])"
    return int(await value(engine.url, query, (challenges,)))


class TestLingering:
    """Under load a transaction waits a little for more trades, so that each carries many."""

    @pytest.fixture(autouse=True)
    def an_hour(self, monkeypatch):
        """Whoever waits where nobody should waits until the test fails."""
        monkeypatch.setattr(trading, "MAX_LINGER_S", 3600.0)
        monkeypatch.setattr(trading, "LINGER_SLICE_S", 3600.0)

    async def calls_at_once(self, engine: RunningEngine, count: int) -> "list[asyncio.Task[Decision]]":
        """So many calls, of a challenge each, that came while one transaction ran."""
        challenges = [await engine.create() for _ in range(count)]
        async with busy_writer(engine):
            return [await submitted(engine.trading.submit(submission(each, "at once"))) for each in challenges]

    async def test_after_many_calls_at_once_those_that_come_a_little_later_share_their_transaction(
        self, engine: RunningEngine, monkeypatch
    ):
        monkeypatch.setattr(trading, "LINGER_SLICE_S", 1.0)
        others = [await engine.create() for _ in range(3)]
        calls = await self.calls_at_once(engine, trading.LOADED_CALLS)
        await asyncio.sleep(0)
        assert not any(call.done() for call in calls)
        calls += [await submitted(engine.trading.submit(submission(each, "later"))) for each in others]
        decisions = await asyncio.gather(*calls)
        challenges = [decision.challenge_id for decision in decisions]
        assert await transactions_of(engine, challenges) == 1

    async def test_few_calls_never_wait(self, engine: RunningEngine):
        for _ in range(3):
            calls = await self.calls_at_once(engine, trading.LOADED_CALLS - 1)
            assert [told(await call) for call in calls] == [1] * (trading.LOADED_CALLS - 1)

    async def test_one_caller_never_waits_however_large_its_batches(self, database_url: URL):
        async with running_engine(database_url, max_group=8) as engine:
            challenge_id = await engine.create()
            for turn in range(10):
                batch = [submission(challenge_id, f"{turn}-{n}", "1", 100 * turn + n) for n in range(20)]
                assert told((await engine.batch(*batch))[-1]) == 20 * (turn + 1)

    async def test_a_wait_ends_while_calls_still_come(self, engine: RunningEngine, monkeypatch):
        monkeypatch.setattr(trading, "LINGER_SLICE_S", 0.01)
        monkeypatch.setattr(trading, "MAX_LINGER_S", 0.05)
        calls = await self.calls_at_once(engine, trading.LOADED_CALLS)
        challenge_id = await engine.create()
        more = []
        while not all(call.done() for call in calls):
            more.append(
                await submitted(engine.trading.submit(submission(challenge_id, f"{len(more)}", "1", len(more))))
            )
            await asyncio.sleep(0.005)
        assert [told(await call) for call in more] == list(range(1, len(more) + 1))

    async def test_the_wait_is_not_the_reason_for_the_next(self, engine: RunningEngine, monkeypatch):
        """Calls that were gathered by waiting show no load: the one after them is executed at once."""
        monkeypatch.setattr(trading, "LINGER_SLICE_S", 1.0)
        calls = await self.calls_at_once(engine, trading.LOADED_CALLS)
        others = [await engine.create() for _ in range(trading.LOADED_CALLS)]
        calls += [await submitted(engine.trading.submit(submission(each, "later"))) for each in others]
        await asyncio.gather(*calls)
        monkeypatch.setattr(trading, "LINGER_SLICE_S", 3600.0)
        assert told(await engine.trading.submit(submission(others[0], "alone", "1", 1))) == 2


RAISE = "IF NEW.trade_id LIKE 'poison%' THEN RAISE EXCEPTION 'planted secret' USING ERRCODE = '{}'; END IF;"


class TestAStatementThatFails:
    @pytest.mark.parametrize("at_commit", [False, True], ids=["in the statement", "in COMMIT"])
    @pytest.mark.parametrize(
        ("sqlstate", "reason"),
        [("P0001", "INTERNAL"), ("23514", "INTERNAL"), ("40001", "WRITE_CONFLICT"), ("40P01", "WRITE_CONFLICT")],
    )
    async def test_only_the_trade_at_fault_fails_and_all_others_are_decided_right(
        self, engine: RunningEngine, caplog: pytest.LogCaptureFixture, sqlstate: str, reason: str, at_commit: bool
    ):
        await plant_trade_trigger(engine.url, RAISE.format(sqlstate), at_commit=at_commit)
        one, two, three = [await engine.create() for _ in range(3)]
        async with busy_writer(engine):
            batch = await submitted(
                engine.batch(
                    submission(two, "a", "1", 1),
                    submission(one, "a", "-1", 1),
                    submission(one, "poison", "-2", 2),
                    submission(one, "b", "-4", 3),
                    submission(two, "b", "1", 2),
                    submission(one, "a", "-1", 1),
                    submission(three, "poison", "-6000", 1),
                )
            )
            other = await submitted(engine.batch(submission(one, "c", "-8", 4), submission(three, "c", "-1", 1)))
        answers = await batch
        assert [told(answer) for answer in answers] == [
            1, 1, reason, "PREDECESSOR_FAILED", 2, "PREDECESSOR_FAILED", reason,
        ]  # fmt: skip
        assert [told(answer) for answer in await other] == [2, 1]
        assert await stored_trades(engine.url, one) == [("a", 1), ("c", 2)]
        assert await stored_trades(engine.url, two) == [("a", 1), ("b", 2)]
        assert await stored_trades(engine.url, three) == [("c", 1)]
        assert (await engine.state(one)).equity == parse_amount("99991")
        assert (await engine.state(three)).status is ChallengeStatus.ACTIVE
        changes = await value(engine.url, "SELECT count(*) FROM challenge_events WHERE challenge_sequence > 1")
        assert changes == 4  # the plug's, and one for each of the three
        failed = answers[2]
        assert isinstance(failed, ChallengeError)
        assert "planted" not in str(failed)
        assert "planted" not in str(failed.metadata)
        if reason == "INTERNAL":
            assert f"error_id={failed.metadata['error_id']}" in caplog.text

    async def test_later_items_in_later_groups_are_not_executed_either(self, database_url: URL):
        await plant_trade_trigger(database_url, RAISE.format("P0001"))
        async with running_engine(database_url, max_group=2) as engine:
            one, two = await engine.create(), await engine.create()
            answers = await engine.batch(
                submission(one, "a", "1", 1),
                submission(one, "poison", "1", 2),
                *(submission(one, f"t{second}", "1", second) for second in range(3, 9)),
                submission(two, "a", "1", 1),
            )
            assert [told(answer) for answer in answers] == [1, "INTERNAL", *["PREDECESSOR_FAILED"] * 6, 1]
            assert await stored_trades(engine.url, one) == [("a", 1)]
            assert told(await engine.trading.submit(submission(one, "t3", "1", 3))) == 2

    @pytest.mark.parametrize("sqlstate", ["40001", "40P01", "55P03"])
    async def test_a_conflict_that_passes_is_not_noticed(self, engine: RunningEngine, sqlstate: str):
        await sql(engine.url, "CREATE SEQUENCE planted.attempts")
        await plant_trade_trigger(
            engine.url,
            f"IF nextval('planted.attempts') <= 2 THEN RAISE EXCEPTION 'x' USING ERRCODE = '{sqlstate}'; END IF;",
        )
        challenge_id = await engine.create()
        assert told(await engine.trading.submit(submission(challenge_id, "t1"))) == 1
        assert await stored_trades(engine.url, challenge_id) == [("t1", 1)]

    async def test_a_conflict_that_stays_is_retried_a_bounded_number_of_times(self, engine: RunningEngine):
        await sql(engine.url, "CREATE SEQUENCE planted.attempts")
        await plant_trade_trigger(
            engine.url, "PERFORM nextval('planted.attempts'); RAISE EXCEPTION 'x' USING ERRCODE = '40001';"
        )
        challenge_id = await engine.create()
        assert await reason_of(engine.trading.submit(submission(challenge_id, "t1"))) == "WRITE_CONFLICT"
        attempts = await value(engine.url, "SELECT last_value FROM planted.attempts")
        assert 2 <= attempts <= 2 * backoff.MAX_ATTEMPTS

    async def test_a_version_that_moved_under_us_writes_nothing(self, engine: RunningEngine):
        """The UPDATE finds no row of the version that was read, as if someone had gone round the row lock."""
        moved, steady = await engine.create(), await engine.create()
        await sql(
            engine.url,
            "CREATE FUNCTION planted.skip() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            f" IF OLD.challenge_id = '{moved}' THEN RETURN NULL; END IF; RETURN NEW; END $$",
        )
        await sql(
            engine.url,
            "CREATE TRIGGER skip BEFORE UPDATE ON challenges FOR EACH ROW EXECUTE FUNCTION planted.skip()",
        )
        answers = await engine.batch(submission(moved, "t1"), submission(steady, "t1"), submission(moved, "t2", "1", 1))
        assert [told(answer) for answer in answers] == ["WRITE_CONFLICT", 1, "PREDECESSOR_FAILED"]
        assert await stored_trades(engine.url, moved) == []
        assert await stored_trades(engine.url, steady) == [("t1", 1)]
        assert await value(engine.url, "SELECT count(*) FROM challenge_events") == 3
        await sql(engine.url, "DROP FUNCTION planted.skip() CASCADE")
        assert told(await engine.trading.submit(submission(moved, "t1"))) == 1

    async def test_a_challenge_of_rules_that_this_release_does_not_know_fails_alone(self, engine: RunningEngine):
        unknown, known = await engine.create(rules_version=2), await engine.create()
        answers = await engine.batch(
            submission(known, "t1"), submission(unknown, "t1"), submission(known, "t2", "1", 1)
        )
        assert [told(answer) for answer in answers] == [1, "INTERNAL", 2]

    async def test_sessions_that_were_lost_since_trades_were_last_executed_one_by_one_are_replaced_unnoticed(
        self, engine: RunningEngine
    ):
        await plant_trade_trigger(engine.url, RAISE.format("P0001"))
        challenges = [await engine.create() for _ in range(6)]
        for turn in range(2):
            answers = await engine.batch(
                *(submission(each, f"good-{turn}", "1", 2 * turn) for each in challenges),
                *(submission(each, f"poison-{turn}", "1", 2 * turn + 1) for each in challenges),
            )
            assert [told(answer) for answer in answers] == [turn + 1] * 6 + ["INTERNAL"] * 6
            await sql(
                engine.url,
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()",
            )


class TestARowThatIsLocked:
    async def test_it_delays_only_its_own_challenge(self, database_url: URL, short_lock_timeout):
        async with running_engine(database_url) as engine:
            locked, *others = [await engine.create() for _ in range(6)]
            async with locked_challenge(database_url, locked):
                stuck = await submitted(engine.trading.submit(submission(locked, "t1")))
                answers = await asyncio.gather(
                    *(engine.trading.submit(submission(other, f"t{n}", "1", n)) for n in range(3) for other in others)
                )
                assert [told(answer) for answer in answers] == [n for n in (1, 2, 3) for _ in others]
                assert await reason_of(stuck) == "WRITE_CONFLICT"
            assert told(await engine.trading.submit(submission(locked, "t1"))) == 1

    async def test_challenges_that_share_its_group_are_not_held_up_by_each_of_its_trades(
        self, database_url: URL, short_lock_timeout
    ):
        """However many calls wait for the locked challenge, the others of their group are answered before they fail."""
        async with running_engine(database_url) as engine:
            locked, other = await engine.create(), await engine.create()
            async with locked_challenge(database_url, locked):
                async with busy_writer(engine):
                    stuck = [
                        await submitted(engine.trading.submit(submission(locked, f"t{n}", "1", n))) for n in range(2)
                    ]
                    free = await submitted(engine.trading.submit(submission(other, "t1")))
                assert told(await free) == 1
                assert not all(task.done() for task in stuck)
                assert {await reason_of(task) for task in stuck} == {"WRITE_CONFLICT"}

    async def test_a_lock_that_is_released_in_time_is_waited_for(self, engine: RunningEngine):
        challenge_id = await engine.create()
        async with locked_challenge(engine.url, challenge_id):
            waiting = await submitted(engine.trading.submit(submission(challenge_id, "t1")))
            await lock_waiters(engine.url)
        assert told(await waiting) == 1


KILL_SELF = "PERFORM pg_terminate_backend(pg_backend_pid());"


class TestAConnectionThatIsLost:
    async def test_before_commit_the_group_is_executed_again(self, engine: RunningEngine):
        await sql(engine.url, "CREATE SEQUENCE planted.attempts")
        await plant_trade_trigger(engine.url, f"IF nextval('planted.attempts') = 1 THEN {KILL_SELF} END IF;")
        one, two = await engine.create(), await engine.create()
        answers = await engine.batch(submission(one, "t1"), submission(two, "t1"), submission(one, "t2", "1", 1))
        assert [told(answer) for answer in answers] == [1, 1, 2]
        assert await stored_trades(engine.url, one) == [("t1", 1), ("t2", 2)]

    async def test_before_commit_and_again_and_again_the_database_is_unavailable(self, engine: RunningEngine):
        await plant_trade_trigger(engine.url, KILL_SELF)
        one, two = await engine.create(), await engine.create()
        answers = await engine.batch(submission(one, "t1"), submission(two, "t1"), submission(one, "t2", "1", 1))
        assert [told(answer) for answer in answers] == [
            "DATABASE_UNAVAILABLE",
            "DATABASE_UNAVAILABLE",
            "PREDECESSOR_FAILED",
        ]
        assert await value(engine.url, "SELECT count(*) FROM trades") == 0
        await uproot_trigger(engine.url)
        assert told(await engine.trading.submit(submission(one, "t1"))) == 1

    async def test_while_it_waits_for_a_lock_nothing_is_lost_or_doubled(self, engine: RunningEngine):
        challenge_id = await engine.create()
        async with locked_challenge(engine.url, challenge_id):
            waiting = await submitted(engine.trading.submit(submission(challenge_id, "t1")))
            await lock_waiters(engine.url)
            killed = await sql(
                engine.url,
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND wait_event_type = 'Lock'",
            )
            assert killed
        assert told(await waiting) == 1
        assert await stored_trades(engine.url, challenge_id) == [("t1", 1)]

    async def test_idle_connections_that_were_terminated_are_replaced_unnoticed(self, engine: RunningEngine):
        challenge_id = await engine.create()
        for number in range(3):
            await sql(
                engine.url,
                "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'",
            )
            assert told(await engine.trading.submit(submission(challenge_id, f"t{number}", "1", number))) == number + 1

    async def test_during_commit_the_outcome_is_unknown_and_sending_again_tells_that_it_was_not_written(
        self, engine: RunningEngine
    ):
        moved, ended = await engine.create(), await engine.create()
        await engine.trading.submit(submission(ended, "end", "-6000"))
        await plant_trade_trigger(engine.url, KILL_SELF, at_commit=True)
        batch = [
            submission(moved, "t1", "1", 1),
            submission(ended, "end", "-6000"),
            submission(ended, "late", "1", 1),
            submission(new_id(), "t1"),
            submission(moved, "t2", "1", 2),
        ]
        answers = [told(answer) for answer in await engine.batch(*batch)]
        assert answers == ["OUTCOME_UNKNOWN", -1, "CHALLENGE_TERMINAL", "CHALLENGE_NOT_FOUND", "OUTCOME_UNKNOWN"]
        assert len(engine.emitted) == 4
        await uproot_trigger(engine.url)
        again = [told(answer) for answer in await engine.batch(*batch)]
        assert again == [1, -1, "CHALLENGE_TERMINAL", "CHALLENGE_NOT_FOUND", 2]

    async def test_after_the_database_committed_sending_again_replays_what_was_written(self, database_url: URL):
        async with proxied(database_url) as proxy, running_engine(proxy.url(database_url), assign=False) as engine:
            challenge_id = await engine.create()
            proxy.lose_next_commit = True
            batch = [submission(challenge_id, "t1", "1", 1), submission(challenge_id, "t2", "-6000", 2)]
            assert [told(answer) for answer in await engine.batch(*batch)] == ["OUTCOME_UNKNOWN"] * 2
            assert proxy.lost == 1
            assert [told(answer) for answer in await engine.batch(*batch)] == [-1, -2]
            assert await stored_trades(database_url, challenge_id) == [("t1", 1), ("t2", 2)]

    async def test_items_of_the_challenge_in_later_groups_are_not_executed(self, database_url: URL):
        async with (
            proxied(database_url) as proxy,
            running_engine(proxy.url(database_url), assign=False, max_group=2) as engine,
        ):
            one, two = await engine.create(), await engine.create()
            proxy.lose_next_commit = True
            batch = [*(submission(one, f"t{second}", "1", second) for second in range(4)), submission(two, "t1")]
            answers = [told(answer) for answer in await engine.batch(*batch)]
            assert answers == ["OUTCOME_UNKNOWN"] * 2 + ["PREDECESSOR_FAILED"] * 2 + [1]
            assert [told(answer) for answer in await engine.batch(*batch)] == [-1, -2, 3, 4, -1]

    async def test_a_creation_lost_in_commit_is_unknown_and_sending_again_tells_the_truth(self, database_url: URL):
        async with proxied(database_url) as proxy, running_engine(proxy.url(database_url), assign=False) as engine:
            written, unwritten = make_terms(), make_terms()
            await engine.create()  # a new connection commits its settings; the one to lose is the creation's
            proxy.lose_next_commit = True
            assert await reason_of(engine.trading.create_challenge(written)) == "OUTCOME_UNKNOWN"
            assert await engine.trading.create_challenge(written) == (initial_state(written), True)
            await plant_trade_trigger(database_url, KILL_SELF, at_commit=True, table="challenge_events")
            assert await reason_of(engine.trading.create_challenge(unwritten)) == "OUTCOME_UNKNOWN"
            await uproot_trigger(database_url)
            assert await engine.trading.create_challenge(unwritten) == (initial_state(unwritten), False)

    async def test_a_creation_lost_before_commit_is_known_not_to_be_written(self, engine: RunningEngine):
        terms = make_terms()
        await plant_trade_trigger(engine.url, KILL_SELF, table="challenge_events")
        assert await reason_of(engine.trading.create_challenge(terms)) == "DATABASE_UNAVAILABLE"
        await uproot_trigger(engine.url)
        assert await engine.trading.create_challenge(terms) == (initial_state(terms), False)

    async def test_a_database_that_is_away_is_said_to_be_and_used_again_once_it_is_back(self, database_url: URL):
        async with proxied(database_url) as proxy, running_engine(proxy.url(database_url), assign=False) as engine:
            one, two = await engine.create(), await engine.create()
            for cycle in range(2):
                batch = [submission(one, f"t{2 * cycle + n}", "1", 2 * cycle + n) for n in range(2)]
                other = submission(two, f"t{cycle}", "1", cycle)
                await proxy.away()
                answers = [told(answer) for answer in await engine.batch(*batch, other)]
                assert answers == ["DATABASE_UNAVAILABLE", "PREDECESSOR_FAILED", "DATABASE_UNAVAILABLE"]
                assert await reason_of(engine.create()) == "DATABASE_UNAVAILABLE"
                assert await reason_of(engine.reader.get(one)) == "DATABASE_UNAVAILABLE"
                assert await reason_of(engine.log.end()) == "DATABASE_UNAVAILABLE"
                await proxy.listen()
                answers = [told(answer) for answer in await engine.batch(*batch, other)]
                assert answers == [2 * cycle + 1, 2 * cycle + 2, cycle + 1]


class TestCallersThatLeave:
    async def test_trades_that_have_not_begun_are_left_out(self, engine: RunningEngine):
        challenge_id = await engine.create()
        async with busy_writer(engine):
            left = await submitted(engine.batch(submission(challenge_id, "t1"), submission(challenge_id, "t2")))
            stays = await submitted(engine.trading.submit(submission(challenge_id, "t3", "1", 3)))
            left.cancel()
        assert told(await stays) == 1
        with pytest.raises(asyncio.CancelledError):
            await left
        assert await stored_trades(engine.url, challenge_id) == [("t3", 1)]

    async def test_a_group_that_has_begun_is_finished(self, engine: RunningEngine):
        challenge_id = await engine.create()
        async with locked_challenge(engine.url, challenge_id):
            left = await submitted(engine.trading.submit(submission(challenge_id, "t1")))
            await lock_waiters(engine.url)
            left.cancel()
            with pytest.raises(asyncio.CancelledError):
                await left
        assert told(await engine.trading.submit(submission(challenge_id, "t1"))) == -1
        assert [event.challenge_sequence for event in engine.emitted] == [1, 2]

    async def test_a_creation_whose_caller_left_is_made_whole_or_not_at_all(self, engine: RunningEngine):
        for steps in range(30):
            terms = make_terms()
            creating = asyncio.create_task(engine.trading.create_challenge(terms))
            for _ in range(steps):
                await asyncio.sleep(0)
            creating.cancel()
            await asyncio.wait([creating])
            await engine.trading.create_challenge(terms)
        assert await value(engine.url, "SELECT count(*) FROM challenges") == 30
        assert await value(engine.url, "SELECT count(*) FROM challenge_events") == 30

    async def test_a_creation_whose_caller_left_during_commit_is_made_and_published(self, engine: RunningEngine):
        terms = make_terms()
        await plant_trade_trigger(
            engine.url, "PERFORM pg_advisory_xact_lock(7);", at_commit=True, table="challenge_events"
        )
        async with sql_session(engine.url) as other:
            await other.execute("SELECT pg_advisory_lock(7)")
            left = await submitted(engine.trading.create_challenge(terms))
            await lock_waiters(engine.url)
            left.cancel()
            await other.execute("SELECT pg_advisory_unlock(7)")
        await asyncio.wait([left])
        assert await engine.trading.create_challenge(terms) == (initial_state(terms), True)
        assert [event.terms for event in engine.emitted] == [terms]


class TestStopping:
    async def test_what_was_accepted_is_finished_and_the_new_is_refused(self, database_url: URL):
        async with running_engine(database_url, max_group=2) as engine:
            challenge_id = await engine.create()
            async with busy_writer(engine):
                accepted = [
                    await submitted(engine.trading.submit(submission(challenge_id, f"t{n}", "1", n))) for n in range(9)
                ]
                stopping = await submitted(engine.trading.stop())
                with pytest.raises(DrainingError):
                    await engine.trading.submit(submission(challenge_id, "late"))
                with pytest.raises(DrainingError):
                    await engine.create()
                assert engine.trading.is_running
            await stopping
            assert all(task.done() for task in accepted)
            assert [told(task.result()) for task in accepted] == list(range(1, 10))
            assert not engine.trading.is_running

    async def test_groups_that_are_taken_apart_are_finished_too(self, engine: RunningEngine):
        await plant_trade_trigger(engine.url, RAISE.format("P0001"))
        challenges = [await engine.create() for _ in range(8)]
        calls = [
            await submitted(
                engine.batch(
                    submission(challenge_id, "a", "1", 1),
                    submission(challenge_id, "poison", "1", 2),
                    submission(challenge_id, "b", "1", 3),
                )
            )
            for challenge_id in challenges
        ]
        await engine.trading.stop()
        assert all(call.done() for call in calls)
        for call in calls:
            assert [told(answer) for answer in call.result()] == [1, "INTERNAL", "PREDECESSOR_FAILED"]

    async def test_stopping_an_idle_service_is_immediate_and_may_be_repeated(self, engine: RunningEngine):
        await engine.trading.stop()
        await engine.trading.stop()
        assert not engine.trading.is_running


class TestTooMuchWaiting:
    async def test_a_call_that_does_not_fit_is_refused_whole(self, database_url: URL):
        async with running_engine(database_url, max_waiting=10) as engine:
            challenge_id = await engine.create()
            async with busy_writer(engine):
                fits = [
                    await submitted(engine.trading.submit(submission(challenge_id, f"t{n}", "1", n))) for n in range(8)
                ]
                with pytest.raises(OverloadedError) as refused:
                    await engine.batch(*(submission(challenge_id, f"x{n}", "1", n) for n in range(3)))
                assert refused.value.retry_after_s > 0
                fits.append(await submitted(engine.batch(*(submission(challenge_id, f"y{n}", "1", 9) for n in "ab"))))
            answers: list[Answer] = []
            for call in fits:
                result = await call
                answers += result if isinstance(result, list) else [result]
            assert [told(answer) for answer in answers] == [*range(1, 10), "TRADE_OUT_OF_ORDER"]
            assert told(await engine.trading.submit(submission(challenge_id, "x0", "1", 20))) == 10


class TestEmittedEvents:
    async def test_they_come_after_commit_and_in_order(self, engine: RunningEngine):
        seen: list[int] = []
        conninfo = engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
        with psycopg.connect(conninfo, autocommit=True) as other:
            engine.trading.events.subscribe(
                lambda event: seen.append(
                    other.execute(
                        "SELECT count(*) FROM challenge_events WHERE challenge_id = %s AND challenge_sequence = %s",
                        (event.challenge_id, event.challenge_sequence),
                    ).fetchone()[0]
                )
            )
            challenges = [await engine.create() for _ in range(3)]
            await asyncio.gather(
                *(
                    engine.batch(submission(challenge_id, "a", "1", 1), submission(challenge_id, "b", "-6000", 2))
                    for challenge_id in challenges
                )
            )
        assert seen == [1] * 9
        for challenge_id in challenges:
            own = [event.challenge_sequence for event in engine.emitted if event.challenge_id == challenge_id]
            assert own == [1, 2, 3]

    async def test_a_handler_that_fails_blocks_nothing(self, engine: RunningEngine, caplog: pytest.LogCaptureFixture):
        def fail(event):
            raise RuntimeError("handler broke")

        unsubscribe = engine.trading.events.subscribe(fail)
        challenge_id = await engine.create()
        assert told(await engine.trading.submit(submission(challenge_id, "t1"))) == 1
        assert caplog.text.count("RuntimeError: handler broke") == 2
        unsubscribe()
        assert told(await engine.trading.submit(submission(challenge_id, "t2", "-6000", 1))) == 2
        assert caplog.text.count("RuntimeError: handler broke") == 2
        assert [event.challenge_sequence for event in engine.emitted] == [1, 2, 3]
