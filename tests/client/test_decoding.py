"""Answers become immutable values: exact amounts, aware moments, None for what is not there."""

import copy
import dataclasses
import pickle
from datetime import UTC, date, datetime
from decimal import Decimal

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from challenge_client import (
    CaughtUp,
    ChallengeError,
    ChallengeStatus,
    ChallengeTerminalError,
    Decision,
    EventBatch,
    EventMessage,
    EventType,
    Heartbeat,
    Limits,
    Rule,
    RuleEvaluation,
    Trade,
    decoding,
)
from propfirm.challenge.v1 import challenge_pb2 as pb
from tests.client import messages

EVIDENCE = RuleEvaluation(
    rule=Rule.MAX_DAILY_DRAWDOWN,
    limit_pct=Decimal(5),
    observed_pct=Decimal("-0.000001"),
    triggered=False,
    headroom=Decimal("5000.5"),
)


def second(number):
    return datetime(1970, 1, 1, 0, 0, number, tzinfo=UTC)


def test_a_challenge_is_decoded_field_by_field():
    challenge = decoding.challenge(messages.challenge(), replayed=True)
    assert dataclasses.asdict(challenge) == {
        "challenge_id": messages.CHALLENGE_ID,
        "status": ChallengeStatus.FAILED,
        "limits": dataclasses.asdict(Limits(5, "7.25", 10)),
        "initial_balance": Decimal(100000),
        "equity": Decimal("94999.5"),
        "peak_equity": Decimal(100000),
        "daily_start_equity": Decimal(100000),
        "trading_day": date(2026, 3, 2),
        "last_sequence": 2,
        "version": 3,
        "status_reason": Rule.MAX_DAILY_DRAWDOWN,
        "currency_code": "USD",
        "labels": {"desk": "b"},
        "evaluations": (dataclasses.asdict(EVIDENCE),),
        "created_at": second(1).replace(microsecond=1),
        "activated_at": second(2),
        "closed_at": second(3),
        "last_executed_at": second(3),
        "rules_version": 1,
        "replayed": True,
    }


def test_what_a_pending_challenge_does_not_have_is_none():
    message = messages.challenge(
        status=1,
        status_reason=0,
        trading_day="",
        evaluations=[],
        activated_at=None,
        closed_at=None,
        last_executed_at=None,
    )
    challenge = decoding.challenge(message)
    assert challenge.status is ChallengeStatus.PENDING
    assert challenge.evaluations == ()
    for name in ("status_reason", "trading_day", "activated_at", "closed_at", "last_executed_at"):
        assert getattr(challenge, name) is None
    assert challenge.replayed is False


def test_a_decision_is_decoded_field_by_field():
    decision = decoding.decision(messages.decision())
    assert decision == Decision(
        challenge_id=messages.CHALLENGE_ID,
        trade_id="t1",
        sequence=1,
        replayed=True,
        previous_status=ChallengeStatus.PENDING,
        status=ChallengeStatus.ACTIVE,
        reason=None,
        equity=Decimal(100000),
        peak_equity=Decimal(100000),
        daily_start_equity=Decimal(100000),
        evaluations=(EVIDENCE,),
        executed_at=second(5),
        recorded_at=second(6),
    )


def test_a_decision_that_was_only_validated_was_recorded_never():
    assert decoding.decision(messages.decision(recorded_at=None)).recorded_at is None


def test_a_headroom_may_exceed_16_digits():
    huge = "999999999999999999900000000.12345678"
    decision = decoding.decision(messages.decision(evaluations=[messages.evaluation(headroom=huge)]))
    assert decision.evaluations[0].headroom == Decimal(huge)


def test_a_recorded_trade_equals_the_trade_that_was_sent():
    wire = pb.Trade(trade_id="t1", realized_pnl="-0.5", executed_at=Timestamp(seconds=5), symbol="ES")
    recorded = decoding.recorded_trade(pb.RecordedTrade(trade=wire, decision=messages.decision()))
    assert recorded.trade == Trade("t1", "-0.50", second(5), "ES")
    assert recorded.decision == decoding.decision(messages.decision())


