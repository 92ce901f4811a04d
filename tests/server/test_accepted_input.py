"""What lies just inside the limits of the contract is accepted, and kept exactly."""

from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from propfirm.challenge.v1 import challenge_pb2 as pb
from propfirm.challenge.v1.challenge_pb2_grpc import ChallengeServiceStub
from tests.server.calls import (
    PATIENCE_S,
    after,
    batch,
    make_challenge,
    new_id,
    refusal,
    submission,
)
from tests.server.conftest import either


@pytest.fixture(params=["server", "fake"])
def stub(request: pytest.FixtureRequest) -> ChallengeServiceStub:
    """The shared server, and the fake one, which has to do the same."""
    return either(request)


@pytest.mark.parametrize(
    ("balance", "shown"),
    [
        ("0.01", "0.01"),
        ("0.01000000", "0.01"),
        ("1.00000000", "1"),
        ("100.00000001", "100.00000001"),
        ("9999999999999999", "9999999999999999"),
        ("9999999999999999.99999999", "9999999999999999.99999999"),
    ],
)
def test_an_initial_balance_within_the_form_is_accepted(stub: ChallengeServiceStub, balance: str, shown: str) -> None:
    answer = stub.CreateChallenge(pb.CreateChallengeRequest(initial_balance=balance), timeout=PATIENCE_S)
    challenge = answer.challenge
    assert (challenge.initial_balance, challenge.equity, challenge.peak_equity) == (shown, shown, shown)
    stored = stub.GetChallenge(pb.GetChallengeRequest(challenge_id=challenge.challenge_id), timeout=PATIENCE_S)
    assert stored.challenge == challenge


@pytest.mark.parametrize(
    ("balance", "pnl", "equity"),
    [
        ("1", "9999999999999998.99999999", "9999999999999999.99999999"),
        ("9999999999999999.99999999", "-9999999999999999.99999999", "0"),
        ("1", "-9999999999999999.99999999", "0"),
        ("9999999999999999.99999999", "-0.00000001", "9999999999999999.99999998"),
        ("9999999999999999.99999999", "0", "9999999999999999.99999999"),
        ("1", "0.00", "1"),
        ("1", "0.00000000", "1"),
        ("1", "0.50", "1.5"),
        ("1", "-0.5", "0.5"),
        ("0.01", "0.00000001", "0.01000001"),
    ],
)
def test_a_pnl_within_the_form_is_accepted(stub: ChallengeServiceStub, balance: str, pnl: str, equity: str) -> None:
    challenge_id = make_challenge(stub, balance)
    answer = stub.SubmitTrade(submission(challenge_id, pnl=pnl), timeout=PATIENCE_S).decision
    assert answer.equity == equity
    (recorded,) = stub.ListTrades(pb.ListTradesRequest(challenge_id=challenge_id), timeout=PATIENCE_S).trades
    assert recorded.decision == answer


@pytest.mark.parametrize(
    ("daily", "total", "target", "shown"),
    [
        ("99.9999", "99.9999", "10000", ("99.9999", "99.9999", "10000")),
        ("0.0001", "0.0001", "0.0001", ("0.0001", "0.0001", "0.0001")),
        ("1.5000", "10.0", "10000.0000", ("1.5", "10", "10000")),
        ("", "", "", ("5", "10", "10")),
        ("", "20", "", ("5", "20", "10")),
    ],
)
def test_limits_within_the_range_are_accepted(
    stub: ChallengeServiceStub, daily: str, total: str, target: str, shown: tuple[str, str, str]
) -> None:
    limits = pb.Limits(max_daily_drawdown_pct=daily, max_total_drawdown_pct=total, profit_target_pct=target)
    request = pb.CreateChallengeRequest(initial_balance="100", limits=limits)
    answer = stub.CreateChallenge(request, timeout=PATIENCE_S).challenge.limits
    assert (answer.max_daily_drawdown_pct, answer.max_total_drawdown_pct, answer.profit_target_pct) == shown


def test_labels_at_their_limits_and_in_any_script_are_kept(stub: ChallengeServiceStub) -> None:
    labels = {f"{n:02}" + "k" * 61: "v" * 255 for n in range(29)}
    labels |= {"\U0001f600" * 63: "\U0001f600" * 255, 'quote"\\': "", "x": "日本 \u2028"}
    challenge_id = make_challenge(stub, labels=labels)
    stored = stub.GetChallenge(pb.GetChallengeRequest(challenge_id=challenge_id), timeout=PATIENCE_S).challenge
    assert dict(stored.labels) == labels
    found = stub.ListChallenges(pb.ListChallengesRequest(labels=labels), timeout=PATIENCE_S).challenges
    assert [challenge.challenge_id for challenge in found] == [challenge_id]


def test_ids_in_capitals_are_the_same_as_in_small_letters(stub: ChallengeServiceStub) -> None:
    challenge_id = new_id()
    made = make_challenge(stub, challenge_id=challenge_id.upper())
    assert made == challenge_id
    answer = stub.SubmitTrade(submission(challenge_id.upper()), timeout=PATIENCE_S).decision
    assert answer.challenge_id == challenge_id
    again = stub.CreateChallenge(
        pb.CreateChallengeRequest(challenge_id=challenge_id, initial_balance="100000.0"), timeout=PATIENCE_S
    )
    assert again.replayed
    assert again.challenge.last_sequence == 1


