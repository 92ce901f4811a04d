"""Many submissions on their way, without any I/O: against a server that fails in every way at every place."""

import dataclasses
import random
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from challenge_client import (
    ChallengeStatus,
    Decision,
    InternalFailureError,
    PredecessorFailedError,
    Trade,
    TradeOutOfOrderError,
    TradeSubmission,
    TransportError,
    WriteConflictError,
)
from challenge_client.submitting import Submitting
from propfirm.challenge.v1 import challenge_pb2 as pb

Code = grpc.StatusCode
MORNING = datetime(2026, 3, 2, tzinfo=UTC)
TEMPLATE = Decision(
    challenge_id="", trade_id="", sequence=0, replayed=False, previous_status=ChallengeStatus.ACTIVE,
    status=ChallengeStatus.ACTIVE, reason=None, equity=Decimal(1), peak_equity=Decimal(1),
    daily_start_equity=Decimal(1), evaluations=(), executed_at=MORNING, recorded_at=MORNING,
)  # fmt: skip


def submission(challenge, number):
    return TradeSubmission(challenge, Trade(f"t{number}", 1, MORNING + timedelta(seconds=number)))


class ScriptedServer:
    """Answers batch calls as the contract says, and fails where the script says so.

    Independent of the SDK: a recorded trade is replayed, one that is not after the last is out of order, and behind a
    trade that could not be executed the later ones of its challenge are not tried.
    """

    def __init__(self, script):
        self.script = script
        self.recorded = {}

    def answer(self, request):
        """The outcomes, or the error of the whole call."""
        call_fails = self.script(["fine", "lost", "lost after commit", "refused"])
        if call_fails == "lost":
            return TransportError("gone", code=Code.UNAVAILABLE)
        if call_fails == "refused":
            return TransportError("no", code=Code.INTERNAL)
        failed = set()
        outcomes = [self._outcome(trade, failed) for trade in request.trades]
        return TransportError("gone", code=Code.UNAVAILABLE) if call_fails == "lost after commit" else outcomes

    def _outcome(self, trade, failed):
        trades = self.recorded.setdefault(trade.challenge_id.lower(), [])
        key = (trade.trade.executed_at.seconds, trade.trade.trade_id)
        if trade.challenge_id.lower() in failed:
            return PredecessorFailedError("no", code=Code.ABORTED)
        if key in trades:
            return self._decision(trade, trades.index(key) + 1, replayed=True)
        fails = self.script(["fine", "fine", "fine", "conflict", "internal"])
        if fails != "fine":
            failed.add(trade.challenge_id.lower())
            kind = WriteConflictError if fails == "conflict" else InternalFailureError
            return kind("no", code=Code.ABORTED if fails == "conflict" else Code.INTERNAL)
        if trades and key <= trades[-1]:
            return TradeOutOfOrderError("no", code=Code.FAILED_PRECONDITION)
        trades.append(key)
        return self._decision(trade, len(trades), replayed=False)

    def _decision(self, trade, sequence, *, replayed):
        return dataclasses.replace(
            TEMPLATE, challenge_id=trade.challenge_id.lower(), trade_id=trade.trade.trade_id, sequence=sequence,
            replayed=replayed,
        )  # fmt: skip


def run(submissions, server, choose, *, timeout_s=1e6, seen=None, **options):
    """Drive to the end; the outcomes. `choose` picks which of the running calls is answered next."""
    submitting = Submitting(**({"chunk_size": 3, "max_calls": 3, "timeout_s": timeout_s, "max_attempts": 6} | options))
    source = iter(submissions)
    outcomes, running, now_s = [], [], 0.0
    while not submitting.is_done:
        outcomes.extend(submitting.take())
        submitting.read_from(source)
        for batch in submitting.due(now_s):
            batch.attempts.begin(now_s)
            running.append((batch, batch.call.request))
        if seen is not None:
            seen([request for _, request in running])
        if submitting.wants:
            continue
        if running:
            batch, request = running.pop(choose(len(running)))
            answer = server.answer(request)
            report = submitting.failed if isinstance(answer, Exception) else submitting.answered
            report(batch, answer, now_s, 0.5)
        elif (wait_s := submitting.wait_s(now_s)) is not None:
            now_s += wait_s
    return outcomes


def asked_for(outcome):
    """Which trade an outcome is about."""
    if isinstance(outcome, Decision):
        return outcome.challenge_id, outcome.trade_id
    return outcome.request.challenge_id.lower(), outcome.request.trade.trade_id


@given(st.data(), st.lists(st.sampled_from(["a", "b", "c", "B"]), max_size=25))
def test_every_submission_has_one_outcome_in_the_order_of_its_challenge_whatever_fails(data, challenges):
    submissions = [submission(challenge, number) for number, challenge in enumerate(challenges)]
    server = ScriptedServer(lambda options: data.draw(st.sampled_from(options)))

    def never_twice(requests):
        """No challenge is in two calls at once, and no call and no number of calls is too large."""
        assert len(requests) <= 3
        assert all(len(request.trades) <= 3 for request in requests)
        under_way = [{trade.challenge_id.lower() for trade in request.trades} for request in requests]
        assert sum(map(len, under_way)) == len(set().union(*under_way))

    outcomes = run(submissions, server, lambda count: data.draw(st.integers(0, count - 1)), seen=never_twice)
    wanted = {(s.challenge_id.lower(), s.trade.trade_id): s for s in submissions}
    assert sorted(map(asked_for, outcomes)) == sorted(wanted)
    for challenge in "abc":
        mine = [outcome for outcome in outcomes if asked_for(outcome)[0] == challenge]
        assert [asked_for(outcome)[1] for outcome in mine] == [
            s.trade.trade_id for s in submissions if s.challenge_id.lower() == challenge
        ]
        decided = [isinstance(outcome, Decision) for outcome in mine]
        # Behind a failure nothing is decided, so what failed may be sent again in the same order.
        assert decided == sorted(decided, reverse=True)
        sequences = [outcome.sequence for outcome in mine if isinstance(outcome, Decision)]
        assert sequences == list(range(1, len(sequences) + 1))
        assert not [outcome for outcome in mine if isinstance(outcome, TradeOutOfOrderError)]


