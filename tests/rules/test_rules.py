"""The three rules compare exactly, in strict priority, and prove their headroom (V3, V6, V11)."""

from decimal import Context, Decimal, localcontext
from fractions import Fraction

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from challenge_rules import ChallengeRulesEngine, ChallengeStatus, Evidence, Limits, Rule
from challenge_rules.money import MAX_AMOUNT, format_amount, format_scaled
from challenge_rules.rules import CURRENT_RULES_VERSION, OBSERVED_PLACES
from tests.rules.account import limits, units

ENGINE = ChallengeRulesEngine()
DAILY, TOTAL, TARGET = range(3)


def evaluate(
    equity: str | int,
    *,
    initial: str | int = "100000",
    start: str | int = "100000",
    peak: str | int = "100000",
    under: Limits | None = None,
) -> Evidence:
    amounts = [units(amount) if isinstance(amount, str) else amount for amount in (initial, start, peak, equity)]
    return ENGINE.evaluate(
        under or Limits(),
        initial_balance=amounts[0],
        daily_start_equity=amounts[1],
        peak_equity=amounts[2],
        equity=amounts[3],
    )


# Each row: the reference figure, the limit, and the lowest equity that survives it.
DRAWDOWN_EDGES = [
    ("100000", "5", "95000"),
    ("100000", "10", "90000"),
    ("100000", "7.25", "92750"),
    ("100000", "0.0001", "99999.9"),
    ("100000", "99.9999", "0.1"),
    ("0.01", "5", "0.0095"),
    ("0.02", "99.9999", "0.00000002"),
    ("0.01", "0.0001", "0.00999999"),
    ("33333.33333333", "3.3333", "32222.23333334"),
    ("110128.83967839", "5", "104622.39769448"),
    ("9999999999999999.99999999", "5", "9500000000000000"),
    ("9999999999999999.99999999", "12.3457", "8765430000000000"),
    ("9999999999999999.99999999", "99.9999", "10000000000"),
    ("1234567890123456.78901234", "7.7777", "1138546903333324.69033333"),
]


@pytest.mark.parametrize(("reference", "limit", "lowest"), DRAWDOWN_EDGES)
@pytest.mark.parametrize("steps", [-1, 0, 1])
@pytest.mark.parametrize("rule", [DAILY, TOTAL])
def test_a_drawdown_fails_above_its_limit_and_survives_exactly_at_it(reference, limit, lowest, rule, steps):
    fails = steps < 0
    equity = units(lowest) + steps
    other = "99.9999"
    under = limits(limit, other, "10000") if rule == DAILY else limits(other, limit, "10000")
    figures = {"start": reference} if rule == DAILY else {"peak": reference}
    # The figure of the rule that is not looked at equals the equity: no drawdown there.
    evidence = evaluate(equity, under=under, initial=reference, **{"start": equity, "peak": equity, **figures})
    assert evidence.evaluations[rule].triggered is fails
    assert evidence.evaluations[rule].headroom == max(0, steps)
    assert evidence.deciding == (list(Rule)[rule] if fails else None)


# Each row: the initial balance, the target, and the lowest equity that is funded.
TARGET_EDGES = [
    ("100000", "10", "110000"),
    ("100000", "7.25", "107250"),
    ("100000", "0.0001", "100000.1"),
    ("100000", "10000", "10100000"),
    ("0.01", "10", "0.011"),
    ("0.01", "0.0001", "0.01000001"),
    ("33333.33333333", "3.3333", "34444.43333333"),
    ("1234567890123456.78901234", "7.7777", "1330588876913588.88769136"),
    ("9000000000000000", "11.1111", "9999999000000000"),
    ("9999999999999999.99999998", "0.0001", "10000009999999999.99999998"),
]


