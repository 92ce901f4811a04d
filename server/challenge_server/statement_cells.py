"""What the cells of a statement mean: amounts and moments, read exactly or refused with what is allowed."""

import re
from collections.abc import Callable
from datetime import UTC, date, datetime, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from challenge_rules.errors import ValidationError
from challenge_rules.money import DECIMAL_PLACES
from challenge_rules.timestamps import MAX_SECONDS, MIN_SECONDS, from_datetime
from challenge_rules.validation import FieldChecks

MICROSECONDS = 1_000_000
EPOCHS = {"epoch_s": 6, "epoch_ms": 3, "epoch_us": 0}
"""Time formats that count since 1970-01-01T00:00:00Z, and how many decimals of each make a microsecond."""
ISO = "iso"
MAX_SHOWN = 60
_DATE_LENGTH = len("2025-01-02")
_AMOUNT = re.compile(r"([+-]?)0*([0-9]{1,16})(?:\.(?=[0-9])([0-9]{0,8})0*)?")
_COUNT = re.compile(r"(-?[0-9]{1,18})(?:\.([0-9]{1,18}))?")
_SAMPLE = datetime(2025, 3, 4, 15, 6, 7, 89, tzinfo=UTC)

ReadMoment = Callable[[str], int]
"""Microseconds since 1970 of a cell; `ValueError` says what is allowed."""


def shown(text: str) -> str:
    """A cell as one may print it: quoted, with what a terminal might obey escaped, and cut where it is long."""
    return repr(text) if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]!r}…"


def read_amount(text: str) -> int:
    """Units of 0.00000001 of an amount such as `1234.5`, `+0.10` or `-12.500000000`: by value, never rounded."""
    match = _AMOUNT.fullmatch(text.strip())
    if match is None:
        raise ValueError(
            "must be an amount such as 1234.5 or -12.50, with a point, without separators of thousands, and with at"
            f" most 16 digits before the point and {DECIMAL_PLACES} after it; got {shown(text)}"
        )
    sign, whole, fraction = match.groups()
    units = int(whole + (fraction or "").ljust(DECIMAL_PLACES, "0"))
    return -units if sign == "-" else units


@lru_cache(maxsize=4096)
def read_challenge_id(text: str) -> str:
    """A challenge_id in lower case."""
    checks = FieldChecks()
    challenge_id = checks.challenge_id(text.strip())
    try:
        checks.raise_if_any()
    except ValidationError as error:
        raise ValueError(error.violations[0].description) from None
    return challenge_id


def read_trade_id(text: str) -> str:
    """A trade_id as it stands, with every space."""
    if not text:
        raise ValueError("must not be empty")
    return text


def zone_of(name: str) -> tzinfo:
    """The time zone of an IANA name; `ValueError` when there is none."""
    if name.upper() in ("UTC", "Z"):
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"must be a time zone such as Europe/Berlin or UTC, got {shown(name)}") from None


def moments_in(time_format: str, zone: tzinfo) -> ReadMoment:
    """What reads moments of a format: `iso`, `epoch_s`, `epoch_ms`, `epoch_us`, or a pattern as `strptime` takes it.

    Digits finer than a microsecond are dropped, towards the past, as they are from trades. A time that names no zone is
    one of `zone`; in the hour that clocks repeat in autumn, it is the first. `ValueError` for no such format.
    """
    if time_format in EPOCHS:
        places = EPOCHS[time_format]
        return lambda text: _counted(text, time_format, places)
    if time_format == ISO:
        return lambda text: read_iso(text, zone, with_time=True)
    if "%" not in time_format or "%Z" in time_format:
        raise ValueError(
            f"must be {ISO}, {', '.join(EPOCHS)}, or a pattern such as %d.%m.%Y %H:%M:%S, without %Z, because names of"
            f" zones are ambiguous; got {shown(time_format)}"
        )
    try:
        datetime.strptime(_SAMPLE.strftime(time_format), time_format)  # noqa: DTZ007 -- only whether it can be read
    except (ValueError, re.error):
        raise ValueError(f"must be a pattern that strptime takes, got {shown(time_format)}") from None
    return lambda text: _patterned(text, time_format, zone)


def read_iso(text: str, zone: tzinfo, *, with_time: bool = False) -> int:
    """Microseconds of a moment in ISO 8601. A mere date is its midnight, unless it must be `with_time`."""
    plain = text.strip()
    try:
        moment = datetime.fromisoformat(plain)
    except ValueError:
        moment = None
    if moment is None or (with_time and _is_date(plain)):
        raise ValueError(f"must be a time in ISO 8601 such as 2025-01-02T12:00:00Z, got {shown(text)}")
    return _microseconds(moment, zone, text)


def _is_date(text: str) -> bool:
    if len(text) > _DATE_LENGTH:
        return False
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


def _patterned(text: str, pattern: str, zone: tzinfo) -> int:
    try:
        moment = datetime.strptime(text.strip(), pattern)  # noqa: DTZ007 -- its zone is given next
    except ValueError:
        raise ValueError(f"must be a time of the form {pattern}, got {shown(text)}") from None
    return _microseconds(moment, zone, text)


def _counted(text: str, time_format: str, places: int) -> int:
    match = _COUNT.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"must be a time as {time_format}, digits with at most a point in them; got {shown(text)}")
    whole, fraction = match[1], match[2] or ""
    return _in_range(int(whole + fraction) * 10**places // 10 ** len(fraction), text)


def _microseconds(moment: datetime, zone: tzinfo, text: str) -> int:
    if moment.utcoffset() is None:
        moment = moment.replace(tzinfo=zone)
        first, second = moment.utcoffset(), moment.replace(fold=1).utcoffset()
        # Where clocks are set forward, and only there, the second reading lies further from UTC than the first.
        if first is not None and second is not None and second > first:
            raise ValueError(f"must be a time that exists in {zone}, whose clocks skipped {shown(text)}")
    return _in_range(from_datetime(moment), text)


def _in_range(microseconds: int, text: str) -> int:
    if not MIN_SECONDS * MICROSECONDS <= microseconds < (MAX_SECONDS + 1) * MICROSECONDS:
        raise ValueError(f"must lie between the years 1 and 9999, got {shown(text)}")
    return microseconds
