"""The limits of a challenge, in exact integers of a ten-thousandth of a per cent."""

import re
from dataclasses import dataclass

from challenge_rules.money import format_scaled

PCT_PLACES = 4
ONE_PCT = 10_000
HUNDRED_PCT = 100 * ONE_PCT
MAX_TARGET_PCT = 10_000 * ONE_PCT

_PERCENTAGE = re.compile(r"(0|[1-9][0-9]{0,4})(?:\.([0-9]{1,4}))?")


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one challenge, fixed at its creation.

    Each is a percentage counted in units of 0.0001: 5 per cent is 50000. The drawdown limits lie in (0, 100) per cent,
    the target in (0, 10000]; anything else is a `ValueError`.
    """

    max_daily_drawdown_pct: int = 5 * ONE_PCT
    max_total_drawdown_pct: int = 10 * ONE_PCT
    profit_target_pct: int = 10 * ONE_PCT

    def __post_init__(self) -> None:
        if not 0 < self.max_daily_drawdown_pct < HUNDRED_PCT or not 0 < self.max_total_drawdown_pct < HUNDRED_PCT:
            raise ValueError("a drawdown limit must lie between 0 and 100 per cent, both excluded")
        if not 0 < self.profit_target_pct <= MAX_TARGET_PCT:
            raise ValueError("the profit target must be above 0 and at most 10000 per cent")


DEFAULT_LIMITS = Limits()


def parse_percentage(text: str) -> int:
    """Units of 0.0001 of a percentage such as `5` or `7.25`; `ValueError` for any other form or a fifth decimal."""
    match = _PERCENTAGE.fullmatch(text)
    if match is None:
        raise ValueError("not a percentage")
    whole: str = match[1]
    fraction: str | None = match[2]
    return int(whole) * ONE_PCT + int((fraction or "").ljust(PCT_PLACES, "0"))


def format_percentage(units: int) -> str:
    """The shortest text of a percentage counted in units of 0.0001."""
    return format_scaled(units, PCT_PLACES)