@pytest.mark.parametrize(("initial", "target", "lowest"), TARGET_EDGES)
@pytest.mark.parametrize(("steps", "funded"), [(-1, False), (0, True), (1, True)])
def test_the_target_is_reached_exactly_at_it_and_missed_one_unit_below(initial, target, lowest, steps, funded):
    equity = units(lowest) + steps
    evidence = evaluate(equity, initial=initial, start=equity, peak=equity, under=limits(target=target))
    assert evidence.evaluations[TARGET].triggered is funded
    assert evidence.evaluations[TARGET].headroom == max(0, -steps)
    assert evidence.deciding == (Rule.PROFIT_TARGET if funded else None)


# Each row: start and equity, the limit, and the exact verdict that the default Decimal context gets wrong.
DECIMAL_GOES_WRONG = [
    ("3839655661073369.47000014", "3839655661.07336947", "99.9999", True),
    ("2574356908371461.76529407", "2256534527534646.21013616", "12.3457", True),
]


@pytest.mark.parametrize(("start", "equity", "limit", "fails"), DECIMAL_GOES_WRONG)
def test_a_verdict_at_16_digits_is_right_where_28_digits_of_decimal_are_wrong(start, equity, limit, fails):
    with localcontext(Context(prec=28)):
        by_decimal = (Decimal(start) - Decimal(equity)) * 100 > Decimal(limit) * Decimal(start)
    exact = (Fraction(start) - Fraction(equity)) * 100 > Fraction(limit) * Fraction(start)
    assert exact is fails
    assert by_decimal is not exact
    evidence = evaluate(equity, initial=start, start=start, peak=start, under=limits(limit, "99.9999", "10"))
    assert evidence.evaluations[DAILY].triggered is exact


@pytest.mark.parametrize(
    ("daily", "total", "target", "deciding", "verdict"),
    [
        (False, False, False, None, None),
        (False, False, True, Rule.PROFIT_TARGET, ChallengeStatus.FUNDED),
        (False, True, False, Rule.MAX_TOTAL_DRAWDOWN, ChallengeStatus.FAILED),
        (False, True, True, Rule.MAX_TOTAL_DRAWDOWN, ChallengeStatus.FAILED),
        (True, False, False, Rule.MAX_DAILY_DRAWDOWN, ChallengeStatus.FAILED),
        (True, False, True, Rule.MAX_DAILY_DRAWDOWN, ChallengeStatus.FAILED),
        (True, True, False, Rule.MAX_DAILY_DRAWDOWN, ChallengeStatus.FAILED),
        (True, True, True, Rule.MAX_DAILY_DRAWDOWN, ChallengeStatus.FAILED),
    ],
)
def test_the_first_triggered_rule_decides_and_all_three_are_reported(daily, total, target, deciding, verdict):
    evidence = evaluate(
        "100000",
        start="200000" if daily else "100000",
        peak="200000" if total else "100000",
        initial="50000" if target else "100000",
    )
    assert [row.rule for row in evidence.evaluations] == [
        Rule.MAX_DAILY_DRAWDOWN,
        Rule.MAX_TOTAL_DRAWDOWN,
        Rule.PROFIT_TARGET,
    ]
    assert [row.triggered for row in evidence.evaluations] == [daily, total, target]
    assert evidence.deciding is deciding
    assert (deciding and deciding.verdict) is verdict


def test_each_rule_carries_its_own_limit():
    evidence = evaluate("100000", under=limits("1.5", "2.5", "3.5"))
    assert [row.limit_pct for row in evidence.evaluations] == [15_000, 25_000, 35_000]


def test_each_rule_looks_at_its_own_figure():
    evidence = evaluate("100", start="101", peak="102", initial="98", under=limits("50", "50", "50"))
    shown = [format_scaled(row.observed_pct, OBSERVED_PLACES) for row in evidence.evaluations]
    assert shown == ["0.990099", "1.960784", "2.040816"]


