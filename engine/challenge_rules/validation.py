"""Checks of a request's fields. All bad fields of a request are found at once; each is named with what is allowed."""

import re
import unicodedata
from collections.abc import Iterable, Mapping

from challenge_rules.challenge import Labels, Trade
from challenge_rules.currencies import ISO_4217
from challenge_rules.errors import FieldViolation, ValidationError
from challenge_rules.limits import DEFAULT_LIMITS, HUNDRED_PCT, MAX_TARGET_PCT, Limits, parse_percentage
from challenge_rules.money import AMOUNT_FORM, format_amount, parse_amount
from challenge_rules.timestamps import from_seconds_and_nanos

MIN_INITIAL_BALANCE = parse_amount("0.01")
DEFAULT_CURRENCY = "USD"
MAX_LABELS = 32
MAX_LABEL_KEY = 63
MAX_LABEL_VALUE = 255
MAX_SHOWN_INPUT = 40
MAX_VIOLATIONS = 12
"""More bad fields than this are not looked for: a status travels in HTTP/2 headers, which have 8 KiB in all."""

_UUID = re.compile(r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}")
_TRADE_ID = re.compile(r"[ -~]{1,64}")
_SYMBOL = re.compile(r"[ -~]{0,32}")


class FieldChecks:
    """Collects the violations of one request. A check returns the value inside the engine, or a stand-in when bad.

    `prefix` is put before every field's path, such as `trades[3].`.
    """

    def __init__(self, prefix: str = "") -> None:
        self.prefix = prefix
        self.violations: list[FieldViolation] = []

    def refuse(self, field: str, description: str) -> None:
        """Record one bad field; at most MAX_VIOLATIONS are kept."""
        if len(self.violations) < MAX_VIOLATIONS:
            self.violations.append(FieldViolation(self.prefix + field, description))

    def raise_if_any(self) -> None:
        """Raise `ValidationError` if a check found anything."""
        if self.violations:
            raise ValidationError(self.violations)

    def challenge_id(self, value: str, field: str = "challenge_id") -> str:
        """A UUID of the form 8-4-4-4-12, in lower case."""
        if _UUID.fullmatch(value) is None:
            self.refuse(field, f"must be a UUID such as 0190b5a8-7c3e-7d2a-9f00-1a2b3c4d5e6f, {_got(value)}")
        return value.lower()

    def amount(self, value: str, field: str) -> int:
        """An amount in wire form, as units of 0.00000001."""
        try:
            return parse_amount(value)
        except ValueError:
            self.refuse(
                field,
                "must be an amount such as 100000 or -12.5: at most 16 digits, and at most 8 after a point,"
                f" matching {AMOUNT_FORM} and not minus zero; {_got(value)}",
            )
            return 0

    def initial_balance(self, value: str, field: str = "initial_balance") -> int:
        """An amount of at least 0.01."""
        known = len(self.violations)
        units = self.amount(value, field)
        if len(self.violations) == known and units < MIN_INITIAL_BALANCE:
            self.refuse(field, f"must be at least {format_amount(MIN_INITIAL_BALANCE)}, {_got(value)}")
        return units

    def limits(self, daily: str, total: str, target: str, field: str = "limits") -> Limits:
        """The three limits; an empty one takes its default."""
        checked = (
            self._percentage(daily, f"{field}.max_daily_drawdown_pct", DEFAULT_LIMITS.max_daily_drawdown_pct),
            self._percentage(total, f"{field}.max_total_drawdown_pct", DEFAULT_LIMITS.max_total_drawdown_pct),
            self._percentage(target, f"{field}.profit_target_pct", DEFAULT_LIMITS.profit_target_pct, is_target=True),
        )
        return Limits(*checked)

    def _percentage(self, value: str, field: str, default: int, *, is_target: bool = False) -> int:
        if not value:
            return default
        try:
            units = parse_percentage(value)
        except ValueError:
            units = 0
        if 0 < units < HUNDRED_PCT or (is_target and 0 < units <= MAX_TARGET_PCT):
            return units
        allowed = "above 0 and at most 10000" if is_target else "above 0 and below 100"
        self.refuse(field, f"must be a percentage {allowed} with at most 4 decimal places, such as 7.5; {_got(value)}")
        return default

    def currency_code(self, value: str, field: str = "currency_code") -> str:
        """An ISO 4217 code; an empty one is USD."""
        if value and value not in ISO_4217:
            self.refuse(field, f"must be an ISO 4217 code in capital letters such as USD, {_got(value)}")
        return value or DEFAULT_CURRENCY

    def labels(self, value: Mapping[str, str], field: str = "labels") -> Labels:
        """At most 32 labels without control characters, sorted by key."""
        if len(value) > MAX_LABELS:
            self.refuse(field, f"must be at most {MAX_LABELS} labels, got {len(value)}")
        for key, text in value.items():
            where = f"{field}[{_shown(key)}]"
            if not 1 <= len(key) <= MAX_LABEL_KEY or _has_control(key):
                self.refuse(where, f"a key must be 1 to {MAX_LABEL_KEY} characters, no control characters")
            if len(text) > MAX_LABEL_VALUE or _has_control(text):
                self.refuse(where, f"a value must be at most {MAX_LABEL_VALUE} characters, no control characters")
        return tuple(sorted(value.items()))

    def timestamp(self, value: tuple[int, int] | None, field: str) -> int:
        """Seconds and nanos since 1970, as microseconds; None is an unset field."""
        if value is None:
            self.refuse(field, "must be set")
            return 0
        try:
            return from_seconds_and_nanos(*value)
        except ValueError:
            self.refuse(
                field,
                "must lie between the years 1 and 9999, with nanos between 0 and 999999999;"
                f" got seconds {value[0]} and nanos {value[1]}",
            )
            return 0

    def trade(
        self,
        *,
        trade_id: str,
        realized_pnl: str,
        executed_at: tuple[int, int] | None,
        symbol: str,
        field: str = "trade",
    ) -> Trade:
        """A trade, every field checked."""
        if _TRADE_ID.fullmatch(trade_id) is None:
            self.refuse(f"{field}.trade_id", f"must be 1 to 64 printable ASCII characters, {_got(trade_id)}")
        pnl = self.amount(realized_pnl, f"{field}.realized_pnl")
        moment = self.timestamp(executed_at, f"{field}.executed_at")
        if _SYMBOL.fullmatch(symbol) is None:
            self.refuse(f"{field}.symbol", f"must be at most 32 printable ASCII characters, {_got(symbol)}")
        return Trade(trade_id, pnl, moment, symbol)

    def not_negative(self, value: int, field: str) -> int:
        """A whole number of at least 0."""
        if value < 0:
            self.refuse(field, f"must not be negative, got {value}")
        return value

    def at_most(self, count: int, limit: int, field: str) -> None:
        """A repeated field of bounded length."""
        if count > limit:
            self.refuse(field, f"must have at most {limit} entries, got {count}")

    def challenge_ids(self, values: Iterable[str], field: str = "challenge_ids") -> tuple[str, ...]:
        """UUIDs, sorted and without repetition."""
        return tuple(sorted({self.challenge_id(value, f"{field}[{index}]") for index, value in enumerate(values)}))


def _has_control(text: str) -> bool:
    """Whether there is a control character, or half of a surrogate pair, which no UTF-8 can carry."""
    return any(unicodedata.category(character) in ("Cc", "Cs") for character in text)


def _shown(value: str) -> str:
    """What was sent, escaped, and cut where it is long."""
    escaped = ascii(value[: MAX_SHOWN_INPUT + 1])
    return escaped if len(escaped) <= MAX_SHOWN_INPUT + 2 else f"{escaped[:MAX_SHOWN_INPUT]}..."


def _got(value: str) -> str:
    return f"got {_shown(value)}" if value else "got nothing"
