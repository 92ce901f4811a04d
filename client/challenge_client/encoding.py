"""From the SDK's values to the messages of the contract."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from decimal import Decimal

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from challenge_client import inputs
from challenge_client.enums import ChallengeStatus
from challenge_client.numbering import STATUSES
from challenge_client.values import Limits, Trade, TradeSubmission
from challenge_rules.timestamps import from_datetime
from propfirm.challenge.v1 import challenge_pb2 as pb


def number(value: Decimal) -> str:
    """A checked amount or percentage."""
    return format(value, "f")


def timestamp(value: datetime) -> Timestamp:
    """A moment, exact to the microsecond."""
    microseconds = from_datetime(value)
    return Timestamp(seconds=microseconds // 1_000_000, nanos=microseconds % 1_000_000 * 1000)


def optional_timestamp(value: datetime | None, field: str) -> Timestamp | None:
    """A moment of the caller, if any."""
    return None if value is None else timestamp(inputs.moment(value, field))


def duration(value: timedelta, field: str) -> Duration:
    """A span of time, exact to the microsecond."""
    if not isinstance(value, timedelta):
        raise TypeError(f"{field} must be a timedelta, got {type(value).__name__}")
    span = Duration()
    span.FromTimedelta(value)
    return span


def limits(value: Limits | None) -> pb.Limits | None:
    """Limits, if any."""
    if value is None:
        return None
    if not isinstance(value, Limits):
        raise TypeError(f"limits must be a Limits, got {type(value).__name__}")
    return pb.Limits(
        max_daily_drawdown_pct=number(value.max_daily_drawdown_pct),
        max_total_drawdown_pct=number(value.max_total_drawdown_pct),
        profit_target_pct=number(value.profit_target_pct),
    )


def statuses(values: Iterable[ChallengeStatus], field: str) -> list[pb.ChallengeStatus]:
    """A filter by status. Members that only a newer server knows go back as the number they came with."""
    members = [ChallengeStatus(value) for value in inputs.several(values, field)]
    return [STATUSES.number(member) for member in members]  # type: ignore[misc]  # proto3 takes any number


def trade(value: Trade) -> pb.Trade:
    """A trade."""
    if not isinstance(value, Trade):
        raise TypeError(f"trade must be a Trade, got {type(value).__name__}")
    return pb.Trade(
        trade_id=value.trade_id,
        realized_pnl=number(value.realized_pnl),
        executed_at=timestamp(value.executed_at),
        symbol=value.symbol,
    )


def submission(value: TradeSubmission) -> pb.SubmitTradeRequest:
    """A trade to decide."""
    if not isinstance(value, TradeSubmission):
        raise TypeError(f"a submission must be a TradeSubmission, got {type(value).__name__}")
    expected = value.expected_sequence
    return pb.SubmitTradeRequest(
        challenge_id=inputs.text(value.challenge_id, "challenge_id"),
        trade=trade(value.trade),
        expected_sequence=None if expected is None else inputs.whole(expected, "expected_sequence"),
        validate_only=value.validate_only,
    )