@pytest.mark.parametrize(
    ("reference", "equity", "drawdown", "profit"),
    [
        ("100000", "100000", "0", "0"),
        ("100000", "95000", "5", "-5"),
        ("100000", "110000", "-10", "10"),
        ("3", "2", "33.333333", "-33.333333"),
        ("3", "1", "66.666667", "-66.666667"),
        ("100000", "0", "100", "-100"),
        ("0.01", "9999999999999999.99999999", "-99999999999999999899.9999", "99999999999999999899.9999"),
        # Exactly between two figures of six places: the even one.
        ("2", "1.99999999", "0", "0"),
        ("2", "1.99999997", "0.000002", "-0.000002"),
        ("2", "1.99999995", "0.000002", "-0.000002"),
        ("2", "2.00000001", "0", "0"),
        ("2", "2.00000003", "-0.000002", "0.000002"),
        ("2", "2.00000005", "-0.000002", "0.000002"),
        # A little off the middle: the nearer one.
        ("2.00000001", "2", "0", "0"),
        ("1.99999999", "1.99999998", "0.000001", "-0.000001"),
    ],
)
def test_observed_percentages_are_rounded_half_even_to_six_places(reference, equity, drawdown, profit):
    evidence = evaluate(equity, initial=reference, start=reference, peak=reference)
    shown = [format_scaled(row.observed_pct, OBSERVED_PLACES) for row in evidence.evaluations]
    assert shown == [drawdown, drawdown, profit]


def test_a_decision_never_looks_at_the_rounded_percentage():
    """Both are shown as the very limit, and only the exact figures tell them apart from it."""
    failed = evaluate("94999.99999999").evaluations[DAILY]
    assert (failed.observed_pct, failed.triggered) == (5_000_000, True)
    missed = evaluate("109999.99999999", start="109999.99999999", peak="109999.99999999").evaluations[TARGET]
    assert (missed.observed_pct, missed.triggered) == (10_000_000, False)


@pytest.mark.parametrize(
    ("equity", "start", "peak", "headrooms"),
    [
        ("100000", "100000", "100000", ["5000", "10000", "10000"]),
        ("97000", "100000", "100000", ["2000", "7000", "13000"]),
        ("95000", "100000", "100000", ["0", "5000", "15000"]),
        ("94999.99999999", "100000", "100000", ["0", "4999.99999999", "15000.00000001"]),
        ("103000", "100000", "103000", ["8000", "10300", "7000"]),
        ("98000", "98000", "108000", ["4900", "800", "12000"]),
        ("110000", "100000", "110000", ["15000", "11000", "0"]),
        ("0", "100000", "100000", ["0", "0", "110000"]),
    ],
)
def test_headroom_is_what_is_left_and_0_once_triggered(equity, start, peak, headrooms):
    evidence = evaluate(equity, start=start, peak=peak)
    assert [format_amount(row.headroom) for row in evidence.evaluations] == headrooms


def test_the_missing_profit_may_exceed_16_digits():
    target = evaluate(MAX_AMOUNT, initial=MAX_AMOUNT, start=MAX_AMOUNT, peak=MAX_AMOUNT, under=limits(target="10000"))
    assert format_amount(target.evaluations[TARGET].headroom) == "999999999999999999.999999"


BALANCES = st.one_of(
    st.integers(10**6, MAX_AMOUNT),
    st.integers(10**6, 10**6 + 10_000),
    st.integers(MAX_AMOUNT - 10_000, MAX_AMOUNT),
    st.sampled_from([10**13, 5 * 10**12]),
)
DRAWDOWNS = st.one_of(st.integers(1, 999_999), st.sampled_from([1, 50_000, 100_000, 999_999]))
TARGETS = st.one_of(st.integers(1, 100_000_000), st.sampled_from([1, 100_000, 100_000_000]))
LIMITS = st.builds(Limits, DRAWDOWNS, DRAWDOWNS, TARGETS)


