"""Every bad field of a request is found at once and named by its path (DESIGN's error table, V8, V13)."""

import pytest

from challenge_rules import Limits, Trade
from challenge_rules.currencies import ISO_4217
from challenge_rules.errors import FieldViolation, ValidationError
from challenge_rules.money import MAX_AMOUNT
from challenge_rules.timestamps import MAX_SECONDS, MIN_SECONDS
from challenge_rules.validation import MAX_SHOWN_INPUT, MAX_VIOLATIONS, FieldChecks
from tests.rules.test_money import REFUSED as BAD_AMOUNTS

UUID = "0190b5a8-7c3e-7d2a-9f00-1a2b3c4d5e6f"


@pytest.fixture
def checks():
    return FieldChecks()


def fields(checks: FieldChecks) -> list[str]:
    return [violation.field for violation in checks.violations]


def check_trade(checks: FieldChecks, **changes) -> Trade:
    good = {"trade_id": "t-1", "realized_pnl": "1", "executed_at": (0, 0), "symbol": "EURUSD"}
    return checks.trade(**{**good, **changes})


class TestCollecting:
    def test_nothing_is_raised_while_every_field_is_good(self, checks):
        check_trade(checks)
        checks.raise_if_any()
        assert checks.violations == []

    def test_all_bad_fields_are_raised_together_in_the_order_of_the_checks(self, checks):
        checks.challenge_id("x")
        check_trade(checks, trade_id="", realized_pnl="+1", executed_at=None, symbol="\x00")
        with pytest.raises(ValidationError) as refused:
            checks.raise_if_any()
        assert [violation.field for violation in refused.value.violations] == [
            "challenge_id",
            "trade.trade_id",
            "trade.realized_pnl",
            "trade.executed_at",
            "trade.symbol",
        ]
        assert all(violation.description for violation in refused.value.violations)

    def test_the_prefix_stands_before_every_path(self):
        checks = FieldChecks("trades[3].")
        checks.challenge_id("x")
        check_trade(checks, trade_id="", realized_pnl="", executed_at=(0, -1), symbol="é")
        checks.not_negative(-1, "expected_sequence")
        assert fields(checks) == [
            "trades[3].challenge_id",
            "trades[3].trade.trade_id",
            "trades[3].trade.realized_pnl",
            "trades[3].trade.executed_at",
            "trades[3].trade.symbol",
            "trades[3].expected_sequence",
        ]

    def test_a_violation_may_be_recorded_by_hand(self):
        checks = FieldChecks("a.")
        checks.refuse("b", "must be set")
        assert checks.violations == [FieldViolation("a.b", "must be set")]

    def test_a_violation_shows_the_input_shortened_and_in_ascii(self, checks):
        checks.challenge_id("\u2028\x00é" + "z" * 1000)
        (violation,) = checks.violations
        assert violation.description.isascii()
        assert violation.description.isprintable()
        assert r"got '\u2028\x00\xe9zzz" in violation.description
        assert violation.description.endswith("zzz...")
        assert violation.description.count("z") < MAX_SHOWN_INPUT

    def test_what_is_told_of_many_bad_fields_stays_far_below_the_8_kib_of_http2_headers(self, checks):
        checks.labels({"😀" * 63 + str(number): "\n" * 300 for number in range(500)})
        assert len(checks.violations) == MAX_VIOLATIONS
        assert sum(len(violation.field + violation.description) for violation in checks.violations) < 3000
        with pytest.raises(ValidationError, match=f"and {MAX_VIOLATIONS - 3} more$") as raised:
            checks.raise_if_any()
        assert len(raised.value.message) < 1000

    def test_an_empty_input_is_called_nothing(self, checks):
        checks.challenge_id("")
        assert "got nothing" in checks.violations[0].description


