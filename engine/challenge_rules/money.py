"""Amounts of money as exact integers, and their one text form.

Inside the engine an amount is an `int` counting units of 0.00000001 of the account's currency: comparisons are exact
at any size, and faster than `Decimal`. Outside it is text, in the form that `AMOUNT_FORM` describes.
"""

import re
from functools import lru_cache

UNITS_PER_WHOLE = 10**8
DECIMAL_PLACES = 8
MAX_AMOUNT = 10**24 - 1
"""The largest amount, 9999999999999999.99999999: 16 digits before the point and 8 after."""

AMOUNT_FORM = r"-?(0|[1-9][0-9]{0,15})(\.[0-9]{1,8})?"
_AMOUNT = re.compile(r"(-?)(0|[1-9][0-9]{0,15})(?:\.([0-9]{1,8}))?")


def parse_amount(text: str) -> int:
    """Units of an amount in wire form; `ValueError` for anything else, minus zero included. Nothing is ever rounded."""
    match = _AMOUNT.fullmatch(text)
    if match is None:
        raise ValueError("not an amount")
    sign, whole, fraction = match.groups()
    units = int(whole) * UNITS_PER_WHOLE
    if fraction is not None:
        units += int(fraction.ljust(DECIMAL_PLACES, "0"))
    if not sign:
        return units
    if units == 0:
        raise ValueError("minus zero")
    return -units


def format_scaled(units: int, places: int) -> str:
    """The shortest decimal text of `units` / 10**`places`: no trailing zeros, no bare point, no minus zero."""
    return _text(units, places)


@lru_cache(maxsize=8192)
def _text(units: int, places: int) -> str:
    """Remembered, because one trade writes the same amounts several times: to its row, its challenge and its answer."""
    whole, fraction = divmod(abs(units), 10**places)
    sign = "-" if units < 0 else ""
    if fraction == 0:
        return f"{sign}{whole}"
    return f"{sign}{whole}." + f"{fraction:0{places}d}".rstrip("0")


def parse_scaled(text: str, places: int) -> int:
    """The integer that `format_scaled` wrote, of any size."""
    whole, _, fraction = text.partition(".")
    return int(whole + fraction.ljust(places, "0"))


def format_amount(units: int) -> str:
    """The shortest text of an amount: `100000`, `0.5`, `-0.00000001`."""
    return _text(units, DECIMAL_PLACES)


def divide_half_even(numerator: int, denominator: int) -> int:
    """The exact quotient rounded to the nearest integer, halves to the even one. `denominator` must be positive."""
    quotient, remainder = divmod(numerator, denominator)
    twice = 2 * remainder
    if twice > denominator or (twice == denominator and quotient & 1):
        quotient += 1
    return quotient
