"""Moments are whole microseconds since 1970 and days whole UTC days; finer digits are dropped first (V4, V7)."""

from datetime import UTC, date, datetime, timedelta, timezone

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from challenge_rules.timestamps import (
    MAX_SECONDS,
    MICROSECONDS_PER_DAY,
    MIN_SECONDS,
    day_from_date,
    day_to_iso,
    from_datetime,
    from_iso,
    from_seconds_and_nanos,
    to_datetime,
    to_iso,
    trading_day,
)
from tests.rules.model import wire_moment

FIRST = MIN_SECONDS * 1_000_000
LAST = MAX_SECONDS * 1_000_000 + 999_999
MOMENTS = st.integers(FIRST, LAST)


@pytest.mark.parametrize(
    ("seconds", "nanos", "microseconds"),
    [
        (0, 0, 0),
        (0, 999, 0),
        (0, 1_000, 1),
        (0, 1_999, 1),
        (0, 999_999_999, 999_999),
        (1, 0, 1_000_000),
        (-1, 0, -1_000_000),
        (-1, 999, -1_000_000),
        (-1, 999_999_999, -1),
        (1_733_159_999, 999_999_999, 1_733_159_999_999_999),
        (MIN_SECONDS, 0, FIRST),
        (MAX_SECONDS, 999_999_999, LAST),
    ],
)
def test_digits_finer_than_a_microsecond_are_dropped_towards_the_past(seconds, nanos, microseconds):
    assert from_seconds_and_nanos(seconds, nanos) == microseconds


def test_dropped_digits_never_carry_a_moment_into_the_next_day():
    assert trading_day(from_seconds_and_nanos(86_399, 999_999_999)) == 0
    assert trading_day(from_seconds_and_nanos(-1, 999_999_999)) == -1


@pytest.mark.parametrize(
    ("seconds", "nanos"),
    [
        (MIN_SECONDS - 1, 999_999_999),
        (MAX_SECONDS + 1, 0),
        (0, -1),
        (0, 1_000_000_000),
        (2**63 - 1, 0),
        (-(2**63), 0),
        (0, 2**31 - 1),
    ],
)
def test_moments_outside_the_years_1_to_9999_and_odd_nanos_are_refused(seconds, nanos):
    with pytest.raises(ValueError):
        from_seconds_and_nanos(seconds, nanos)


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (0, "1970-01-01T00:00:00.000000Z"),
        (-1, "1969-12-31T23:59:59.999999Z"),
        (1_733_160_000_000_001, "2024-12-02T17:20:00.000001Z"),
        (FIRST, "0001-01-01T00:00:00.000000Z"),
        (LAST, "9999-12-31T23:59:59.999999Z"),
    ],
)
def test_a_moment_is_shown_in_utc_with_six_decimals_always(moment, text):
    assert to_iso(moment) == text
    assert wire_moment(to_datetime(moment)) == text


def test_the_offset_of_a_datetime_is_honoured():
    india = timezone(timedelta(hours=5, minutes=30))
    assert from_datetime(datetime(2024, 12, 2, 22, 50, tzinfo=india)) == 1_733_160_000_000_000


def test_a_naive_datetime_is_refused_because_it_names_no_moment():
    with pytest.raises(TypeError):
        from_datetime(datetime(2024, 12, 2, 22, 50))  # noqa: DTZ001 - naive on purpose


@given(MOMENTS)
@example(FIRST)
@example(LAST)
@example(-1)
def test_every_moment_survives_the_way_to_a_datetime_or_to_text_and_back(moment):
    assert from_datetime(to_datetime(moment)) == moment
    assert from_iso(to_iso(moment)) == moment


@pytest.mark.parametrize(
    ("moment", "day", "text"),
    [
        (0, 0, "1970-01-01"),
        (MICROSECONDS_PER_DAY - 1, 0, "1970-01-01"),
        (MICROSECONDS_PER_DAY, 1, "1970-01-02"),
        (-1, -1, "1969-12-31"),
        (-MICROSECONDS_PER_DAY, -1, "1969-12-31"),
        (-MICROSECONDS_PER_DAY - 1, -2, "1969-12-30"),
        (951_782_400_000_000, 11_016, "2000-02-29"),
        (FIRST, -719_162, "0001-01-01"),
        (LAST, 2_932_896, "9999-12-31"),
    ],
)
def test_a_day_starts_at_midnight_utc_before_1970_too(moment, day, text):
    assert trading_day(moment) == day
    assert day_to_iso(day) == text
    assert day_from_date(date.fromisoformat(text)) == day


@given(MOMENTS)
def test_the_trading_day_is_the_utc_calendar_day(moment):
    calendar_day = to_datetime(moment).astimezone(UTC).date()
    assert trading_day(moment) == day_from_date(calendar_day)
    assert day_to_iso(trading_day(moment)) == calendar_day.isoformat()


@given(st.integers(MIN_SECONDS, MAX_SECONDS), st.integers(0, 999_999_999))
def test_the_microseconds_of_a_protobuf_timestamp_are_those_of_the_same_datetime(seconds, nanos):
    expected = datetime(1, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds - MIN_SECONDS, microseconds=nanos // 1000)
    assert to_datetime(from_seconds_and_nanos(seconds, nanos)) == expected
