"""What callers pass is taken exactly or refused by name; nothing is rounded and nothing is guessed."""

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal, localcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from challenge_client import Limits, Trade, TradeSubmission, encoding, inputs
from challenge_rules.money import MAX_AMOUNT, format_amount, parse_amount

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("given_value", "wire"),
    [
        (Decimal("1E+3"), "1000"),
        (Decimal("0.00000001"), "0.00000001"),
        (Decimal("-12.50"), "-12.5"),
        (Decimal("1.000000000000"), "1"),
        (Decimal("9999999999999999.99999999"), "9999999999999999.99999999"),
        (Decimal("-0.00"), "0"),
        (100000, "100000"),
        (-7, "-7"),
        ("250.50", "250.5"),
        ("-0", "0"),
        ("007", "7"),
    ],
)
def test_an_amount_is_sent_in_its_shortest_form(given_value, wire):
    assert encoding.number(inputs.amount(given_value, "realized_pnl")) == wire


@given(st.integers(-MAX_AMOUNT, MAX_AMOUNT))
def test_every_amount_survives_as_text_and_as_decimal_whatever_the_context(units):
    with localcontext() as context:
        context.prec = 3
        for value in (format_amount(units), Decimal(format_amount(units))):
            assert parse_amount(encoding.number(inputs.amount(value, "amount"))) == units


@pytest.mark.parametrize("value", [0.1, 1.0, float("nan")])
def test_a_float_is_a_type_error_with_advice(value):
    with pytest.raises(TypeError, match=r"initial_balance must not be a float.*Decimal"):
        inputs.amount(value, "initial_balance")


@pytest.mark.parametrize("value", [True, None, b"1", 1j, [1]])
def test_other_types_are_type_errors_that_name_the_argument(value):
    with pytest.raises(TypeError, match="initial_balance must be a Decimal, an int or a str"):
        inputs.amount(value, "initial_balance")


@pytest.mark.parametrize(
    "value",
    [
        Decimal("0.123456789"), Decimal("1.000000001"), Decimal("1E-999999"), Decimal("1E+16"), Decimal("1E+999999"),
        Decimal("NaN"), Decimal("sNaN"), Decimal("Infinity"), Decimal("-Infinity"), 10**16, 10**4000,
        "", " 1", "1 ", "1e3", "1,000", "1_000", "٣", ".5", "5.", "--1", "NaN", "0.123456789", "10000000000000000",
    ],
)  # fmt: skip
def test_what_an_amount_cannot_hold_is_a_value_error_that_names_the_argument(value):
    with pytest.raises(ValueError, match="realized_pnl"):
        inputs.amount(value, "realized_pnl")


def test_a_percentage_has_at_most_four_places():
    assert Limits("5.1234").max_daily_drawdown_pct == Decimal("5.1234")
    with pytest.raises(ValueError, match="profit_target_pct must have at most 4 decimal places"):
        Limits(profit_target_pct="10.00001")
    with pytest.raises(TypeError, match="max_total_drawdown_pct must not be a float"):
        Limits(max_total_drawdown_pct=7.5)


def test_limits_default_to_5_10_and_10_per_cent():
    assert Limits() == Limits(Decimal(5), Decimal(10), Decimal(10))


def test_a_moment_is_taken_to_utc_exactly():
    zone = timezone(timedelta(hours=5, minutes=30))
    moment = inputs.moment(datetime(2026, 3, 2, 17, 30, 0, 1, zone), "executed_at")
    assert moment == NOON.replace(microsecond=1)
    assert moment.tzinfo is UTC


def test_a_naive_datetime_is_a_value_error_that_says_how_to_make_it_aware():
    with pytest.raises(ValueError, match=r"executed_at must be an aware datetime.*tzinfo=UTC"):
        Trade("1", 5, datetime(2026, 3, 2))  # noqa: DTZ001


@pytest.mark.parametrize("value", ["2026-03-02T12:00:00Z", 1772452800, date(2026, 3, 2), None])
def test_what_is_no_datetime_is_a_type_error(value):
    with pytest.raises(TypeError, match="executed_at must be a datetime"):
        Trade("1", 5, value)


@pytest.mark.parametrize("moment", [datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)])
def test_the_first_and_the_last_microsecond_can_be_sent(moment):
    assert encoding.timestamp(inputs.moment(moment, "executed_at")).nanos == moment.microsecond * 1000


def test_a_moment_before_the_year_1_in_utc_is_a_value_error():
    early = datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=1)))
    with pytest.raises(ValueError, match="between the years 1 and 9999"):
        inputs.moment(early, "executed_at")


def test_a_trade_is_kept_in_one_form_so_equal_trades_are_equal():
    zone = timezone(timedelta(hours=1))
    assert Trade("1", "2.50", NOON) == Trade("1", Decimal("2.5"), NOON.astimezone(zone), "")


@pytest.mark.parametrize("value", [1, None, b"id"])
def test_a_text_that_is_no_str_is_a_type_error(value):
    with pytest.raises(TypeError, match="trade_id must be a str"):
        Trade(value, 1, NOON)


def test_half_a_surrogate_pair_is_a_value_error():
    with pytest.raises(ValueError, match="symbol must be valid Unicode"):
        Trade("1", 1, NOON, "\ud800")


@pytest.mark.parametrize("labels", [["a"], {"a": 1}, {1: "a"}])
def test_labels_map_str_to_str(labels):
    with pytest.raises(TypeError, match="labels"):
        inputs.labels(labels)


@pytest.mark.parametrize(
    ("value", "error"), [(True, TypeError), ("1", TypeError), (1.0, TypeError), (2**63, ValueError)]
)
def test_a_sequence_is_an_int_of_64_bits(value, error):
    with pytest.raises(error, match="expected_sequence"):
        encoding.submission(TradeSubmission("id", Trade("1", 1, NOON), expected_sequence=value))


def test_a_submission_holds_a_trade():
    with pytest.raises(TypeError, match="trade must be a Trade, got dict"):
        encoding.submission(TradeSubmission("id", {"trade_id": "1"}))
