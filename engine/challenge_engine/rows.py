"""The one mapping between the rows of the database and the values of the rules."""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import orjson

from challenge_rules import (
    ChallengeEngine,
    ChallengeEvent,
    ChallengeState,
    ChallengeStatus,
    ChallengeTerms,
    Decision,
    EventType,
    Limits,
    RecordedTrade,
    Rule,
    RuleEvaluation,
    Trade,
)
from challenge_rules.chain import creation_link
from challenge_rules.challenge import Labels
from challenge_rules.limits import format_percentage, parse_percentage
from challenge_rules.money import DECIMAL_PLACES, format_amount, format_scaled, parse_amount, parse_scaled
from challenge_rules.rules import OBSERVED_PLACES
from challenge_rules.timestamps import day_to_iso, from_iso, to_iso

Row = Sequence[Any]

# Looking a member up by value is several times faster than calling its Enum.
_STATUSES = {status.value: status for status in ChallengeStatus}
_RULES: dict[str | None, Rule | None] = {None: None, **{rule.value: rule for rule in Rule}}
_RULES_EVALUATED = {rule.value: rule for rule in Rule}
_EVENT_TYPES = {kind.value: kind for kind in EventType}
_percentage = lru_cache(maxsize=1024)(parse_percentage)


def status(text: str) -> ChallengeStatus:
    """The status a row names."""
    return _STATUSES[text]


def rule(text: str | None) -> Rule | None:
    """The rule a row names, if any."""
    return _RULES[text]


def _json(value: object) -> str:
    return orjson.dumps(value).decode()


def units(text: str) -> int:
    """Units of an amount that PostgreSQL prints: numeric(24,8) always shows its eight decimals."""
    return int(text.replace(".", ""))


@lru_cache(maxsize=1024)
def _limits(max_daily_drawdown_pct: int, max_total_drawdown_pct: int, profit_target_pct: int) -> Limits:
    return Limits(max_daily_drawdown_pct, max_total_drawdown_pct, profit_target_pct)


@lru_cache(maxsize=1024)
def _labels(text: str) -> Labels:
    return tuple(sorted(orjson.loads(text).items()))


def challenge_from_row(row: Row) -> ChallengeState:
    """A challenge from `queries.CHALLENGE_COLUMNS`."""
    (
        challenge_id, status, reason, initial_balance, daily_pct, total_pct, target_pct, currency_code, labels,
        rules_version, equity, peak_equity, daily_start_equity, trading_day, last_sequence, event_count,
        created_at, activated_at, closed_at, last_executed_at, chain_head,
    ) = row  # fmt: skip
    return ChallengeState(
        terms=ChallengeTerms(
            challenge_id=challenge_id,
            initial_balance=units(initial_balance),
            limits=_limits(daily_pct, total_pct, target_pct),
            currency_code=currency_code,
            labels=_labels(labels),
            rules_version=rules_version,
            created_at=created_at,
        ),
        status=_STATUSES[status],
        status_reason=_RULES[reason],
        equity=units(equity),
        peak_equity=units(peak_equity),
        daily_start_equity=units(daily_start_equity),
        trading_day=trading_day,
        last_sequence=last_sequence,
        event_count=event_count,
        activated_at=activated_at,
        closed_at=closed_at,
        last_executed_at=last_executed_at,
        chain_head=chain_head,
    )


def trade_from_row(row: Row, terms: ChallengeTerms, engine: ChallengeEngine) -> RecordedTrade:
    """A recorded trade from `queries.TRADE_COLUMNS`; its evidence follows from its figures."""
    (
        challenge_id, sequence, trade_id, realized_pnl, executed_at, symbol, equity, peak_equity, daily_start_equity,
        previous_status, status, reason, recorded_at, chain_hash,
    ) = row  # fmt: skip
    evidence = engine.rules.evaluate(
        terms.limits,
        initial_balance=terms.initial_balance,
        daily_start_equity=units(daily_start_equity),
        peak_equity=units(peak_equity),
        equity=units(equity),
    )
    decision = Decision(
        challenge_id=challenge_id,
        trade_id=trade_id,
        sequence=sequence,
        replayed=False,
        previous_status=_STATUSES[previous_status],
        status=_STATUSES[status],
        reason=_RULES[reason],
        equity=units(equity),
        peak_equity=units(peak_equity),
        daily_start_equity=units(daily_start_equity),
        evaluations=evidence.evaluations,
        executed_at=executed_at,
        recorded_at=recorded_at,
    )
    return RecordedTrade(Trade(trade_id, units(realized_pnl), executed_at, symbol), decision, chain_hash)


