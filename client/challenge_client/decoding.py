"""From the messages of the contract to the SDK's values. Numbers of enumerations that are not known here are kept."""

from collections.abc import Iterable
from datetime import date, datetime
from decimal import Decimal

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from challenge_client.errors import ChallengeError
from challenge_client.numbering import EVENT_TYPES, RULES, STATUSES
from challenge_client.statuses import error_from_rejection
from challenge_client.values import (
    CaughtUp,
    Challenge,
    ChallengeEvent,
    ChallengeTerms,
    Decision,
    EventBatch,
    EventMessage,
    Heartbeat,
    Limits,
    RecordedTrade,
    RuleEvaluation,
    StreamMessage,
    Trade,
)
from challenge_rules.timestamps import from_seconds_and_nanos, to_datetime
from propfirm.challenge.v1 import challenge_pb2 as pb


def moment(value: Timestamp) -> datetime:
    """An aware UTC datetime, exact to the microsecond."""
    return to_datetime(from_seconds_and_nanos(value.seconds, value.nanos))


def challenge(message: pb.Challenge, *, replayed: bool = False) -> Challenge:
    """A challenge."""
    return Challenge(
        challenge_id=message.challenge_id,
        status=STATUSES.member(message.status),
        limits=_limits(message.limits),
        initial_balance=Decimal(message.initial_balance),
        equity=Decimal(message.equity),
        peak_equity=Decimal(message.peak_equity),
        daily_start_equity=Decimal(message.daily_start_equity),
        trading_day=date.fromisoformat(message.trading_day) if message.trading_day else None,
        last_sequence=message.last_sequence,
        version=message.version,
        status_reason=RULES.optional_member(message.status_reason),
        currency_code=message.currency_code,
        labels=dict(message.labels),
        evaluations=_evaluations(message.evaluations),
        created_at=moment(message.created_at),
        activated_at=_optional_moment(message, "activated_at"),
        closed_at=_optional_moment(message, "closed_at"),
        last_executed_at=_optional_moment(message, "last_executed_at"),
        rules_version=message.rules_version,
        replayed=replayed,
    )


def decision(message: pb.Decision) -> Decision:
    """A decision."""
    return Decision(
        challenge_id=message.challenge_id,
        trade_id=message.trade_id,
        sequence=message.sequence,
        replayed=message.replayed,
        previous_status=STATUSES.member(message.previous_status),
        status=STATUSES.member(message.status),
        reason=RULES.optional_member(message.reason),
        equity=Decimal(message.equity),
        peak_equity=Decimal(message.peak_equity),
        daily_start_equity=Decimal(message.daily_start_equity),
        evaluations=_evaluations(message.evaluations),
        executed_at=moment(message.executed_at),
        recorded_at=_optional_moment(message, "recorded_at"),
    )


def trade_result(message: pb.TradeResult) -> Decision | ChallengeError:
    """What became of one trade of a batch."""
    match message.WhichOneof("outcome"):
        case "decision":
            return decision(message.decision)
        case "rejection":
            return error_from_rejection(message.rejection)
    return ChallengeError("the server answered a trade in a way that this release of the SDK does not know")


def recorded_trade(message: pb.RecordedTrade) -> RecordedTrade:
    """An accepted trade and its decision."""
    sent = message.trade
    return RecordedTrade(
        trade=Trade(sent.trade_id, sent.realized_pnl, moment(sent.executed_at), sent.symbol),
        decision=decision(message.decision),
    )


def event(message: pb.ChallengeEvent) -> ChallengeEvent:
    """An event."""
    return ChallengeEvent(
        position=message.position,
        challenge_id=message.challenge_id,
        challenge_sequence=message.challenge_sequence,
        event_type=EVENT_TYPES.member(message.event_type),
        old_status=STATUSES.optional_member(message.old_status),
        new_status=STATUSES.member(message.new_status),
        reason=RULES.optional_member(message.reason),
        trade_id=message.trade_id or None,
        trade_sequence=message.trade_sequence or None,
        equity=Decimal(message.equity),
        evaluations=_evaluations(message.evaluations),
        occurred_at=moment(message.occurred_at),
        recorded_at=moment(message.recorded_at),
        terms=_terms(message.terms) if message.HasField("terms") else None,
    )


def stream_message(message: pb.StreamEventsResponse) -> StreamMessage | None:
    """One message of the event stream; None for a kind that only a newer server knows, which is to be skipped."""
    match message.WhichOneof("message"):
        case "event":
            return EventMessage(message.cursor, event(message.event))
        case "events":
            return EventBatch(message.cursor, tuple(event(item) for item in message.events.events))
        case "caught_up":
            return CaughtUp(message.cursor, message.caught_up.position)
        case "heartbeat":
            return Heartbeat(message.cursor, message.heartbeat.position)
    return None


def _optional_moment(message: Message, field: str) -> datetime | None:
    return moment(getattr(message, field)) if message.HasField(field) else None


def _limits(message: pb.Limits) -> Limits:
    return Limits(message.max_daily_drawdown_pct, message.max_total_drawdown_pct, message.profit_target_pct)


def _evaluations(messages: Iterable[pb.RuleEvaluation]) -> tuple[RuleEvaluation, ...]:
    return tuple(
        RuleEvaluation(
            rule=RULES.member(message.rule),
            limit_pct=Decimal(message.limit_pct),
            observed_pct=Decimal(message.observed_pct),
            triggered=message.triggered,
            headroom=Decimal(message.headroom),
        )
        for message in messages
    )


def _terms(message: pb.ChallengeTerms) -> ChallengeTerms:
    return ChallengeTerms(
        initial_balance=Decimal(message.initial_balance),
        limits=_limits(message.limits),
        currency_code=message.currency_code,
        labels=dict(message.labels),
        rules_version=message.rules_version,
        created_at=moment(message.created_at),
    )