def test_what_only_passes_costs_no_trade_and_no_order():
    chance = random.Random(7)

    def script(options):
        wanted = chance.choice(["fine", "fine", "lost", "lost after commit", "conflict"])
        return wanted if wanted in options else "fine"

    submissions = [submission("abc"[number % 3], number) for number in range(200)]
    outcomes = run(submissions, ScriptedServer(script), lambda _: 0, max_attempts=None)
    assert all(isinstance(outcome, Decision) for outcome in outcomes)
    assert sorted(map(asked_for, outcomes)) == sorted((s.challenge_id, s.trade.trade_id) for s in submissions)
    assert any(outcome.replayed for outcome in outcomes)


def test_nothing_is_read_while_something_waits_to_be_sent_again():
    """To read may take long, and what waits has a deadline."""
    submitting = Submitting(chunk_size=1, max_calls=3, timeout_s=10, max_attempts=None)
    submitting.add(submission("a", 1))
    (batch,) = submitting.due(0)
    batch.attempts.begin(0)
    assert submitting.wants
    submitting.answered(batch, [WriteConflictError("no", code=Code.ABORTED)], 0, 0.5)
    assert not submitting.wants
    assert list(submitting.due(1)) == [batch]
    assert submitting.wants


def test_a_submission_that_cannot_be_sent_costs_no_other():
    bad = TradeSubmission("a", Trade("t2", 1, MORNING), expected_sequence="4")
    server = ScriptedServer(lambda _: "fine")
    with pytest.raises(TypeError, match="expected_sequence must be an int"):
        run([submission("a", 1), bad], server, lambda _: 0)
    assert len(server.recorded["a"]) == 1


def test_an_endless_source_is_read_no_further_than_its_outcomes_are_taken():
    read = []

    def endless():
        for number in range(10**9):
            read.append(number)
            yield submission(str(number % 50), number)

    submitting = Submitting(chunk_size=3, max_calls=2, timeout_s=1, max_attempts=1)
    source, batches = endless(), []
    while submitting.wants:
        submitting.read_from(source)
        batches += submitting.due(0)
    assert len(batches) == 2
    assert len(read) == 6


def test_of_one_challenge_no_more_is_read_than_fits_into_all_the_calls():
    submitting = Submitting(chunk_size=3, max_calls=2, timeout_s=1, max_attempts=1)
    source = (submission("a", number) for number in range(100))
    submitting.read_from(source)
    assert len(list(submitting.due(0))) == 1
    submitting.read_from(source)
    assert not list(submitting.due(0))
    assert next(source).trade.trade_id == "t9"


def test_an_error_of_the_source_is_raised_after_the_outcomes_of_what_came_before():
    def broken():
        yield submission("a", 1)
        yield submission("b", 2)
        raise LookupError("line 3")

    server = ScriptedServer(lambda _: "fine")
    with pytest.raises(LookupError, match="line 3"):
        run(broken(), server, lambda _: 0)
    assert sorted(server.recorded) == ["a", "b"]
    with pytest.raises(TypeError, match="must be a TradeSubmission, got str"):
        run([submission("c", 1), "c"], server, lambda _: 0)
    assert "c" in server.recorded


def test_an_outcome_says_which_trade_it_is_about_and_how_often_it_was_sent():
    server = ScriptedServer(lambda options: "conflict" if "conflict" in options else "fine")
    mine = [submission("a", 1), submission("a", 2), submission("b", 3)]
    outcomes = run(mine, server, lambda _: 0, chunk_size=1, max_attempts=2)
    assert [(o.request, o.method, o.attempts) for o in sorted(outcomes, key=asked_for)] == [
        (mine[0], "SubmitTrade", 2),
        (mine[1], "SubmitTrade", 0),
        (mine[2], "SubmitTrade", 2),
    ]


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"chunk_size": 501}, ValueError, "chunk_size must be 1 to 500, got 501"),
        ({"chunk_size": 0}, ValueError, "chunk_size must be 1 to 500"),
        ({"max_calls": 101}, ValueError, "max_calls must be 1 to 100"),
        ({"max_calls": 2.0}, TypeError, "max_calls must be an int"),
    ],
)
def test_sizes_that_cannot_be_are_refused(options, kind, message):
    with pytest.raises(kind, match=message):
        Submitting(**({"chunk_size": 1, "max_calls": 1, "timeout_s": 1, "max_attempts": None} | options))


def test_the_request_is_the_one_of_the_contract():
    submitting = Submitting(chunk_size=10, max_calls=1, timeout_s=1, max_attempts=None)
    submitting.add(submission("a", 5))
    submitting.end()
    (batch,) = submitting.due(0)
    assert isinstance(batch.call.request, pb.BatchSubmitTradesRequest)
    assert [trade.trade.trade_id for trade in batch.call.request.trades] == ["t5"]
