"""What callers may pass, checked and brought into one form. Nothing is ever rounded or guessed.

A value of the wrong type is a `TypeError`, one that cannot be expressed in the contract a `ValueError`; both name the
argument. Whether a value is *allowed* (a known currency, a limit below 100 %) the server decides, in one place for all.
"""

import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import TypeVar

from challenge_rules.money import format_scaled
from challenge_rules.timestamps import from_datetime, to_datetime

NumberLike = Decimal | int | str
"""An amount or a percentage: `Decimal("12.5")`, `12` or `"12.5"`. Never a `float`, which cannot hold 0.1 exactly."""

AMOUNT_DIGITS, AMOUNT_PLACES = 16, 8
PERCENTAGE_DIGITS, PERCENTAGE_PLACES = 5, 4
MAX_SECONDS = 10**9
INT32_MAX = 2**31 - 1
INT64_MAX = 2**63 - 1

_PLAIN = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?", re.ASCII)

_ItemT = TypeVar("_ItemT")


def amount(value: NumberLike, field: str) -> Decimal:
    """An amount of money: at most 16 digits before and 8 after the point. The answer has no exponent."""
    return _number(value, field, AMOUNT_DIGITS, AMOUNT_PLACES)


def percentage(value: NumberLike, field: str) -> Decimal:
    """A percentage: at most 5 digits before and 4 after the point."""
    return _number(value, field, PERCENTAGE_DIGITS, PERCENTAGE_PLACES)


def moment(value: datetime, field: str) -> datetime:
    """An aware datetime, in UTC."""
    if not isinstance(value, datetime):
        raise TypeError(f"{field} must be a datetime, got {type(value).__name__}")
    if value.utcoffset() is None:
        raise ValueError(
            f"{field} must be an aware datetime, because a naive one names no moment: use datetime.now(UTC), or"
            f" value.replace(tzinfo=UTC) if it is meant in UTC; got {value!r}"
        )
    try:
        return to_datetime(from_datetime(value))
    except OverflowError:
        raise ValueError(f"{field} must lie between the years 1 and 9999 in UTC, got {value!r}") from None


def text(value: str, field: str) -> str:
    """A string that UTF-8 can express."""
    if not isinstance(value, str):
        raise TypeError(f"{field} must be a str, got {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{field} must be valid Unicode, got {value!r}") from None
    return value


def given_text(value: str | None, field: str) -> str | None:
    """A string or None. An empty one is refused: the contract would read it as "not given"."""
    if value is None:
        return None
    if not text(value, field):
        raise ValueError(f"{field} must not be empty; leave it out instead")
    return value


def whole(value: int, field: str, maximum: int = INT64_MAX) -> int:
    """A whole number that the field can hold."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{field} must be an int, got {type(value).__name__}")
    if not -maximum - 1 <= value <= maximum:
        raise ValueError(f"{field} must be at most {maximum}, got {value}")
    return value


def seconds(value: float, field: str) -> float:
    """A span of time in seconds, not negative."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{field} must be a number of seconds, got {type(value).__name__}")
    if not 0 <= value <= MAX_SECONDS:
        raise ValueError(f"{field} must be 0 to {MAX_SECONDS} seconds, got {value}")
    return float(value)


def attempts(value: int | None, field: str) -> int | None:
    """How often something may be tried, at least once; None: without a limit."""
    if value is not None and whole(value, field) < 1:
        raise ValueError(f"{field} must be at least 1, or None for no limit; got {value}")
    return value


def labels(value: Mapping[str, str] | None, field: str = "labels") -> dict[str, str]:
    """Labels, a mapping of str to str."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise TypeError(f"{field} must be a mapping of str to str, got {type(value).__name__}")
    return {text(key, f"a key of {field}"): text(item, f"{field}[{key!r}]") for key, item in value.items()}


def several(values: Iterable[_ItemT], field: str) -> list[_ItemT]:
    """The items of a collection. A bare string is refused: it would be taken letter by letter."""
    if isinstance(values, str):
        raise TypeError(f"{field} must be a collection, got a single {type(values).__name__}: write [{values!r}]")
    return list(values)


def _number(value: NumberLike, field: str, digits: int, places: int) -> Decimal:
    if isinstance(value, float):
        raise TypeError(
            f"{field} must not be a float, which cannot hold most decimal fractions exactly:"
            f' pass Decimal("{value!r}") or "{value!r}" instead'
        )
    if isinstance(value, bool) or not isinstance(value, Decimal | int | str):
        raise TypeError(f"{field} must be a Decimal, an int or a str, got {type(value).__name__}")
    if isinstance(value, str) and _PLAIN.fullmatch(value) is None:
        raise ValueError(f'{field} must be a plain decimal number such as "1250.5", got {value!r}')
    if isinstance(value, int) and abs(value) >= 10**digits:
        raise ValueError(f"{field} must have at most {digits} digits before the point")
    number = Decimal(value)
    if not number.is_finite():
        raise ValueError(f"{field} must be a finite number, got {number}")
    if number.is_zero():
        return Decimal(0)
    if number.adjusted() >= digits:
        raise ValueError(f"{field} must have at most {digits} digits before the point, got {number}")
    shortest = _shortest(number, places)
    if shortest is None:
        raise ValueError(
            f"{field} must have at most {places} decimal places, got {number}; round it yourself if that is meant"
        )
    return shortest


def _shortest(number: Decimal, places: int) -> Decimal | None:
    """The same number without trailing zeros and exponent; None when it needs more decimal places.

    Works on the digits, because every operation of `Decimal` rounds to the precision of the caller's context.
    """
    sign, digits, exponent = number.as_tuple()
    assert isinstance(exponent, int)
    zeros = next(index for index, digit in enumerate(reversed(digits)) if digit)
    shift = exponent + zeros + places
    if shift < 0:
        return None
    units = int("".join(map(str, digits[: len(digits) - zeros]))) * 10**shift
    return Decimal(format_scaled(-units if sign else units, places))
