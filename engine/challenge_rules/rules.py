"""The three rules, evaluated exactly.

Every comparison is a cross-multiplication of integers, so nothing is divided or rounded before a verdict.
"""

from dataclasses import dataclass
from enum import StrEnum

from challenge_rules.limits import HUNDRED_PCT, Limits
from challenge_rules.money import divide_half_even
from challenge_rules.status import ChallengeStatus

OBSERVED_PLACES = 6
_HUNDRED_PCT_OBSERVED = 100 * 10**OBSERVED_PLACES

CURRENT_RULES_VERSION = 1
"""The rules a new challenge is made with; it is decided by them for as long as it lives."""


class Rule(StrEnum):
    """The rules in order of priority: when several trigger on one trade, the first one decides."""

    MAX_DAILY_DRAWDOWN = "MAX_DAILY_DRAWDOWN"
    MAX_TOTAL_DRAWDOWN = "MAX_TOTAL_DRAWDOWN"
    PROFIT_TARGET = "PROFIT_TARGET"

    @property
    def verdict(self) -> ChallengeStatus:
        """The status a challenge takes when this rule decides."""
        return ChallengeStatus.FUNDED if self is Rule.PROFIT_TARGET else ChallengeStatus.FAILED


@dataclass(frozen=True, slots=True)
class RuleEvaluation:
    """The evidence of one rule for one trade.

    `limit_pct` counts units of 0.0001 per cent, `observed_pct` units of 0.000001 per cent (rounded half-even, for
    people only). `headroom` is an amount: for a drawdown the largest further loss on the same day that still survives
    this rule, for the target the profit still missing; 0 once triggered.
    """

    rule: Rule
    limit_pct: int
    observed_pct: int
    triggered: bool
    headroom: int


@dataclass(frozen=True, slots=True)
class Evidence:
    """All three evaluations in order of priority, and the rule that decides, if any."""

    evaluations: tuple[RuleEvaluation, RuleEvaluation, RuleEvaluation]
    deciding: Rule | None


class ChallengeRulesEngine:
    """Evaluates the rules of one version. Pure: the answer depends on the arguments alone."""

    def __init__(self, version: int = CURRENT_RULES_VERSION) -> None:
        if version != CURRENT_RULES_VERSION:
            raise ValueError(f"rules version {version} is unknown; this release knows {CURRENT_RULES_VERSION}")
        self.version = version

    def evaluate(
        self, limits: Limits, *, initial_balance: int, daily_start_equity: int, peak_equity: int, equity: int
    ) -> Evidence:
        """Evaluate all three rules on the figures after a trade; `peak_equity` includes that trade.

        All amounts are in units of 0.00000001; all but `equity` must be positive.
        """
        daily = _drawdown(Rule.MAX_DAILY_DRAWDOWN, limits.max_daily_drawdown_pct, daily_start_equity, equity)
        total = _drawdown(Rule.MAX_TOTAL_DRAWDOWN, limits.max_total_drawdown_pct, peak_equity, equity)
        target = _profit(limits.profit_target_pct, initial_balance, equity)
        deciding = (
            Rule.MAX_DAILY_DRAWDOWN
            if daily.triggered
            else Rule.MAX_TOTAL_DRAWDOWN
            if total.triggered
            else Rule.PROFIT_TARGET
            if target.triggered
            else None
        )
        return Evidence((daily, total, target), deciding)


def _drawdown(rule: Rule, limit_pct: int, reference: int, equity: int) -> RuleEvaluation:
    """Triggered if (reference − equity) / reference × 100 > limit.

    That is loss × 100 % > limit × reference, and as the loss is an integer, loss > floor(limit × reference / 100 %):
    the largest loss that survives. What is left of it is the headroom.
    """
    loss = reference - equity
    headroom = limit_pct * reference // HUNDRED_PCT - loss
    observed = divide_half_even(loss * _HUNDRED_PCT_OBSERVED, reference)
    if headroom < 0:
        return RuleEvaluation(rule, limit_pct, observed, triggered=True, headroom=0)
    return RuleEvaluation(rule, limit_pct, observed, triggered=False, headroom=headroom)


def _profit(target_pct: int, initial_balance: int, equity: int) -> RuleEvaluation:
    """Triggered if (equity − initial_balance) / initial_balance × 100 ≥ target.

    The smallest sufficient profit is target × initial_balance / 100 %, rounded up to a whole unit.
    """
    profit = equity - initial_balance
    missing = -(-target_pct * initial_balance // HUNDRED_PCT) - profit
    observed = divide_half_even(profit * _HUNDRED_PCT_OBSERVED, initial_balance)
    if missing <= 0:
        return RuleEvaluation(Rule.PROFIT_TARGET, target_pct, observed, triggered=True, headroom=0)
    return RuleEvaluation(Rule.PROFIT_TARGET, target_pct, observed, triggered=False, headroom=missing)