def test_a_creation_has_terms_and_no_trade():
    event = decoding.event(messages.created())
    assert event.event_type is EventType.CHALLENGE_CREATED
    assert (event.old_status, event.reason, event.trade_id, event.trade_sequence) == (None, None, None, None)
    assert event.terms.limits == Limits(5, "7.25", 10)
    assert event.terms.labels == {"a": "b"}


def test_a_change_of_status_has_a_trade_and_no_terms():
    event = decoding.event(
        messages.created(event_type=2, old_status=2, new_status=3, reason=2, trade_id="t", trade_sequence=7, terms=None)
    )
    assert event.event_type is EventType.CHALLENGE_STATUS_CHANGED
    assert (event.old_status, event.new_status) == (ChallengeStatus.ACTIVE, ChallengeStatus.FAILED)
    assert (event.reason, event.trade_id, event.trade_sequence) == (Rule.MAX_TOTAL_DRAWDOWN, "t", 7)
    assert event.terms is None


def test_stream_messages_carry_their_cursor():
    assert decoding.stream_message(messages.message("a", event=messages.created(9))) == EventMessage(
        "a", decoding.event(messages.created(9))
    )
    several = pb.EventBatch(events=[messages.created(9), messages.created(11)])
    assert decoding.stream_message(messages.message("e", events=several)) == EventBatch(
        "e", (decoding.event(messages.created(9)), decoding.event(messages.created(11)))
    )
    assert decoding.stream_message(messages.message("b", caught_up=pb.CaughtUp(position=9))) == CaughtUp("b", 9)
    assert decoding.stream_message(messages.message("c", heartbeat=pb.Heartbeat(position=9))) == Heartbeat("c", 9)


def test_a_kind_of_message_from_a_newer_server_is_to_be_skipped():
    assert decoding.stream_message(messages.message("d")) is None


def test_a_result_of_a_batch_is_a_decision_or_an_error_that_is_not_raised():
    assert isinstance(decoding.trade_result(pb.TradeResult(decision=messages.decision())), Decision)
    rejection = pb.TradeRejection(code=9, reason=pb.ERROR_REASON_CHALLENGE_TERMINAL, metadata={"status": "FUNDED"})
    error = decoding.trade_result(pb.TradeResult(rejection=rejection))
    assert isinstance(error, ChallengeTerminalError)
    assert error.status is ChallengeStatus.FUNDED
    assert type(decoding.trade_result(pb.TradeResult())) is ChallengeError


def test_unknown_numbers_of_a_newer_server_are_kept_everywhere():
    challenge = decoding.challenge(
        messages.challenge(status=8, status_reason=9, evaluations=[messages.evaluation(rule=9)])
    )
    assert (challenge.status, challenge.status_reason) == ("UNKNOWN_8", "UNKNOWN_9")
    assert challenge.evaluations[0].rule == Rule.unknown(9)
    event = decoding.event(messages.created(event_type=7, old_status=8, new_status=8))
    assert (event.event_type.unknown_number, event.old_status, event.new_status) == (7, "UNKNOWN_8", "UNKNOWN_8")


@pytest.mark.parametrize(
    "value",
    [
        decoding.challenge(messages.challenge()),
        decoding.event(messages.created()),
        decoding.decision(messages.decision()),
        Trade("1", 5, second(1)),
        Limits(),
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_are_immutable_hashable_and_survive_pickle_and_copy(value):
    assert not hasattr(value, "__dict__")
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, dataclasses.fields(value)[0].name, "other")
    assert pickle.loads(pickle.dumps(value)) == copy.deepcopy(value) == dataclasses.replace(value) == value
    assert hash(value) == hash(copy.copy(value))
