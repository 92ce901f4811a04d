"""Amounts are exact, have one accepted text form, and one shortest form in answers (V6, V13)."""

import re
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from challenge_rules.money import (
    AMOUNT_FORM,
    MAX_AMOUNT,
    divide_half_even,
    format_amount,
    format_scaled,
    parse_amount,
    parse_scaled,
)
from tests.rules.model import valid_amount, wire

ACCEPTED = {
    "0": 0,
    "0.0": 0,
    "0.00000000": 0,
    "1": 10**8,
    "-1": -(10**8),
    "0.5": 5 * 10**7,
    "-0.5": -5 * 10**7,
    "0.00000001": 1,
    "-0.00000001": -1,
    "-0.10": -(10**7),
    "10.01": 1_001_000_000,
    "100000": 10**13,
    "110128.83967839": 11_012_883_967_839,
    "9999999999999999": 9_999_999_999_999_999 * 10**8,
    "9999999999999999.99999999": 10**24 - 1,
    "-9999999999999999.99999999": 1 - 10**24,
}

REFUSED = {
    "empty": "",
    "exponent": "1e5",
    "capital exponent": "1E5",
    "not a number": "NaN",
    "infinity": "Infinity",
    "minus infinity": "-Infinity",
    "inf": "inf",
    "plus sign": "+1",
    "leading space": " 1",
    "trailing space": "1 ",
    "thousands comma": "1,000",
    "decimal comma": "1,5",
    "underscore": "1_000",
    "full-width digits": "\uff11\uff12",
    "full-width digits after the point": "1.\uff15",
    "a full-width digit after a plain one": "1\uff11",
    "a full-width digit among the decimals": "1.5\uff15",
    "full-width point": "1\uff0e5",
    "Arabic-Indic digits": "\u0661",
    "superscript": "1\u00b2",
    "typographic minus": "\u22121",
    "trailing newline": "1\n",
    "trailing newline after decimals": "1.5\n",
    "leading newline": "\n1",
    "trailing carriage return": "1\r",
    "second line": "1\n2",
    "9 decimals": "0.000000001",
    "9 decimals, the last a zero": "0.000000010",
    "17 digits": "10000000000000000",
    "minus and 17 digits": "-10000000000000000",
    "minus zero": "-0",
    "minus zero with decimals": "-0.0",
    "minus zero with 8 decimals": "-0.00000000",
    "no digit before the point": ".5",
    "minus and no digit before the point": "-.5",
    "no digit after the point": "5.",
    "only a point": ".",
    "only a minus": "-",
    "leading zero": "01",
    "minus and leading zero": "-01",
    "two leading zeros": "00",
    "leading zero with decimals": "00.5",
    "two points": "1.2.3",
    "two minus signs": "--1",
    "trailing minus": "1-",
    "hexadecimal": "0x10",
    "percent sign": "5%",
    "NUL alone": "\x00",
    "NUL at the end": "1\x00",
    "NUL in front": "\x001",
    "byte order mark": "\ufeff1",
    "words": "one",
}


@pytest.mark.parametrize(("text", "units"), ACCEPTED.items())
def test_an_amount_in_wire_form_is_read_exactly(text, units):
    assert parse_amount(text) == units


@pytest.mark.parametrize("text", REFUSED.values(), ids=REFUSED)
def test_any_other_form_is_refused_and_never_rounded(text):
    with pytest.raises(ValueError):
        parse_amount(text)


@pytest.mark.parametrize("text", [*ACCEPTED, *REFUSED.values()], ids=ascii)
def test_the_documented_pattern_and_the_model_draw_the_same_line(text):
    minus_zero = text.startswith("-") and set(text) <= set("-0.")
    assert (re.fullmatch(AMOUNT_FORM, text, re.ASCII) is not None and not minus_zero) == (text in ACCEPTED)
    assert valid_amount(text) == (text in ACCEPTED)