class StoredEvent(NamedTuple):
    """An event as `queries.EVENT_COLUMNS` give it: what is text here is in the form of the contract, but for `equity`.

    `event_from_row` makes the event of it. Who only passes events on has no use for that, which costs more than to read
    them.
    """

    challenge_id: str
    challenge_sequence: int
    event_type: str
    old_status: str | None
    new_status: str
    reason: str | None
    trade_id: str | None
    trade_sequence: int | None
    equity: str
    """With all its eight decimals, as PostgreSQL prints it."""
    evaluations: str
    terms: str | None
    occurred_at: int
    recorded_at: int

    @property
    def evaluations_read(self) -> list[dict[str, Any]]:
        """The evidence: for each rule `rule`, `limit_pct`, `observed_pct`, `triggered` and `headroom`."""
        read: list[dict[str, Any]] = orjson.loads(self.evaluations)
        return read

    @property
    def terms_read(self) -> dict[str, Any] | None:
        """The terms of a creation, by the names of `ChallengeTerms` and `Limits`."""
        read: dict[str, Any] | None = orjson.loads(self.terms) if self.terms else None
        return read


def event_from_row(row: Row) -> ChallengeEvent:
    """An event from `queries.EVENT_COLUMNS`."""
    stored = StoredEvent._make(row)
    terms = stored.terms_read
    return ChallengeEvent(
        challenge_id=stored.challenge_id,
        challenge_sequence=stored.challenge_sequence,
        event_type=_EVENT_TYPES[stored.event_type],
        old_status=_STATUSES[stored.old_status] if stored.old_status else None,
        new_status=_STATUSES[stored.new_status],
        reason=_RULES[stored.reason],
        trade_id=stored.trade_id,
        trade_sequence=stored.trade_sequence,
        equity=units(stored.equity),
        evaluations=tuple(map(_evaluation_from_json, stored.evaluations_read)),
        occurred_at=stored.occurred_at,
        recorded_at=stored.recorded_at,
        terms=terms_from_json(stored.challenge_id, terms) if terms else None,
    )


def is_as_stored(event: ChallengeEvent, texts: tuple[str, str | None]) -> bool:
    """Whether the evidence and terms in an event's row are, but for white space and order, what it is stored with."""
    evaluations, terms = texts
    made = [_evaluation_to_json(evaluation) for evaluation in event.evaluations]
    return _sorted(orjson.loads(evaluations)) == _sorted(made) and (
        (terms is None and event.terms is None)
        or (
            terms is not None
            and event.terms is not None
            and _sorted(orjson.loads(terms)) == _sorted(_terms_to_json(event.terms))
        )
    )


def _sorted(value: object) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def challenge_to_json(created: ChallengeState) -> str:
    """The parameter of `queries.INSERT_CHALLENGE`, from the state of a new challenge."""
    terms = created.terms
    return _json({"challenge_id": terms.challenge_id, **_terms_to_json(terms), "chain_head": created.chain_head.hex()})


def uuid_array(challenge_ids: Iterable[str]) -> str:
    """The parameter of `queries.LOCK_CHALLENGES`, from valid UUIDs."""
    return "{" + ",".join(challenge_ids) + "}"


def trade_keys_to_json(keys: Iterable[tuple[str, str]]) -> str:
    """The parameter of `queries.FIND_RECORDED_TRADES`, from challenge_ids and trade_ids."""
    return _json([{"challenge_id": challenge_id, "trade_id": trade_id} for challenge_id, trade_id in keys])


def trades_to_json(accepted: Iterable[tuple[RecordedTrade, int]]) -> str:
    """The parameter of `queries.INSERT_TRADES`, from trades with the initial balance of their challenges."""
    rows = []
    for recorded, initial_balance in accepted:
        trade, decision = recorded.trade, recorded.decision
        assert decision.recorded_at is not None
        rows.append(
            {
                "challenge_id": decision.challenge_id,
                "sequence": decision.sequence,
                "trade_id": trade.trade_id,
                "realized_pnl": format_amount(trade.realized_pnl),
                "executed_at": to_iso(trade.executed_at),
                "symbol": trade.symbol,
                "initial_balance": format_amount(initial_balance),
                "equity": format_amount(decision.equity),
                "peak_equity": format_amount(decision.peak_equity),
                "daily_start_equity": format_amount(decision.daily_start_equity),
                "previous_status": decision.previous_status,
                "status": decision.status,
                "reason": decision.reason,
                "recorded_at": to_iso(decision.recorded_at),
                "chain_hash": recorded.chain_hash.hex(),
            }
        )
    return _json(rows)