class TestChallengeId:
    @pytest.mark.parametrize(
        "value",
        [
            UUID,
            UUID.upper(),
            "0190B5A8-7c3e-7D2a-9f00-1A2b3c4d5e6F",
            "00000000-0000-0000-0000-000000000000",
            "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF",
        ],
    )
    def test_a_uuid_in_either_case_is_taken_in_lower_case(self, checks, value):
        assert checks.challenge_id(value) == value.lower()
        assert checks.violations == []

    @pytest.mark.parametrize(
        "value",
        [
            "",
            "x",
            UUID.replace("-", ""),
            "{" + UUID + "}",
            "urn:uuid:" + UUID,
            UUID[:-1],
            UUID + "0",
            UUID + "\n",
            " " + UUID,
            UUID + " ",
            UUID + "\x00",
            UUID.replace("0", "g"),
            UUID.replace("0", "\uff10"),
            UUID.replace("-", "\u2010"),
            "0190b5a87-c3e-7d2a-9f00-1a2b3c4d5e6f",
            f"{UUID} {UUID}",
        ],
        ids=ascii,
    )
    def test_any_other_form_is_refused(self, checks, value):
        checks.challenge_id(value)
        assert fields(checks) == ["challenge_id"]

    def test_several_are_sorted_and_named_once_whatever_their_case(self, checks):
        other = "00000000-0000-0000-0000-00000000000a"
        assert checks.challenge_ids([UUID, other, UUID.upper(), other]) == (other, UUID)
        assert checks.violations == []

    def test_a_bad_one_among_several_is_named_by_its_index(self, checks):
        checks.challenge_ids([UUID, "x", UUID, ""])
        assert fields(checks) == ["challenge_ids[1]", "challenge_ids[3]"]


class TestAmounts:
    @pytest.mark.parametrize("text", BAD_AMOUNTS.values(), ids=BAD_AMOUNTS)
    def test_a_pnl_that_is_not_an_amount_is_refused(self, checks, text):
        check_trade(checks, realized_pnl=text)
        assert fields(checks) == ["trade.realized_pnl"]

    @pytest.mark.parametrize("text", BAD_AMOUNTS.values(), ids=BAD_AMOUNTS)
    def test_an_initial_balance_that_is_not_an_amount_is_refused_once(self, checks, text):
        checks.initial_balance(text)
        assert fields(checks) == ["initial_balance"]

    @pytest.mark.parametrize(
        ("text", "units"),
        [
            ("0", 0),
            ("0.00", 0),
            ("-0.00000001", -1),
            ("9999999999999999.99999999", MAX_AMOUNT),
            ("-9999999999999999.99999999", -MAX_AMOUNT),
        ],
    )
    def test_a_pnl_may_be_any_amount(self, checks, text, units):
        assert check_trade(checks, realized_pnl=text).realized_pnl == units
        assert checks.violations == []

    @pytest.mark.parametrize(
        ("text", "units"),
        [("0.01", 10**6), ("0.01000001", 10**6 + 1), ("100000", 10**13), ("9999999999999999.99999999", MAX_AMOUNT)],
    )
    def test_an_initial_balance_starts_at_one_hundredth(self, checks, text, units):
        assert checks.initial_balance(text) == units
        assert checks.violations == []

    @pytest.mark.parametrize("text", ["0", "0.0", "0.00999999", "0.00000001", "-0.01", "-100000"])
    def test_an_initial_balance_below_one_hundredth_is_refused(self, checks, text):
        checks.initial_balance(text)
        assert fields(checks) == ["initial_balance"]
        assert "at least 0.01" in checks.violations[0].description


DRAWDOWN_PATHS = ["limits.max_daily_drawdown_pct", "limits.max_total_drawdown_pct"]
BAD_PERCENTAGES = [
    "0",
    "0.0",
    "0.00001",
    "-5",
    "-0",
    "+5",
    "5%",
    " 5",
    "5 ",
    "5\n",
    "5.",
    ".5",
    "05",
    "5.00000",
    "1e1",
    "NaN",
    "Infinity",
    "5,5",
    "\uff15",
    "\x00",
    "5\x00",
]


