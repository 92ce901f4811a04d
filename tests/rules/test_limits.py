"""Limits are exact percentages with at most 4 decimal places, each within its bounds (V3)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from challenge_rules.limits import (
    DEFAULT_LIMITS,
    HUNDRED_PCT,
    MAX_TARGET_PCT,
    Limits,
    format_percentage,
    parse_percentage,
)


def test_the_defaults_are_5_10_and_10_per_cent():
    assert DEFAULT_LIMITS == Limits() == Limits(50_000, 100_000, 100_000)


@pytest.mark.parametrize(
    ("text", "units", "shortest"),
    [
        ("5", 50_000, "5"),
        ("5.0", 50_000, "5"),
        ("5.0000", 50_000, "5"),
        ("7.25", 72_500, "7.25"),
        ("0.0001", 1, "0.0001"),
        ("99.9999", 999_999, "99.9999"),
        ("10000", 100_000_000, "10000"),
        ("0", 0, "0"),
        ("99999.9999", 999_999_999, "99999.9999"),
    ],
)
def test_a_percentage_is_read_exactly_and_shown_in_the_shortest_form(text, units, shortest):
    assert parse_percentage(text) == units
    assert format_percentage(units) == shortest


@pytest.mark.parametrize(
    "text",
    [
        "", " 5", "5 ", "5\n", "5%", "+5", "-5", "-0", "5.", ".5", "05", "00", "5.00000", "0.00001", "100000",
        "1e1", "NaN", "Infinity", "5,0", "1_0", "\uff15", "\u0665", "5\uff15", "5.5\uff15", "5\x00", "\x00", "0x5",
    ],
    ids=ascii,
)  # fmt: skip
def test_any_other_form_or_a_fifth_decimal_is_refused(text):
    with pytest.raises(ValueError):
        parse_percentage(text)


@given(st.integers(0, 999_999_999))
def test_every_percentage_survives_the_way_to_text_and_back(units):
    assert parse_percentage(format_percentage(units)) == units


@pytest.mark.parametrize("field", ["max_daily_drawdown_pct", "max_total_drawdown_pct"])
@pytest.mark.parametrize("units", [1, HUNDRED_PCT - 1])
def test_a_drawdown_limit_may_be_anything_between_0_and_100_per_cent(field, units):
    assert getattr(Limits(**{field: units}), field) == units


@pytest.mark.parametrize("field", ["max_daily_drawdown_pct", "max_total_drawdown_pct"])
@pytest.mark.parametrize("units", [-1, 0, HUNDRED_PCT, HUNDRED_PCT + 1])
def test_a_drawdown_limit_of_0_or_100_per_cent_or_beyond_is_refused(field, units):
    with pytest.raises(ValueError, match="drawdown"):
        Limits(**{field: units})


@pytest.mark.parametrize("units", [1, HUNDRED_PCT, MAX_TARGET_PCT])
def test_the_target_may_reach_10000_per_cent(units):
    assert Limits(profit_target_pct=units).profit_target_pct == units


@pytest.mark.parametrize("units", [-1, 0, MAX_TARGET_PCT + 1])
def test_a_target_of_0_or_beyond_10000_per_cent_is_refused(units):
    with pytest.raises(ValueError, match="target"):
        Limits(profit_target_pct=units)


def test_the_total_limit_may_be_tighter_than_the_daily_one():
    assert Limits(max_daily_drawdown_pct=100_000, max_total_drawdown_pct=50_000).max_total_drawdown_pct == 50_000
