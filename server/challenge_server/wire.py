"""The one mapping between the messages of the contract and the values inside."""

from collections.abc import Iterable
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from challenge_engine.event_log import EventFilter, PositionedEvent
from challenge_engine.reading import ChallengeFilter, ChallengeView
from challenge_engine.submissions import TradeSubmission
from challenge_rules import ChallengeStatus, ChallengeTerms, Decision, EventType, Limits, RecordedTrade, Rule, Trade
from challenge_rules import RuleEvaluation as Evaluation
from challenge_rules.limits import format_percentage
from challenge_rules.money import format_amount, format_scaled
from challenge_rules.rules import CURRENT_RULES_VERSION, OBSERVED_PLACES
from challenge_rules.timestamps import day_to_iso, from_iso
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

_STATUS_TO_WIRE: dict[ChallengeStatus, pb.ChallengeStatus] = {
    status: getattr(pb, f"CHALLENGE_STATUS_{status.name}") for status in ChallengeStatus
}
_STATUS_FROM_WIRE = {number: status for status, number in _STATUS_TO_WIRE.items()}
_RULE_TO_WIRE: dict[Rule, pb.Rule] = {rule: getattr(pb, f"RULE_{rule.name}") for rule in Rule}
# By the texts in which they are stored.
_STATUS_BY_NAME = {status.value: number for status, number in _STATUS_TO_WIRE.items()}
_RULE_BY_NAME = {rule.value: number for rule, number in _RULE_TO_WIRE.items()}
_EVENT_TYPE_BY_NAME: dict[str, pb.EventType] = {
    kind.value: getattr(pb, f"EVENT_TYPE_{kind.name}") for kind in EventType
}


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


def challenge_filter_from(request: pb.ListChallengesRequest, checks: FieldChecks) -> ChallengeFilter:
    """Which challenges to list."""
    return ChallengeFilter(
        statuses=_statuses_from(request.statuses, "statuses", checks),
        labels=checks.labels(request.labels),
        closed_at_from=_optional_moment(request, "closed_at_from", checks),
        closed_at_before=_optional_moment(request, "closed_at_before", checks),
    )


def event_filter_from(
    challenge_ids: Iterable[str], new_statuses: Iterable[pb.ChallengeStatus], checks: FieldChecks
) -> EventFilter:
    """Which events to read."""
    ids = list(challenge_ids)
    checks.at_most(len(ids), MAX_CHALLENGE_IDS, "challenge_ids")
    return EventFilter(checks.challenge_ids(ids), _statuses_from(new_statuses, "new_statuses", checks))


def page_size_from(value: int, checks: FieldChecks) -> int:
    """How many rows a page has."""
    return min(checks.not_negative(value, "page_size") or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)


def events_per_message_from(value: int, checks: FieldChecks) -> int:
    """How many events a message of a stream may carry."""
    return min(checks.not_negative(value, "max_events_per_message") or 1, MAX_EVENTS_PER_MESSAGE)


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


def _optional_moment(request: Message, field: str, checks: FieldChecks) -> int | None:
    if not request.HasField(field):
        return None
    return checks.timestamp(_moment_from(getattr(request, field)), field)


def _statuses_from(
    values: Iterable[pb.ChallengeStatus], field: str, checks: FieldChecks
) -> tuple[ChallengeStatus, ...]:
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
    message.previous_status = _STATUS_TO_WIRE[decision.previous_status]
    message.status = _STATUS_TO_WIRE[decision.status]
    if decision.reason is not None:
        message.reason = _RULE_TO_WIRE[decision.reason]
    message.equity = format_amount(decision.equity)
    message.peak_equity = format_amount(decision.peak_equity)
    message.daily_start_equity = format_amount(decision.daily_start_equity)
    add_evaluation = message.evaluations.add
    for evaluation in decision.evaluations:
        _fill_evaluation(add_evaluation(), evaluation)
    _fill_timestamp(message.executed_at, decision.executed_at)
    if decision.recorded_at is not None:
        _fill_timestamp(message.recorded_at, decision.recorded_at)


def challenge_to(view: ChallengeView) -> pb.Challenge:
    """A challenge on the wire."""
    state = view.state
    terms = state.terms
    return pb.Challenge(
        challenge_id=terms.challenge_id,
        status=_STATUS_TO_WIRE[state.status],
        limits=_limits_to(terms.limits),
        initial_balance=format_amount(terms.initial_balance),
        equity=format_amount(state.equity),
        peak_equity=format_amount(state.peak_equity),
        daily_start_equity=format_amount(state.daily_start_equity),
        trading_day="" if state.trading_day is None else day_to_iso(state.trading_day),
        last_sequence=state.last_sequence,
        version=state.version,
        status_reason=_rule_to(state.status_reason),
        currency_code=terms.currency_code,
        labels=dict(terms.labels),
        evaluations=_evaluations_to(view.evaluations),
        created_at=_timestamp(terms.created_at),
        activated_at=_timestamp(state.activated_at),
        closed_at=_timestamp(state.closed_at),
        last_executed_at=_timestamp(state.last_executed_at),
        rules_version=terms.rules_version,
    )