class TestLimits:
    def test_empty_limits_take_their_defaults(self, checks):
        assert checks.limits("", "", "") == Limits(50_000, 100_000, 100_000)
        assert checks.limits("1", "", "") == Limits(10_000, 100_000, 100_000)
        assert checks.limits("", "2", "") == Limits(50_000, 20_000, 100_000)
        assert checks.limits("", "", "3") == Limits(50_000, 100_000, 30_000)
        assert checks.violations == []

    @pytest.mark.parametrize(("text", "units"), [("0.0001", 1), ("7.25", 72_500), ("7.2500", 72_500)])
    def test_each_limit_is_read_exactly(self, checks, text, units):
        assert checks.limits(text, text, text) == Limits(units, units, units)
        assert checks.violations == []

    def test_drawdowns_end_below_100_per_cent_and_the_target_at_10000(self, checks):
        assert checks.limits("99.9999", "99.9999", "10000") == Limits(999_999, 999_999, 100_000_000)
        assert checks.violations == []

    @pytest.mark.parametrize("text", ["100", "100.0000", "100.0001", "10000"])
    def test_a_drawdown_of_100_per_cent_or_more_is_refused_where_a_target_is_not(self, checks, text):
        checks.limits(text, text, "100")
        assert fields(checks) == DRAWDOWN_PATHS

    @pytest.mark.parametrize("text", ["10000.0001", "10001", "99999", "100000"])
    def test_a_target_beyond_10000_per_cent_is_refused(self, checks, text):
        checks.limits("", "", text)
        assert fields(checks) == ["limits.profit_target_pct"]

    @pytest.mark.parametrize("text", BAD_PERCENTAGES, ids=ascii)
    def test_anything_but_a_positive_percentage_with_4_decimals_is_refused(self, checks, text):
        checks.limits(text, text, text)
        assert fields(checks) == [*DRAWDOWN_PATHS, "limits.profit_target_pct"]


class TestCurrency:
    @pytest.mark.parametrize("code", ["USD", "EUR", "JPY", "XAU", "HRK"])
    def test_a_code_of_iso_4217_is_taken_as_it_is(self, checks, code):
        assert checks.currency_code(code) == code
        assert checks.violations == []

    def test_an_empty_code_is_usd(self, checks):
        assert checks.currency_code("") == "USD"
        assert checks.violations == []

    @pytest.mark.parametrize(
        "code", ["usd", "Usd", "US", "USDT", "ZZZ", "840", "$", " USD", "USD\n", "USD\x00", "ＵＳＤ"]
    )
    def test_anything_else_is_refused(self, checks, code):
        checks.currency_code(code)
        assert fields(checks) == ["currency_code"]

    def test_every_known_code_is_three_capital_letters(self):
        assert all(len(code) == 3 and code.isascii() and code.isalpha() and code.isupper() for code in ISO_4217)

    def test_the_ten_most_traded_currencies_are_known(self):
        assert set("USD EUR JPY GBP CNY AUD CAD CHF HKD SGD".split()) <= ISO_4217


class TestLabels:
    def test_labels_are_sorted_by_key_so_that_equal_labels_are_equal_values(self, checks):
        assert checks.labels({"b": "2", "a": "1"}) == checks.labels({"a": "1", "b": "2"}) == (("a", "1"), ("b", "2"))
        assert checks.labels({}) == ()
        assert checks.violations == []

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("k", ""),
            ("k" * 63, "v" * 255),
            ("é" * 63, "é" * 255),
            ("with space", "a b"),
            ("\U0001f4b0", "\u2028 \u200b"),
            ("~", "[]'\"\\"),
        ],
        ids=ascii,
    )
    def test_any_characters_but_control_characters_are_allowed(self, checks, key, value):
        assert checks.labels({key: value}) == ((key, value),)
        assert checks.violations == []

    @pytest.mark.parametrize(
        "key", ["", "k" * 64, "é" * 64, "a\x00", "a\n", "\t", "\x7f", "\x85", "\x9f"], ids=lambda key: ascii(key[:5])
    )
    def test_a_bad_key_is_refused(self, checks, key):
        checks.labels({"good": "", key: ""})
        assert len(checks.violations) == 1
        assert fields(checks)[0].startswith("labels[")
        assert "key" in checks.violations[0].description

    @pytest.mark.parametrize(
        "value", ["v" * 256, "é" * 256, "a\x00b", "a\n", "\r", "\x1b[0m", "\x7f", "\x85"], ids=lambda v: ascii(v[:5])
    )
    def test_a_bad_value_is_refused_by_the_path_of_its_key(self, checks, value):
        checks.labels({"good": "", "team": value})
        assert fields(checks) == ["labels['team']"]
        assert "value" in checks.violations[0].description

    def test_a_bad_key_is_shown_escaped_and_shortened(self, checks):
        checks.labels({"\x00" + "k" * 100: ""})
        (path,) = fields(checks)
        assert path.startswith(r"labels['\x00kkk")
        assert len(path) < 70
        assert path.isprintable()

    def test_32_labels_are_allowed_and_not_33(self, checks):
        many = {f"k{number}": "" for number in range(32)}
        assert len(checks.labels(many)) == 32
        assert checks.violations == []
        checks.labels({**many, "one more": ""})
        assert fields(checks) == ["labels"]


