"""Moments as whole microseconds since 1970-01-01T00:00:00Z, and days as whole days since then.

Integers, so that order is exact and nothing depends on a time zone or a locale.
"""

from datetime import UTC, date, datetime, timedelta
from functools import lru_cache

MICROSECONDS_PER_DAY = 86_400_000_000
MIN_SECONDS = -62_135_596_800
"""0001-01-01T00:00:00Z, the earliest moment of protobuf, PostgreSQL and Python alike."""
MAX_SECONDS = 253_402_300_799
"""9999-12-31T23:59:59Z, the latest."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_DAY = date(1970, 1, 1).toordinal()
_MICROSECOND = timedelta(microseconds=1)


def from_seconds_and_nanos(seconds: int, nanos: int) -> int:
    """Microseconds of a protobuf timestamp. Digits finer than a microsecond are dropped, towards the past.

    Raises `ValueError` outside the years 1 to 9999, and for nanos outside 0 to 999,999,999.
    """
    if not MIN_SECONDS <= seconds <= MAX_SECONDS or not 0 <= nanos <= 999_999_999:
        raise ValueError("timestamp out of range")
    return seconds * 1_000_000 + nanos // 1000


def from_datetime(moment: datetime) -> int:
    """Microseconds of an aware datetime; a naive one is a `TypeError`, because it names no moment."""
    return (moment - _EPOCH) // _MICROSECOND


def to_datetime(microseconds: int) -> datetime:
    """The aware UTC datetime of a moment."""
    return _EPOCH + timedelta(microseconds=microseconds)


def to_iso(microseconds: int) -> str:
    """The moment as text, such as `2024-12-02T17:20:00.000001Z`; always with six decimals."""
    return _iso(microseconds)


@lru_cache(maxsize=8192)
def _iso(microseconds: int) -> str:
    """Remembered, because all trades of a transaction share their `recorded_at`, and a trade its `executed_at`."""
    seconds, fraction = divmod(microseconds, 1_000_000)
    return f"{_iso_second(seconds)}.{fraction:06d}Z"


@lru_cache(maxsize=1024)
def _iso_second(seconds: int) -> str:
    return (_EPOCH + timedelta(seconds=seconds)).isoformat(timespec="seconds").removesuffix("+00:00")


def from_iso(text: str) -> int:
    """The moment that `to_iso` wrote."""
    return from_datetime(datetime.fromisoformat(text))


def trading_day(microseconds: int) -> int:
    """The UTC calendar day of a moment, as days since 1970-01-01."""
    return microseconds // MICROSECONDS_PER_DAY


def day_to_iso(day: int) -> str:
    """A day as `YYYY-MM-DD`."""
    return date.fromordinal(day + _EPOCH_DAY).isoformat()


def day_from_date(day: date) -> int:
    """Days since 1970-01-01 of a calendar date."""
    return day.toordinal() - _EPOCH_DAY
