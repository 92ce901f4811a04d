"""The one mapping between the messages of the contract and the values of the rules.

The server and the fake server of `challenge_client.testing` share it, so that they read and answer alike.
"""

from collections.abc import Iterable

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from challenge_rules import (
    ChallengeState,
    ChallengeStatus,
    ChallengeTerms,
    Decision,
    Limits,
    RecordedTrade,
    Rule,
    Trade,
    TradeSubmission,
)
from challenge_rules import RuleEvaluation as Evaluation
from challenge_rules.limits import format_percentage
from challenge_rules.money import format_amount, format_scaled
from challenge_rules.rules import CURRENT_RULES_VERSION, OBSERVED_PLACES
from challenge_rules.timestamps import day_to_iso
from challenge_rules.validation import FieldChecks
from propfirm.challenge.v1 import challenge_pb2 as pb

NO_TRADE = Trade("", 0, 0)
"""Stands in for a trade that is not there, until the violation is raised."""

MAX_BATCH = 500
MAX_CHALLENGE_IDS = 1000
DEFAULT_PAGE_SIZE = 100
MAX_PAGE_SIZE = 1000
DEFAULT_HEARTBEAT_S = 30.0
MIN_HEARTBEAT_S = 1
MAX_HEARTBEAT_S = 3600
MAX_EVENTS_PER_MESSAGE = 500

STATUS_TO_WIRE: dict[ChallengeStatus, pb.ChallengeStatus] = {
    status: getattr(pb, f"CHALLENGE_STATUS_{status.name}") for status in ChallengeStatus
}
_STATUS_FROM_WIRE = {number: status for status, number in STATUS_TO_WIRE.items()}
RULE_TO_WIRE: dict[Rule, pb.Rule] = {rule: getattr(pb, f"RULE_{rule.name}") for rule in Rule}


def terms_from(request: pb.CreateChallengeRequest, *, new_id: str, now: int) -> ChallengeTerms:
    """The terms of a challenge to make, defaults filled in; `ValidationError` names every bad field."""
    checks = FieldChecks()
    limits = request.limits
    terms = ChallengeTerms(
        challenge_id=checks.challenge_id(request.challenge_id) if request.challenge_id else new_id,
        initial_balance=checks.initial_balance(request.initial_balance),
        limits=checks.limits(limits.max_daily_drawdown_pct, limits.max_total_drawdown_pct, limits.profit_target_pct),
        currency_code=checks.currency_code(request.currency_code),
        labels=checks.labels(request.labels),
        rules_version=CURRENT_RULES_VERSION,
        created_at=now,
    )
    checks.raise_if_any()
    return terms


def submission_from(request: pb.SubmitTradeRequest, prefix: str = "") -> TradeSubmission:
    """A trade to submit; `ValidationError` names every bad field, its path beginning with `prefix`."""
    checks = FieldChecks(prefix)
    challenge_id = checks.challenge_id(request.challenge_id)
    expected_sequence = None
    if request.HasField("expected_sequence"):
        expected_sequence = checks.not_negative(request.expected_sequence, "expected_sequence")
    trade = _trade_from(request, checks)
    checks.raise_if_any()
    return TradeSubmission(challenge_id, trade, expected_sequence, request.validate_only)


def _trade_from(request: pb.SubmitTradeRequest, checks: FieldChecks) -> Trade:
    trade = request.trade
    if not request.HasField("trade"):
        checks.refuse("trade", "must be set")
        return NO_TRADE
    return checks.trade(
        trade_id=trade.trade_id,
        realized_pnl=trade.realized_pnl,
        executed_at=_moment_from(trade.executed_at) if trade.HasField("executed_at") else None,
        symbol=trade.symbol,
    )


def page_size_from(value: int, checks: FieldChecks) -> int:
    """How many rows a page has."""
    return min(checks.not_negative(value, "page_size") or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)


def events_per_message_from(value: int, checks: FieldChecks) -> int:
    """How many events a message of a stream may carry."""
    return min(checks.not_negative(value, "max_events_per_message") or 1, MAX_EVENTS_PER_MESSAGE)


def event_filter_from(
    challenge_ids: Iterable[str], new_statuses: Iterable[pb.ChallengeStatus], checks: FieldChecks
) -> tuple[tuple[str, ...], tuple[ChallengeStatus, ...]]:
    """Which events to read: of which challenges, and with which new statuses; empty means all."""
    ids = list(challenge_ids)
    checks.at_most(len(ids), MAX_CHALLENGE_IDS, "challenge_ids")
    return checks.challenge_ids(ids), statuses_from(new_statuses, "new_statuses", checks)


def start_from(request: pb.StreamEventsRequest, checks: FieldChecks) -> str | None:
    """The name of the field that says where a stream begins."""
    start: str | None = request.WhichOneof("start")
    if start is None:
        checks.refuse("start", "must be one of after_cursor, after_position, from_beginning, from_now")
    if start == "after_cursor" and not request.after_cursor:
        checks.refuse("after_cursor", "must not be empty; use from_beginning or from_now to start without one")
    return start


def heartbeat_from(request: pb.StreamEventsRequest, checks: FieldChecks) -> float:
    """The heartbeat interval in seconds."""
    if not request.HasField("heartbeat_interval"):
        return DEFAULT_HEARTBEAT_S
    interval: Duration = request.heartbeat_interval
    seconds = interval.seconds + interval.nanos / 1e9
    if not 0 <= interval.nanos < 1_000_000_000 or not MIN_HEARTBEAT_S <= seconds <= MAX_HEARTBEAT_S:
        checks.refuse(
            "heartbeat_interval",
            f"must be {MIN_HEARTBEAT_S} s to {MAX_HEARTBEAT_S} s, with nanos between 0 and 999999999;"
            f" got seconds {interval.seconds} and nanos {interval.nanos}",
        )
    return seconds