@pytest.mark.parametrize("trade_id", ["~" * 64, " ", " " * 64, "'; DROP TABLE trades; --", '"\\u0000', "%s%(x)s{}"])
def test_any_printable_ascii_is_a_trade_id_and_a_symbol(stub: ChallengeServiceStub, trade_id: str) -> None:
    challenge_id = make_challenge(stub)
    request = submission(challenge_id, trade_id, symbol=trade_id[:32])
    first = stub.SubmitTrade(request, timeout=PATIENCE_S).decision
    assert (first.trade_id, first.replayed) == (trade_id, False)
    assert stub.SubmitTrade(request, timeout=PATIENCE_S).decision.replayed
    (recorded,) = stub.ListTrades(pb.ListTradesRequest(challenge_id=challenge_id), timeout=PATIENCE_S).trades
    assert recorded.trade == request.trade


@pytest.mark.parametrize(
    "moment",
    [
        Timestamp(seconds=-62_135_596_800),
        Timestamp(seconds=-1, nanos=999_999_000),
        Timestamp(),
        Timestamp(seconds=1_700_000_000, nanos=999_999_000),
    ],
    ids=["year 1", "last microsecond before 1970", "1970", "a microsecond before a second"],
)
def test_history_of_any_age_is_accepted_exactly(stub: ChallengeServiceStub, moment: Timestamp) -> None:
    challenge_id = make_challenge(stub)
    request = pb.SubmitTradeRequest(
        challenge_id=challenge_id, trade=pb.Trade(trade_id="t", realized_pnl="1", executed_at=moment)
    )
    assert stub.SubmitTrade(request, timeout=PATIENCE_S).decision.executed_at == moment
    stored = stub.GetChallenge(pb.GetChallengeRequest(challenge_id=challenge_id), timeout=PATIENCE_S).challenge
    assert (stored.activated_at, stored.last_executed_at) == (moment, moment)
    assert stored.trading_day == moment.ToDatetime().strftime("%Y").zfill(4) + moment.ToDatetime().strftime("-%m-%d")


def test_the_last_moment_of_the_year_9999_is_a_valid_field_that_lies_in_the_future(stub: ChallengeServiceStub) -> None:
    challenge_id = make_challenge(stub)
    moment = Timestamp(seconds=253_402_300_799, nanos=999_999_999)
    request = pb.SubmitTradeRequest(
        challenge_id=challenge_id, trade=pb.Trade(trade_id="t", realized_pnl="1", executed_at=moment)
    )
    answer = refusal(stub.SubmitTrade, request)
    assert (answer.code, answer.reason, answer.fields) == ("INVALID_ARGUMENT", "TRADE_IN_FUTURE", ())
    found = pb.ListChallengesRequest(closed_at_from=Timestamp(seconds=-62_135_596_800), closed_at_before=moment)
    stub.ListChallenges(found, timeout=PATIENCE_S)


def test_a_trade_within_the_allowed_skew_of_the_clock_is_accepted(stub: ChallengeServiceStub) -> None:
    challenge_id = make_challenge(stub)
    soon = datetime.now(UTC) + timedelta(seconds=4)
    stub.SubmitTrade(submission(challenge_id, executed_at=soon), timeout=PATIENCE_S)


def test_digits_finer_than_a_microsecond_are_dropped_before_anything_looks(stub: ChallengeServiceStub) -> None:
    challenge_id = make_challenge(stub)

    def at(nanos: int, trade_id: str = "t") -> pb.SubmitTradeRequest:
        moment = Timestamp(seconds=1_700_000_000, nanos=nanos)
        return pb.SubmitTradeRequest(
            challenge_id=challenge_id, trade=pb.Trade(trade_id=trade_id, realized_pnl="1", executed_at=moment)
        )

    first = stub.SubmitTrade(at(1_999), timeout=PATIENCE_S).decision
    assert first.executed_at.nanos == 1_000
    assert stub.SubmitTrade(at(1_000), timeout=PATIENCE_S).decision.replayed
    assert refusal(stub.SubmitTrade, at(1_998, "u")).reason == "TRADE_OUT_OF_ORDER"


def test_500_trades_are_one_batch(stub: ChallengeServiceStub) -> None:
    challenge_id = make_challenge(stub)
    results = batch(stub, *(submission(challenge_id, str(n), "0.01", after(n)) for n in range(500)))
    assert [result.decision.sequence for result in results] == list(range(1, 501))


def test_1000_ids_of_any_existence_and_the_shortest_heartbeat_are_one_stream(stub: ChallengeServiceStub) -> None:
    ids = [new_id() for _ in range(999)] + [make_challenge(stub)]
    for heartbeat in (Duration(seconds=1), Duration(seconds=3600)):
        request = pb.StreamEventsRequest(challenge_ids=ids, from_beginning={}, heartbeat_interval=heartbeat)
        stream = stub.StreamEvents(request, timeout=PATIENCE_S)
        event = next(message.event for message in stream if message.HasField("event"))
        assert event.challenge_id == ids[-1]
        stream.cancel()


@pytest.mark.parametrize("page_size", [1001, 2**31 - 1])
def test_a_page_larger_than_allowed_is_cut_to_1000(stub: ChallengeServiceStub, page_size: int) -> None:
    challenge_id = make_challenge(stub)
    for start in (0, 500, 1000):
        batch(stub, *(submission(challenge_id, str(n), "0", after(n)) for n in range(start, start + 500)))
    page = stub.ListTrades(pb.ListTradesRequest(challenge_id=challenge_id, page_size=page_size), timeout=PATIENCE_S)
    assert len(page.trades) == 1000
    assert page.next_page_token