class TestTimestamps:
    @pytest.mark.parametrize(
        ("value", "microseconds"),
        [
            ((0, 0), 0),
            ((-1, 999_999_999), -1),
            ((1_733_160_000, 1_999), 1_733_160_000_000_001),
            ((MIN_SECONDS, 0), MIN_SECONDS * 1_000_000),
            ((MAX_SECONDS, 999_999_999), MAX_SECONDS * 1_000_000 + 999_999),
        ],
    )
    def test_a_moment_of_the_years_1_to_9999_is_taken_to_the_microsecond(self, checks, value, microseconds):
        assert checks.timestamp(value, "executed_at") == microseconds
        assert check_trade(checks, executed_at=value).executed_at == microseconds
        assert checks.violations == []

    @pytest.mark.parametrize(
        "value",
        [None, (MIN_SECONDS - 1, 0), (MAX_SECONDS + 1, 0), (0, -1), (0, 10**9), (2**63 - 1, 2**31 - 1), (-(2**63), 0)],
    )
    def test_an_unset_moment_or_one_outside_is_refused(self, checks, value):
        check_trade(checks, executed_at=value)
        assert fields(checks) == ["trade.executed_at"]


class TestTrade:
    def test_a_good_trade_is_taken_as_it_is(self, checks):
        trade = checks.trade(trade_id=" A~z ", realized_pnl="-1.50", executed_at=(1, 2_000), symbol="EUR/USD #1")
        assert trade == Trade(" A~z ", -150_000_000, 1_000_002, "EUR/USD #1")
        assert checks.violations == []

    @pytest.mark.parametrize("trade_id", ["x", " ", "~", "0", "x" * 64, "a b", "8.95E+14", "'; DROP TABLE trades; --"])
    def test_a_trade_id_is_1_to_64_printable_ascii_characters(self, checks, trade_id):
        assert check_trade(checks, trade_id=trade_id).trade_id == trade_id
        assert checks.violations == []

    @pytest.mark.parametrize(
        "trade_id",
        ["", "x" * 65, "é", "x\n", "\nx", "x\x00", "\x00", "\t", "\x7f", "\x1f", "\u200b", "\uff11", "日"],
        ids=ascii,
    )
    def test_any_other_trade_id_is_refused(self, checks, trade_id):
        check_trade(checks, trade_id=trade_id)
        assert fields(checks) == ["trade.trade_id"]

    @pytest.mark.parametrize("symbol", ["", "x" * 32, "@107", " ", "~"])
    def test_a_symbol_is_at_most_32_printable_ascii_characters(self, checks, symbol):
        assert check_trade(checks, symbol=symbol).symbol == symbol
        assert checks.violations == []

    @pytest.mark.parametrize("symbol", ["x" * 33, "é", "x\n", "\n", "\x00", "BTC\x00", "\x7f", "\u20bf"], ids=ascii)
    def test_any_other_symbol_is_refused(self, checks, symbol):
        check_trade(checks, symbol=symbol)
        assert fields(checks) == ["trade.symbol"]

    def test_its_path_may_be_another(self, checks):
        check_trade(checks, trade_id="", field="item")
        assert fields(checks) == ["item.trade_id"]


class TestNumbers:
    @pytest.mark.parametrize("value", [0, 1, 2**63 - 1])
    def test_a_number_of_at_least_0_is_taken(self, checks, value):
        assert checks.not_negative(value, "page_size") == value
        assert checks.violations == []

    @pytest.mark.parametrize("value", [-1, -(2**63)])
    def test_a_negative_number_is_refused(self, checks, value):
        checks.not_negative(value, "page_size")
        assert fields(checks) == ["page_size"]

    def test_a_repeated_field_may_have_its_limit_of_entries_and_not_one_more(self, checks):
        checks.at_most(500, 500, "trades")
        assert checks.violations == []
        checks.at_most(501, 500, "trades")
        assert fields(checks) == ["trades"]
