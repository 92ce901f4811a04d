"""An independent reference model of one challenge, written from the verdicts of DESIGN.md alone.

It shares no code with `challenge_rules`: amounts are fractions instead of scaled integers, moments are datetimes, and
what goes in and comes out is in wire form (strings, ints, dicts), so that any layer of the service can be held against
it. It is written to be read beside the verdicts, not to be fast. A dry run is `copy.deepcopy(model).submit(...)`.
"""

from datetime import UTC, date, datetime, timedelta
from decimal import Context, Decimal, Inexact, InvalidOperation, localcontext
from fractions import Fraction
from math import ceil, floor
from typing import Any

_EXACT = Context(prec=200, traps=[Inexact, InvalidOperation])
_UNITS = 10**8
_LARGEST = Fraction("9999999999999999.99999999")
_DIGITS = frozenset("0123456789")


def valid_amount(text: str) -> bool:
    """V13: perhaps a minus, 1 to 16 digits without a leading zero, perhaps a point and 1 to 8 more; not minus zero."""
    unsigned = text.removeprefix("-")
    whole, point, decimals = unsigned.partition(".")
    if not 1 <= len(whole) <= 16 or not set(whole) <= _DIGITS or (whole.startswith("0") and whole != "0"):
        return False
    if point and not (1 <= len(decimals) <= 8 and set(decimals) <= _DIGITS):
        return False
    return unsigned == text or Fraction(unsigned) != 0