def recorded_trade_to(recorded: RecordedTrade) -> pb.RecordedTrade:
    """An accepted trade and its decision on the wire."""
    trade = recorded.trade
    message = pb.RecordedTrade(
        trade=pb.Trade(
            trade_id=trade.trade_id,
            realized_pnl=format_amount(trade.realized_pnl),
            executed_at=_timestamp(trade.executed_at),
            symbol=trade.symbol,
        )
    )
    fill_decision(message.decision, recorded.decision)
    return message


def event_to(positioned: PositionedEvent) -> pb.ChallengeEvent:
    """An event on the wire, from what was stored: most of that is in the form of the contract already."""
    message = pb.ChallengeEvent()
    stored = positioned.stored
    message.position = positioned.position
    message.challenge_id = stored.challenge_id
    message.challenge_sequence = stored.challenge_sequence
    message.event_type = _EVENT_TYPE_BY_NAME[stored.event_type]
    if stored.old_status is not None:
        message.old_status = _STATUS_BY_NAME[stored.old_status]
    message.new_status = _STATUS_BY_NAME[stored.new_status]
    if stored.reason is not None:
        message.reason = _RULE_BY_NAME[stored.reason]
    if stored.trade_id is not None and stored.trade_sequence is not None:
        message.trade_id = stored.trade_id
        message.trade_sequence = stored.trade_sequence
    message.equity = stored.equity.rstrip("0").rstrip(".")
    add_evaluation = message.evaluations.add
    for read in stored.evaluations_read:
        evaluation = add_evaluation()
        evaluation.rule = _RULE_BY_NAME[read["rule"]]
        evaluation.limit_pct = read["limit_pct"]
        evaluation.observed_pct = read["observed_pct"]
        evaluation.triggered = read["triggered"]
        evaluation.headroom = read["headroom"]
    _fill_timestamp(message.occurred_at, stored.occurred_at)
    _fill_timestamp(message.recorded_at, stored.recorded_at)
    terms = stored.terms_read
    if terms is not None:
        _fill_terms(message.terms, terms)
    return message


def _rule_to(rule: Rule | None) -> pb.Rule:
    return pb.RULE_UNSPECIFIED if rule is None else _RULE_TO_WIRE[rule]


def _timestamp(moment: int | None) -> Timestamp | None:
    if moment is None:
        return None
    timestamp = Timestamp()
    _fill_timestamp(timestamp, moment)
    return timestamp


def _fill_timestamp(message: Timestamp, moment: int) -> None:
    message.seconds, micros = divmod(moment, 1_000_000)
    message.nanos = micros * 1000


def _limits_to(limits: Limits) -> pb.Limits:
    return pb.Limits(
        max_daily_drawdown_pct=format_percentage(limits.max_daily_drawdown_pct),
        max_total_drawdown_pct=format_percentage(limits.max_total_drawdown_pct),
        profit_target_pct=format_percentage(limits.profit_target_pct),
    )


def _evaluations_to(evaluations: Iterable[Evaluation]) -> list[pb.RuleEvaluation]:
    messages = []
    for evaluation in evaluations:
        message = pb.RuleEvaluation()
        _fill_evaluation(message, evaluation)
        messages.append(message)
    return messages


def _fill_evaluation(message: pb.RuleEvaluation, evaluation: Evaluation) -> None:
    message.rule = _RULE_TO_WIRE[evaluation.rule]
    message.limit_pct = format_percentage(evaluation.limit_pct)
    message.observed_pct = format_scaled(evaluation.observed_pct, OBSERVED_PLACES)
    message.triggered = evaluation.triggered
    message.headroom = format_amount(evaluation.headroom)


def _fill_terms(message: pb.ChallengeTerms, read: dict[str, Any]) -> None:
    message.initial_balance = read["initial_balance"]
    limits = message.limits
    limits.max_daily_drawdown_pct = read["max_daily_drawdown_pct"]
    limits.max_total_drawdown_pct = read["max_total_drawdown_pct"]
    limits.profit_target_pct = read["profit_target_pct"]
    message.currency_code = read["currency_code"]
    labels = message.labels
    for key, text in read["labels"].items():
        labels[key] = text
    message.rules_version = read["rules_version"]
    _fill_timestamp(message.created_at, from_iso(read["created_at"]))