@pytest.mark.parametrize(
    ("units", "text"),
    [
        (0, "0"),
        (1, "0.00000001"),
        (-1, "-0.00000001"),
        (10, "0.0000001"),
        (5 * 10**7, "0.5"),
        (10**8, "1"),
        (10 * 10**8, "10"),
        (10**13, "100000"),
        (-(10**13), "-100000"),
        (100_010_000_000, "1000.1"),
        (MAX_AMOUNT, "9999999999999999.99999999"),
        (-MAX_AMOUNT, "-9999999999999999.99999999"),
    ],
)
def test_answers_use_the_shortest_form(units, text):
    assert format_amount(units) == text


def test_a_headroom_may_be_written_beyond_16_digits():
    assert format_amount(100 * MAX_AMOUNT) == "999999999999999999.999999"


@pytest.mark.parametrize(
    ("sent", "answered"),
    [("1.50", "1.5"), ("100000.00000000", "100000"), ("0.0", "0"), ("-1.0", "-1"), ("-0.10", "-0.1"), ("10", "10")],
)
def test_equal_values_are_answered_alike_however_they_were_sent(sent, answered):
    assert format_amount(parse_amount(sent)) == answered


@pytest.mark.parametrize(
    ("units", "places", "text"),
    [(50_000, 4, "5"), (-1, 6, "-0.000001"), (0, 6, "0"), (5_000_001, 6, "5.000001"), (1_234_500, 4, "123.45")],
)
def test_other_scales_use_the_shortest_form_too(units, places, text):
    assert format_scaled(units, places) == text


AMOUNTS = st.integers(-MAX_AMOUNT, MAX_AMOUNT)


@given(AMOUNTS)
@example(MAX_AMOUNT)
@example(-1)
def test_every_amount_survives_the_way_to_text_and_back(units):
    text = format_amount(units)
    assert parse_amount(text) == units
    assert text == wire(Fraction(units, 10**8))


@given(st.integers(-(10**40), 10**40), st.sampled_from([4, 6, 8]))
@example(-1, 8)
@example(MAX_AMOUNT * 100, 8)
def test_a_written_figure_of_any_size_and_scale_is_read_back(units, places):
    assert parse_scaled(format_scaled(units, places), places) == units


NEAR_AMOUNTS = st.one_of(
    st.text(alphabet="0123456789.-", max_size=27),
    st.text(alphabet="019.-+eE _,\n\x00\uff11\u0661", max_size=6),
    st.from_regex(r"-?[0-9]{1,17}(\.[0-9]{0,9})?\n?", fullmatch=True),
)


@settings(max_examples=200)
@given(NEAR_AMOUNTS)
def test_reading_agrees_with_the_model_on_what_is_an_amount_and_on_its_value(text):
    if valid_amount(text):
        assert parse_amount(text) == Decimal(text).scaleb(8)
    else:
        with pytest.raises(ValueError):
            parse_amount(text)


@pytest.mark.parametrize(
    ("numerator", "denominator", "quotient"),
    [
        (1, 2, 0),
        (3, 2, 2),
        (5, 2, 2),
        (-1, 2, 0),
        (-3, 2, -2),
        (-5, 2, -2),
        (1, 3, 0),
        (2, 3, 1),
        (-1, 3, 0),
        (-2, 3, -1),
        (6, 3, 2),
        (0, 7, 0),
        (10**40 + 1, 2, 5 * 10**39),
        (10**40 + 3, 2, 5 * 10**39 + 2),
    ],
)
def test_quotients_are_rounded_half_to_even(numerator, denominator, quotient):
    assert divide_half_even(numerator, denominator) == quotient


@given(st.integers(-(10**40), 10**40), st.integers(1, 10**26))
def test_quotients_are_rounded_from_the_exact_value(numerator, denominator):
    assert divide_half_even(numerator, denominator) == round(Fraction(numerator, denominator))


@given(st.integers(-(10**30), 10**30), st.integers(1, 10**26))
def test_exact_halves_go_to_the_even_neighbour(whole, half):
    assert divide_half_even((2 * whole + 1) * half, 2 * half) == whole + whole % 2
