"""Calls are values: what would be sent can be looked at without sending it."""

import itertools
import uuid
from datetime import UTC, datetime, timedelta

import pytest

from challenge_client import ChallengeStatus, Limits, Trade, TradeSubmission, calls
from propfirm.challenge.v1 import challenge_pb2 as pb
from tests.client import messages

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
NOWHERE = {
    "challenge_ids": (), "new_statuses": (), "after_cursor": None, "after_position": None, "from_beginning": False,
    "from_now": False, "heartbeat_interval": None, "max_events_per_message": 1,
}  # fmt: skip


def create(**changes):
    plain = {"initial_balance": 1, "challenge_id": None, "limits": None, "currency_code": "", "labels": None}
    return calls.create_challenge(**(plain | changes)).request


def test_a_challenge_without_an_id_is_given_one_so_that_the_call_can_be_repeated():
    first, second = create().challenge_id, create().challenge_id
    assert first != second
    assert str(uuid.UUID(first)) == first


def test_the_callers_id_is_kept():
    assert create(challenge_id=messages.CHALLENGE_ID.upper()).challenge_id == messages.CHALLENGE_ID.upper()


def test_an_empty_id_is_refused_because_it_would_mean_none():
    with pytest.raises(ValueError, match="challenge_id must not be empty"):
        create(challenge_id="")
    with pytest.raises(ValueError, match="challenge_id must not be empty"):
        calls.list_events(challenge_id="", new_statuses=(), after_position=0, page_size=0)


def test_limits_are_left_to_the_server_or_sent_in_full():
    assert not create().HasField("limits")
    assert create(limits=Limits("4.5")).limits == pb.Limits(
        max_daily_drawdown_pct="4.5", max_total_drawdown_pct="10", profit_target_pct="10"
    )
    with pytest.raises(TypeError, match="limits must be a Limits"):
        create(limits={"max_daily_drawdown_pct": 5})


def test_a_trade_is_sent_field_by_field():
    submission = TradeSubmission("id", Trade("t", "-1.50", NOON, "ES"), 0, validate_only=True)
    request = calls.submit_trade(submission).request
    assert (request.challenge_id, request.trade.trade_id, request.trade.realized_pnl) == ("id", "t", "-1.5")
    assert (request.trade.executed_at.ToDatetime(UTC), request.trade.symbol) == (NOON, "ES")
    assert request.HasField("expected_sequence")
    assert (request.expected_sequence, request.validate_only) == (0, True)


def test_an_expected_sequence_that_is_not_given_is_not_sent():
    assert not calls.submit_trade(TradeSubmission("id", Trade("t", 1, NOON))).request.HasField("expected_sequence")
    assert not calls.get_challenge("id", at_sequence=None).request.HasField("at_sequence")
    assert calls.get_challenge("id", at_sequence=0).request.HasField("at_sequence")


def test_a_batch_holds_at_most_500_and_an_endless_iterable_is_not_read_to_its_end():
    endless = (TradeSubmission("id", Trade(str(number), 1, NOON)) for number in itertools.count())
    with pytest.raises(ValueError, match="at most 500"):
        calls.submit_batch(endless)
    assert next(endless).trade.trade_id == "501"
    assert len(calls.submit_batch(itertools.islice(endless, 500)).request.trades) == 500


def test_a_batch_holds_submissions():
    with pytest.raises(TypeError, match="a submission must be a TradeSubmission, got Trade"):
        calls.submit_batch([Trade("1", 1, NOON)])


@pytest.mark.parametrize("filters", [ChallengeStatus.FAILED, "FAILED"])
def test_a_single_status_is_not_taken_letter_by_letter(filters):
    with pytest.raises(TypeError, match="statuses must be a collection"):
        calls.list_challenges(statuses=filters, labels=None, closed_at_from=None, closed_at_before=None, page_size=0)


def test_a_single_challenge_id_is_not_taken_letter_by_letter():
    with pytest.raises(TypeError, match="challenge_ids must be a collection"):
        calls.stream_events(**NOWHERE | {"challenge_ids": messages.CHALLENGE_ID, "from_now": True})


def test_the_next_page_is_the_same_request_with_the_token():
    first = calls.list_challenges(
        statuses=[ChallengeStatus.FUNDED], labels={"a": "b"}, closed_at_from=NOON, closed_at_before=NOON, page_size=7
    )
    before = first.request.SerializeToString(deterministic=True)
    page = first.decode(pb.ListChallengesResponse(challenges=[messages.challenge()], next_page_token="more"))
    assert [challenge.challenge_id for challenge in page.items] == [messages.CHALLENGE_ID]
    assert page.next.request.page_token == "more"
    page.next.request.page_token = ""
    assert page.next.request.SerializeToString(deterministic=True) == before
    assert first.request.page_token == ""
    assert page.next.decode(pb.ListChallengesResponse()) == calls.Page([], None)


@pytest.mark.parametrize(
    ("start", "which"),
    [
        ({"after_cursor": "c"}, "after_cursor"),
        ({"after_position": 0}, "after_position"),
        ({"from_beginning": True}, "from_beginning"),
        ({"from_now": True}, "from_now"),
    ],
)
def test_a_stream_starts_where_it_is_told(start, which):
    assert calls.stream_events(**NOWHERE | start).request.WhichOneof("start") == which


@pytest.mark.parametrize(
    "starts",
    [{}, {"from_now": True, "from_beginning": True}, {"after_cursor": "c", "after_position": 0}, {"from_now": False}],
)
def test_a_stream_has_exactly_one_start(starts):
    with pytest.raises(ValueError, match="exactly one of after_cursor, after_position, from_beginning, from_now"):
        calls.stream_events(**NOWHERE | starts)


def test_a_stream_asks_for_several_events_in_a_message_when_it_is_told():
    call = calls.stream_events(**NOWHERE | {"from_now": True, "max_events_per_message": 200})
    assert call.request.max_events_per_message == 200
    with pytest.raises(ValueError, match="max_events_per_message"):
        calls.stream_events(**NOWHERE | {"from_now": True, "max_events_per_message": 2**31})


def test_a_resumed_stream_is_the_same_from_its_cursor_on_with_a_deadline():
    first = calls.stream_events(**NOWHERE | {"challenge_ids": [messages.CHALLENGE_ID], "from_now": True})
    assert (first.timeout_s, first.request.WhichOneof("start")) == (None, "from_now")
    again = calls.resumed(first, after_cursor=None, timeout_s=47)
    assert (again.timeout_s, again.request) == (47, first.request)
    later = calls.resumed(first, after_cursor="c", timeout_s=47)
    assert (later.request.after_cursor, later.request.challenge_ids) == ("c", first.request.challenge_ids)
    assert first.request.WhichOneof("start") == "from_now", "the first call stays as it is"


def test_a_heartbeat_interval_is_exact_to_the_microsecond():
    call = calls.stream_events(
        **NOWHERE | {"from_now": True, "heartbeat_interval": timedelta(seconds=2, microseconds=1)}
    )
    assert (call.request.heartbeat_interval.seconds, call.request.heartbeat_interval.nanos) == (2, 1000)
    with pytest.raises(TypeError, match="heartbeat_interval must be a timedelta"):
        calls.stream_events(**NOWHERE | {"from_now": True, "heartbeat_interval": 5})


def test_a_page_size_is_an_int_of_32_bits():
    with pytest.raises(ValueError, match="page_size"):
        calls.list_trades("id", from_sequence=0, to_sequence=0, page_size=2**31)
