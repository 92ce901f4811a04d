"""The mapping between the messages of the contract and what only the engine knows: filters and stored events.

The rest is in `challenge_wire`.
"""

from typing import Any

from challenge_engine.event_log import PositionedEvent
from challenge_engine.reading import ChallengeFilter
from challenge_rules import EventType
from challenge_rules.timestamps import from_iso
from challenge_rules.validation import FieldChecks
from challenge_wire.messages import RULE_TO_WIRE, STATUS_TO_WIRE, fill_timestamp, optional_moment, statuses_from
from propfirm.challenge.v1 import challenge_pb2 as pb

# By the texts in which they are stored.
_STATUS_BY_NAME = {status.value: number for status, number in STATUS_TO_WIRE.items()}
_RULE_BY_NAME = {rule.value: number for rule, number in RULE_TO_WIRE.items()}
_EVENT_TYPE_BY_NAME: dict[str, pb.EventType] = {
    kind.value: getattr(pb, f"EVENT_TYPE_{kind.name}") for kind in EventType
}


def challenge_filter_from(request: pb.ListChallengesRequest, checks: FieldChecks) -> ChallengeFilter:
    """Which challenges to list."""
    return ChallengeFilter(
        statuses=statuses_from(request.statuses, "statuses", checks),
        labels=checks.labels(request.labels),
        closed_at_from=optional_moment(request, "closed_at_from", checks),
        closed_at_before=optional_moment(request, "closed_at_before", checks),
    )


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
    fill_timestamp(message.occurred_at, stored.occurred_at)
    fill_timestamp(message.recorded_at, stored.recorded_at)
    terms = stored.terms_read
    if terms is not None:
        _fill_terms(message.terms, terms)
    return message


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
    fill_timestamp(message.created_at, from_iso(read["created_at"]))