@st.composite
def figures(draw):
    """An initial balance, a day's start, a peak and an equity, near each other or near a limit as often as not."""
    under = draw(LIMITS)
    initial = draw(BALANCES)
    peak = draw(st.one_of(st.just(initial), st.integers(initial, MAX_AMOUNT)))
    start = draw(st.one_of(st.just(initial), st.just(peak), st.integers(1, peak)))
    edges = [
        start - start * under.max_daily_drawdown_pct // 1_000_000,
        peak - peak * under.max_total_drawdown_pct // 1_000_000,
        initial + initial * under.profit_target_pct // 1_000_000,
    ]
    near = st.builds(lambda edge, steps: edge + steps, st.sampled_from(edges), st.integers(-2, 2))
    equity = draw(st.one_of(near, st.integers(0, peak)).filter(lambda value: 0 <= value <= MAX_AMOUNT))
    return under, {"initial": initial, "start": start, "peak": max(peak, equity), "equity": equity}


def exact_triggers(under: Limits, initial: int, start: int, peak: int, equity: int) -> list[bool]:
    """The three conditions as V3 writes them."""
    return [
        Fraction(start - equity, start) * 100 > Fraction(under.max_daily_drawdown_pct, 10_000),
        Fraction(peak - equity, peak) * 100 > Fraction(under.max_total_drawdown_pct, 10_000),
        Fraction(equity - initial, initial) * 100 >= Fraction(under.profit_target_pct, 10_000),
    ]


@settings(max_examples=150)
@given(figures())
def test_every_verdict_is_the_one_of_exact_fractions(case):
    under, figure = case
    triggered = exact_triggers(under, **figure)
    evidence = evaluate(under=under, **figure)
    assert [row.triggered for row in evidence.evaluations] == triggered
    assert evidence.deciding == next((rule for rule, hit in zip(Rule, triggered, strict=True) if hit), None)


@settings(max_examples=150)
@given(figures())
def test_every_observed_percentage_is_the_exact_one_rounded(case):
    under, figure = case
    equity = figure["equity"]
    observed = [row.observed_pct for row in evaluate(under=under, **figure).evaluations]
    assert observed == [
        round(Fraction(figure["start"] - equity, figure["start"]) * 100 * 10**6),
        round(Fraction(figure["peak"] - equity, figure["peak"]) * 100 * 10**6),
        round(Fraction(equity - figure["initial"], figure["initial"]) * 100 * 10**6),
    ]


@settings(max_examples=150)
@given(figures(), st.sampled_from([DAILY, TOTAL]))
def test_losing_exactly_the_headroom_survives_and_one_unit_more_fails(case, rule):
    under, figure = case
    row = evaluate(under=under, **figure).evaluations[rule]
    assume(not row.triggered)
    equity = figure.pop("equity")
    at_edge = evaluate(equity=equity - row.headroom, under=under, **figure).evaluations[rule]
    assert (at_edge.triggered, at_edge.headroom) == (False, 0)
    beyond = evaluate(equity=equity - row.headroom - 1, under=under, **figure).evaluations[rule]
    assert (beyond.triggered, beyond.headroom) == (True, 0)


@settings(max_examples=150)
@given(figures())
def test_gaining_exactly_what_is_missing_funds_and_one_unit_less_does_not(case):
    under, figure = case
    row = evaluate(under=under, **figure).evaluations[TARGET]
    assume(not row.triggered)
    equity = figure.pop("equity")
    at_target = evaluate(equity=equity + row.headroom, under=under, **figure).evaluations[TARGET]
    assert (at_target.triggered, at_target.headroom) == (True, 0)
    below = evaluate(equity=equity + row.headroom - 1, under=under, **figure).evaluations[TARGET]
    assert (below.triggered, below.headroom) == (False, 1)


def test_an_equity_of_0_fails_both_drawdowns_under_any_limit():
    """V5: drawdown limits are below 100 %, so a floored account has always failed."""
    evidence = evaluate("0", under=limits("99.9999", "99.9999"))
    assert [row.triggered for row in evidence.evaluations] == [True, True, False]


@pytest.mark.parametrize("version", [0, CURRENT_RULES_VERSION + 1, -1])
def test_a_rules_version_that_this_release_does_not_know_is_refused(version):
    with pytest.raises(ValueError, match="unknown"):
        ChallengeRulesEngine(version)


def test_the_rules_carry_their_version():
    assert ChallengeRulesEngine().version == CURRENT_RULES_VERSION == 1
