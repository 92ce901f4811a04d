"""A challenge driven through the pure core, asked and answering in the wire form of `model.ModelChallenge`."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from challenge_rules import (
    ChallengeEngine,
    ChallengeError,
    ChallengeEvent,
    ChallengeTerms,
    Decision,
    Limits,
    Outcome,
    RecordedTrade,
    RuleEvaluation,
    Trade,
)
from challenge_rules.limits import format_percentage
from challenge_rules.money import format_amount, format_scaled, parse_amount
from challenge_rules.rules import OBSERVED_PLACES
from challenge_rules.timestamps import day_to_iso, from_datetime, to_iso

CHALLENGE_ID = "0190b5a8-7c3e-7d2a-9f00-1a2b3c4d5e6f"
CREATED_AT = 1_735_689_600_000_000  # 2025-01-01T00:00:00Z
RECORDED_AT = CREATED_AT + 7
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def units(text: str) -> int:
    """An amount as units of 0.00000001, by way of Decimal (24 digits fit its default context)."""
    return int(Decimal(text).scaleb(8))


def moment(text: str) -> datetime:
    """An aware datetime of ISO text in UTC, such as `2025-01-02T10:00`."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def microseconds(at: datetime | str) -> int:
    """Microseconds since 1970."""
    return ((moment(at) if isinstance(at, str) else at) - _EPOCH) // timedelta(microseconds=1)


def limits(daily: str = "5", total: str = "10", target: str = "10") -> Limits:
    """Limits of percentages as text, by way of Decimal."""
    return Limits(*(int(Decimal(text).scaleb(4)) for text in (daily, total, target)))


def terms(balance: str = "100000", daily: str = "5", total: str = "10", target: str = "10") -> ChallengeTerms:
    """Terms with the defaults of the contract."""
    return ChallengeTerms(
        challenge_id=CHALLENGE_ID,
        initial_balance=units(balance),
        limits=limits(daily, total, target),
        currency_code="EUR",
        labels=(("desk", "7"), ("trader", "ada")),
        rules_version=1,
        created_at=CREATED_AT,
    )


class Account:
    """Keeps the state and the accepted trades that a database would keep, and decides nothing itself."""

    def __init__(self, balance: str = "100000", daily: str = "5", total: str = "10", target: str = "10") -> None:
        self.engine = ChallengeEngine()
        self.state, created = self.engine.create(terms(balance, daily, total, target))
        self.log: list[ChallengeEvent] = [created]
        self.accepted: dict[str, RecordedTrade] = {}

    def decide(
        self,
        trade: Trade,
        *,
        expected_sequence: int | None = None,
        latest_executed_at: int | None = None,
        recorded_at: int = RECORDED_AT,
    ) -> Outcome:
        """Decide a trade and keep what a database would keep; a refusal is raised."""
        recorded = self.accepted.get(trade.trade_id)
        outcome = self.engine.decide(
            self.state,
            trade,
            recorded_at=recorded_at,
            recorded=recorded,
            expected_sequence=expected_sequence,
            latest_executed_at=latest_executed_at,
        )
        self.state = outcome.state
        self.log.extend(outcome.events)
        if recorded is None:
            self.accepted[trade.trade_id] = RecordedTrade(trade, outcome.decision, outcome.state.chain_head)
        return outcome

    def trade(self, pnl: str, at: str, trade_id: str | None = None, symbol: str = "") -> Outcome:
        """Decide a trade given as text; without an id it gets a fresh one."""
        return self.decide(Trade(trade_id or f"t{len(self.accepted) + 1}", units(pnl), microseconds(at), symbol))

    def submit(
        self,
        trade_id: str,
        realized_pnl: str,
        executed_at: datetime,
        symbol: str = "",
        expected_sequence: int | None = None,
        now: datetime | None = None,
        max_skew_s: float = 5,
    ) -> dict[str, Any]:
        """As `ModelChallenge.submit`."""
        trade = Trade(trade_id, parse_amount(realized_pnl), from_datetime(executed_at), symbol)
        latest = None if now is None else from_datetime(now) + int(max_skew_s * 1_000_000)
        try:
            outcome = self.decide(trade, expected_sequence=expected_sequence, latest_executed_at=latest)
        except ChallengeError as error:
            return {"outcome": "rejection", "reason": str(error.reason), **error.metadata}
        return decision_in_wire_form(outcome.decision)

    def snapshot(self) -> dict[str, Any]:
        """As `ModelChallenge.snapshot`."""
        state = self.state
        return {
            "status": str(state.status),
            "status_reason": state.status_reason and str(state.status_reason),
            "initial_balance": format_amount(state.terms.initial_balance),
            "equity": format_amount(state.equity),
            "peak_equity": format_amount(state.peak_equity),
            "daily_start_equity": format_amount(state.daily_start_equity),
            "trading_day": None if state.trading_day is None else day_to_iso(state.trading_day),
            "last_sequence": state.last_sequence,
            "version": state.version,
            "activated_at": _moment(state.activated_at),
            "closed_at": _moment(state.closed_at),
            "last_executed_at": _moment(state.last_executed_at),
        }

    @property
    def events(self) -> list[dict[str, Any]]:
        """As `ModelChallenge.events`."""
        return [
            {
                "old_status": event.old_status and str(event.old_status),
                "new_status": str(event.new_status),
                "reason": event.reason and str(event.reason),
                "trade_id": event.trade_id,
                "trade_sequence": event.trade_sequence,
                "equity": format_amount(event.equity),
                "evaluations": [evaluation_in_wire_form(row) for row in event.evaluations],
                "occurred_at": to_iso(event.occurred_at),
            }
            for event in self.log[1:]
        ]


def decision_in_wire_form(decision: Decision) -> dict[str, Any]:
    """A decision as the model writes it."""
    return {
        "outcome": "decision",
        "trade_id": decision.trade_id,
        "executed_at": to_iso(decision.executed_at),
        "status": str(decision.status),
        "previous_status": str(decision.previous_status),
        "reason": decision.reason and str(decision.reason),
        "sequence": decision.sequence,
        "replayed": decision.replayed,
        "equity": format_amount(decision.equity),
        "peak_equity": format_amount(decision.peak_equity),
        "daily_start_equity": format_amount(decision.daily_start_equity),
        "evaluations": [evaluation_in_wire_form(row) for row in decision.evaluations],
    }


def evaluation_in_wire_form(row: RuleEvaluation) -> dict[str, Any]:
    """A row of evidence as the model writes it."""
    return {
        "rule": str(row.rule),
        "limit_pct": format_percentage(row.limit_pct),
        "observed_pct": format_scaled(row.observed_pct, OBSERVED_PLACES),
        "triggered": row.triggered,
        "headroom": format_amount(row.headroom),
    }


def _moment(at: int | None) -> str | None:
    return None if at is None else to_iso(at)