def _moment_from(timestamp: Timestamp) -> tuple[int, int]:
    return timestamp.seconds, timestamp.nanos


def optional_moment(request: Message, field: str, checks: FieldChecks) -> int | None:
    """A moment of a request, if it is set."""
    if not request.HasField(field):
        return None
    return checks.timestamp(_moment_from(getattr(request, field)), field)


def statuses_from(values: Iterable[pb.ChallengeStatus], field: str, checks: FieldChecks) -> tuple[ChallengeStatus, ...]:
    """The statuses of a filter."""
    statuses = []
    for index, value in enumerate(values):
        status = _STATUS_FROM_WIRE.get(value)
        if status is None:
            allowed = ", ".join(f"CHALLENGE_STATUS_{known.name}" for known in ChallengeStatus)
            checks.refuse(f"{field}[{index}]", f"must be one of {allowed}; got {value}")
        else:
            statuses.append(status)
    return tuple(statuses)


def fill_decision(message: pb.Decision, decision: Decision) -> None:
    """Put a decision into an empty message.

    Filled in place: to make each message by itself and copy it into the next was measured at four times the cost.
    """
    message.challenge_id = decision.challenge_id
    message.trade_id = decision.trade_id
    message.sequence = decision.sequence
    message.replayed = decision.replayed
    message.previous_status = STATUS_TO_WIRE[decision.previous_status]
    message.status = STATUS_TO_WIRE[decision.status]
    if decision.reason is not None:
        message.reason = RULE_TO_WIRE[decision.reason]
    message.equity = format_amount(decision.equity)
    message.peak_equity = format_amount(decision.peak_equity)
    message.daily_start_equity = format_amount(decision.daily_start_equity)
    add_evaluation = message.evaluations.add
    for evaluation in decision.evaluations:
        fill_evaluation(add_evaluation(), evaluation)
    fill_timestamp(message.executed_at, decision.executed_at)
    if decision.recorded_at is not None:
        fill_timestamp(message.recorded_at, decision.recorded_at)


def challenge_to(state: ChallengeState, evaluations: Iterable[Evaluation]) -> pb.Challenge:
    """A challenge on the wire, with the evidence of its latest trade."""
    terms = state.terms
    return pb.Challenge(
        challenge_id=terms.challenge_id,
        status=STATUS_TO_WIRE[state.status],
        limits=limits_to(terms.limits),
        initial_balance=format_amount(terms.initial_balance),
        equity=format_amount(state.equity),
        peak_equity=format_amount(state.peak_equity),
        daily_start_equity=format_amount(state.daily_start_equity),
        trading_day="" if state.trading_day is None else day_to_iso(state.trading_day),
        last_sequence=state.last_sequence,
        version=state.version,
        status_reason=rule_to(state.status_reason),
        currency_code=terms.currency_code,
        labels=dict(terms.labels),
        evaluations=evaluations_to(evaluations),
        created_at=timestamp(terms.created_at),
        activated_at=timestamp(state.activated_at),
        closed_at=timestamp(state.closed_at),
        last_executed_at=timestamp(state.last_executed_at),
        rules_version=terms.rules_version,
    )


def recorded_trade_to(recorded: RecordedTrade) -> pb.RecordedTrade:
    """An accepted trade and its decision on the wire."""
    trade = recorded.trade
    message = pb.RecordedTrade(
        trade=pb.Trade(
            trade_id=trade.trade_id,
            realized_pnl=format_amount(trade.realized_pnl),
            executed_at=timestamp(trade.executed_at),
            symbol=trade.symbol,
        )
    )
    fill_decision(message.decision, recorded.decision)
    return message


def rule_to(rule: Rule | None) -> pb.Rule:
    """A rule, or none, as its number."""
    return pb.RULE_UNSPECIFIED if rule is None else RULE_TO_WIRE[rule]


def timestamp(moment: int | None) -> Timestamp | None:
    """A moment on the wire, if there is one."""
    if moment is None:
        return None
    timestamp = Timestamp()
    fill_timestamp(timestamp, moment)
    return timestamp


def fill_timestamp(message: Timestamp, moment: int) -> None:
    """Put a moment into an empty message."""
    message.seconds, micros = divmod(moment, 1_000_000)
    message.nanos = micros * 1000


def limits_to(limits: Limits) -> pb.Limits:
    """Limits on the wire."""
    return pb.Limits(
        max_daily_drawdown_pct=format_percentage(limits.max_daily_drawdown_pct),
        max_total_drawdown_pct=format_percentage(limits.max_total_drawdown_pct),
        profit_target_pct=format_percentage(limits.profit_target_pct),
    )


def evaluations_to(evaluations: Iterable[Evaluation]) -> list[pb.RuleEvaluation]:
    """The evidence of a trade on the wire."""
    messages = []
    for evaluation in evaluations:
        message = pb.RuleEvaluation()
        fill_evaluation(message, evaluation)
        messages.append(message)
    return messages


def fill_evaluation(message: pb.RuleEvaluation, evaluation: Evaluation) -> None:
    """Put the evidence of one rule into an empty message."""
    message.rule = RULE_TO_WIRE[evaluation.rule]
    message.limit_pct = format_percentage(evaluation.limit_pct)
    message.observed_pct = format_scaled(evaluation.observed_pct, OBSERVED_PLACES)
    message.triggered = evaluation.triggered
    message.headroom = format_amount(evaluation.headroom)
