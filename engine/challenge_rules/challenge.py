"""A challenge, its trades and the decisions on them, as immutable values.

Amounts are integers of 0.00000001 (`money`), moments integers of a microsecond (`timestamps`).
"""

from dataclasses import dataclass

from challenge_rules.limits import Limits
from challenge_rules.rules import Rule, RuleEvaluation
from challenge_rules.status import ChallengeStatus

Labels = tuple[tuple[str, str], ...]
"""The caller's labels, sorted by key, so that equal labels are equal values."""


@dataclass(frozen=True, slots=True)
class ChallengeTerms:
    """What a challenge is made with; never changes afterwards."""

    challenge_id: str
    initial_balance: int
    limits: Limits
    currency_code: str
    labels: Labels
    rules_version: int
    created_at: int


@dataclass(frozen=True, slots=True)
class ChallengeState:
    """A challenge at one moment.

    `trading_day` counts days since 1970-01-01 and is None while PENDING, as are `activated_at` and `last_executed_at`.
    `event_count` numbers the challenge's events, and `chain_head` is the newest link of its hash chain (`chain`).
    """

    terms: ChallengeTerms
    status: ChallengeStatus
    status_reason: Rule | None
    equity: int
    peak_equity: int
    daily_start_equity: int
    trading_day: int | None
    last_sequence: int
    event_count: int
    activated_at: int | None
    closed_at: int | None
    last_executed_at: int | None
    chain_head: bytes

    @property
    def version(self) -> int:
        """1 + last_sequence: depends on the trades alone, not on how they were grouped into transactions."""
        return self.last_sequence + 1


@dataclass(frozen=True, slots=True)
class Trade:
    """One trade with its realized P&L, as the caller sent it, already validated."""

    trade_id: str
    realized_pnl: int
    executed_at: int
    symbol: str = ""


@dataclass(frozen=True, slots=True)
class TradeSubmission:
    """A valid trade for a challenge that may or may not exist."""

    challenge_id: str
    trade: Trade
    expected_sequence: int | None = None
    validate_only: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided on one trade, and why. `recorded_at` is None for a decision that was only validated."""

    challenge_id: str
    trade_id: str
    sequence: int
    replayed: bool
    previous_status: ChallengeStatus
    status: ChallengeStatus
    reason: Rule | None
    equity: int
    peak_equity: int
    daily_start_equity: int
    evaluations: tuple[RuleEvaluation, ...]
    executed_at: int
    recorded_at: int | None


@dataclass(frozen=True, slots=True)
class RecordedTrade:
    """An accepted trade with the decision recorded for it, and the link it made in the challenge's hash chain."""

    trade: Trade
    decision: Decision
    chain_hash: bytes