def wire(value: Fraction) -> str:
    """The shortest decimal form of a value that has one."""
    with localcontext(_EXACT):
        text = format(Decimal(value.numerator) / Decimal(value.denominator), "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return text


def wire_moment(moment: datetime) -> str:
    """A moment as ISO text in UTC, always with six decimals."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


class ModelChallenge:
    """A challenge as V1–V8, V11 and V12 describe it. `events` holds its status changes in order."""

    def __init__(self, initial_balance: str, daily: str = "5", total: str = "10", target: str = "10") -> None:
        self.initial_balance = Fraction(initial_balance)
        self.daily = Fraction(daily)
        self.total = Fraction(total)
        self.target = Fraction(target)
        self.status = "PENDING"
        self.status_reason: str | None = None
        self.equity = self.initial_balance
        self.peak_equity = self.initial_balance
        self.daily_start_equity = self.initial_balance
        self.trading_day: date | None = None
        self.last_sequence = 0
        self.activated_at: datetime | None = None
        self.closed_at: datetime | None = None
        self.last_executed_at: datetime | None = None
        self.events: list[dict[str, Any]] = []
        self._accepted: dict[str, tuple[tuple[Fraction, datetime, str], dict[str, Any]]] = {}

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
        """Decide one trade with valid fields, in V2's order of work. Without `now` no trade is in the future."""
        content = (Fraction(realized_pnl), executed_at.astimezone(UTC), symbol)
        if trade_id in self._accepted:
            return self._replay(trade_id, content)
        if self.status in ("FAILED", "FUNDED"):
            return _rejection("CHALLENGE_TERMINAL", status=self.status)
        if now is not None and executed_at - now > timedelta(seconds=max_skew_s):
            return _rejection("TRADE_IN_FUTURE")
        if self.last_executed_at is not None and not executed_at > self.last_executed_at:
            return _rejection("TRADE_OUT_OF_ORDER", last_executed_at=wire_moment(self.last_executed_at))
        sequence = self.last_sequence + 1
        if expected_sequence not in (None, sequence):
            return _rejection("SEQUENCE_MISMATCH", next_sequence=str(sequence))
        pnl, moment, _ = content
        if self.equity + pnl > _LARGEST:
            return _rejection("EQUITY_OUT_OF_RANGE")
        decision = self._apply(trade_id, pnl, moment)
        self._accepted[trade_id] = (content, decision)
        return dict(decision)

    def snapshot(self) -> dict[str, Any]:
        """The challenge as it stands, in wire form."""
        return {
            "status": self.status,
            "status_reason": self.status_reason,
            "initial_balance": wire(self.initial_balance),
            "equity": wire(self.equity),
            "peak_equity": wire(self.peak_equity),
            "daily_start_equity": wire(self.daily_start_equity),
            "trading_day": self.trading_day and self.trading_day.isoformat(),
            "last_sequence": self.last_sequence,
            "version": 1 + self.last_sequence,
            "activated_at": self.activated_at and wire_moment(self.activated_at),
            "closed_at": self.closed_at and wire_moment(self.closed_at),
            "last_executed_at": self.last_executed_at and wire_moment(self.last_executed_at),
        }

    def headroom(self, rule: str) -> str:
        """The headroom of a rule as the challenge stands, in wire form."""
        return next(row["headroom"] for row in self._evaluations() if row["rule"] == rule)

    def _replay(self, trade_id: str, content: tuple[Fraction, datetime, str]) -> dict[str, Any]:
        first, decision = self._accepted[trade_id]
        names = ("realized_pnl", "executed_at", "symbol")
        differing = [name for name, before, now in zip(names, first, content, strict=True) if before != now]
        if differing:
            return _rejection("TRADE_ID_REUSED", differing_fields=",".join(differing))
        return {**decision, "replayed": True}

    def _apply(self, trade_id: str, pnl: Fraction, moment: datetime) -> dict[str, Any]:
        if moment.date() != self.trading_day:
            self.trading_day = moment.date()
            self.daily_start_equity = self.equity
        self.equity = max(Fraction(0), self.equity + pnl)
        self.peak_equity = max(self.peak_equity, self.equity)
        self.last_sequence += 1
        self.last_executed_at = moment
        previous_status = self.status
        evaluations = self._evaluations()
        triggered = [row["rule"] for row in evaluations if row["triggered"]]
        evidence = {
            "trade_id": trade_id,
            "trade_sequence": self.last_sequence,
            "equity": wire(self.equity),
            "evaluations": evaluations,
            "occurred_at": wire_moment(moment),
        }
        if self.status == "PENDING":
            self.status = "ACTIVE"
            self.activated_at = moment
            self.events.append({"old_status": "PENDING", "new_status": "ACTIVE", "reason": None, **evidence})
        if triggered:
            self.status = "FUNDED" if triggered[0] == "PROFIT_TARGET" else "FAILED"
            self.status_reason = triggered[0]
            self.closed_at = moment
            self.events.append({"old_status": "ACTIVE", "new_status": self.status, "reason": triggered[0], **evidence})
        return {
            "outcome": "decision",
            "trade_id": trade_id,
            "executed_at": wire_moment(moment),
            "status": self.status,
            "previous_status": previous_status,
            "reason": triggered[0] if triggered else None,
            "sequence": self.last_sequence,
            "replayed": False,
            "equity": wire(self.equity),
            "peak_equity": wire(self.peak_equity),
            "daily_start_equity": wire(self.daily_start_equity),
            "evaluations": evaluations,
        }

    def _evaluations(self) -> list[dict[str, Any]]:
        daily_pct = (self.daily_start_equity - self.equity) / self.daily_start_equity * 100
        total_pct = (self.peak_equity - self.equity) / self.peak_equity * 100
        profit_pct = (self.equity - self.initial_balance) / self.initial_balance * 100
        return [
            _evaluation(
                "MAX_DAILY_DRAWDOWN",
                self.daily,
                daily_pct,
                daily_pct > self.daily,
                _largest_loss(self.equity, self.daily_start_equity * (1 - self.daily / 100)),
            ),
            _evaluation(
                "MAX_TOTAL_DRAWDOWN",
                self.total,
                total_pct,
                total_pct > self.total,
                _largest_loss(self.equity, self.peak_equity * (1 - self.total / 100)),
            ),
            _evaluation(
                "PROFIT_TARGET",
                self.target,
                profit_pct,
                profit_pct >= self.target,
                _smallest_gain(self.equity, self.initial_balance * (1 + self.target / 100)),
            ),
        ]


def _largest_loss(equity: Fraction, lowest_that_survives: Fraction) -> Fraction:
    return Fraction(floor((equity - lowest_that_survives) * _UNITS), _UNITS)


def _smallest_gain(equity: Fraction, lowest_that_is_funded: Fraction) -> Fraction:
    return Fraction(ceil((lowest_that_is_funded - equity) * _UNITS), _UNITS)


def _evaluation(rule: str, limit: Fraction, observed: Fraction, triggered: bool, headroom: Fraction) -> dict[str, Any]:
    # round() of a fraction is exact and goes half to even.
    return {
        "rule": rule,
        "limit_pct": wire(limit),
        "observed_pct": wire(round(observed, 6)),
        "triggered": triggered,
        "headroom": "0" if triggered else wire(headroom),
    }


def _rejection(reason: str, **metadata: str) -> dict[str, Any]:
    return {"outcome": "rejection", "reason": reason, **metadata}