def challenges_to_json(moved: Iterable[tuple[int, ChallengeState]]) -> str:
    """The parameter of `queries.UPDATE_CHALLENGES`, from new states with the version that was read."""
    return _json(
        [
            {
                "challenge_id": state.terms.challenge_id,
                "read_version": read_version,
                "status": state.status,
                "status_reason": state.status_reason,
                "equity": format_amount(state.equity),
                "peak_equity": format_amount(state.peak_equity),
                "daily_start_equity": format_amount(state.daily_start_equity),
                "trading_day": None if state.trading_day is None else day_to_iso(state.trading_day),
                "last_sequence": state.last_sequence,
                "event_count": state.event_count,
                "activated_at": _iso_or_none(state.activated_at),
                "closed_at": _iso_or_none(state.closed_at),
                "last_executed_at": _iso_or_none(state.last_executed_at),
                "chain_head": state.chain_head.hex(),
            }
            for read_version, state in moved
        ]
    )


def events_to_json(events: Iterable[ChallengeEvent]) -> str:
    """The parameter of `queries.INSERT_EVENTS`."""
    return _json(
        [
            {
                "challenge_id": event.challenge_id,
                "challenge_sequence": event.challenge_sequence,
                "event_type": event.event_type,
                "old_status": event.old_status,
                "new_status": event.new_status,
                "reason": event.reason,
                "trade_id": event.trade_id,
                "trade_sequence": event.trade_sequence,
                "equity": format_amount(event.equity),
                "evaluations": [_evaluation_to_json(evaluation) for evaluation in event.evaluations],
                "terms": None if event.terms is None else _terms_to_json(event.terms),
                "occurred_at": to_iso(event.occurred_at),
                "recorded_at": to_iso(event.recorded_at),
                "chain_hash": None if event.terms is None else creation_link(event).hex(),
            }
            for event in events
        ]
    )


def bytea(value: bytes) -> str:
    """Bytes as PostgreSQL reads them from text."""
    return "\\x" + value.hex()


def _iso_or_none(moment: int | None) -> str | None:
    return None if moment is None else to_iso(moment)


def _evaluation_to_json(evaluation: RuleEvaluation) -> dict[str, object]:
    return {
        "rule": evaluation.rule,
        "limit_pct": format_percentage(evaluation.limit_pct),
        "observed_pct": format_scaled(evaluation.observed_pct, OBSERVED_PLACES),
        "triggered": evaluation.triggered,
        "headroom": format_amount(evaluation.headroom),
    }


def _evaluation_from_json(stored: dict[str, Any]) -> RuleEvaluation:
    return RuleEvaluation(
        rule=_RULES_EVALUATED[stored["rule"]],
        limit_pct=_percentage(stored["limit_pct"]),
        observed_pct=parse_scaled(stored["observed_pct"], OBSERVED_PLACES),
        triggered=stored["triggered"],
        headroom=parse_scaled(stored["headroom"], DECIMAL_PLACES),
    )


def _terms_to_json(terms: ChallengeTerms) -> dict[str, object]:
    return {
        "initial_balance": format_amount(terms.initial_balance),
        "max_daily_drawdown_pct": format_percentage(terms.limits.max_daily_drawdown_pct),
        "max_total_drawdown_pct": format_percentage(terms.limits.max_total_drawdown_pct),
        "profit_target_pct": format_percentage(terms.limits.profit_target_pct),
        "currency_code": terms.currency_code,
        "labels": dict(terms.labels),
        "rules_version": terms.rules_version,
        "created_at": to_iso(terms.created_at),
    }


def _is(kind: type, value: Any) -> Any:
    """A value of exactly this type: `true` is no 1, and 1.0 neither."""
    if type(value) is not kind:
        raise ValueError(f"expected {kind.__name__}, got {type(value).__name__}")
    return value


def terms_from_json(challenge_id: str, stored: dict[str, Any]) -> ChallengeTerms:
    """The terms of a CHALLENGE_CREATED event, as they are stored with it."""
    return ChallengeTerms(
        challenge_id=challenge_id,
        initial_balance=parse_amount(stored["initial_balance"]),
        limits=Limits(
            _percentage(stored["max_daily_drawdown_pct"]),
            _percentage(stored["max_total_drawdown_pct"]),
            _percentage(stored["profit_target_pct"]),
        ),
        currency_code=_is(str, stored["currency_code"]),
        labels=tuple(sorted((key, _is(str, text)) for key, text in stored["labels"].items())),
        rules_version=_is(int, stored["rules_version"]),
        created_at=from_iso(stored["created_at"]),
    )
