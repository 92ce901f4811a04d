"""The values the SDK takes and gives: immutable, with `Decimal` amounts, aware UTC datetimes and open enumerations.

Amounts are in the account's currency. Percentages are numbers such as `Decimal("7.5")`, meaning 7.5 per cent.
Moments have a precision of one microsecond.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal

from challenge_client import inputs
from challenge_client.enums import ChallengeStatus, EventType, Rule
from challenge_client.inputs import NumberLike


@dataclass(frozen=True, slots=True, init=False)
class Limits:
    """The limits of one challenge in per cent, fixed at its creation.

    Exactly at a drawdown limit survives, exactly at the target is funded. The drawdown limits lie in (0, 100), the
    target in (0, 10000]; the server refuses others. More than 4 decimal places are a `ValueError`, a `float` is a
    `TypeError`.
    """

    max_daily_drawdown_pct: Decimal
    """Largest loss of one UTC day, of the equity at the day's start."""
    max_total_drawdown_pct: Decimal
    """Largest loss from the peak equity, of the peak."""
    profit_target_pct: Decimal
    """Profit that funds the trader, of the initial balance."""

    def __init__(
        self,
        max_daily_drawdown_pct: NumberLike = 5,
        max_total_drawdown_pct: NumberLike = 10,
        profit_target_pct: NumberLike = 10,
    ) -> None:
        for name, value in (
            ("max_daily_drawdown_pct", max_daily_drawdown_pct),
            ("max_total_drawdown_pct", max_total_drawdown_pct),
            ("profit_target_pct", profit_target_pct),
        ):
            object.__setattr__(self, name, inputs.percentage(value, name))


@dataclass(frozen=True, slots=True, init=False)
class Trade:
    """One closed trade of a challenge.

    A `float` amount is a `TypeError`; an amount that does not fit 16 digits before and 8 after the point, or a naive
    datetime, is a `ValueError`.
    """

    trade_id: str
    """The caller's id, unique within the challenge: 1 to 64 printable ASCII characters."""
    realized_pnl: Decimal
    """Realized P&L after costs, an amount; negative is a loss."""
    executed_at: datetime
    """When it was executed; strictly after the challenge's last accepted trade. Its UTC day is the trading day."""
    symbol: str
    """What was traded, for people: at most 32 printable ASCII characters; may be empty."""

    def __init__(self, trade_id: str, realized_pnl: NumberLike, executed_at: datetime, symbol: str = "") -> None:
        object.__setattr__(self, "trade_id", inputs.text(trade_id, "trade_id"))
        object.__setattr__(self, "realized_pnl", inputs.amount(realized_pnl, "realized_pnl"))
        object.__setattr__(self, "executed_at", inputs.moment(executed_at, "executed_at"))
        object.__setattr__(self, "symbol", inputs.text(symbol, "symbol"))


@dataclass(frozen=True, slots=True)
class TradeSubmission:
    """A trade on its way to a decision."""

    challenge_id: str
    """UUID of the challenge."""
    trade: Trade
    """The trade."""
    expected_sequence: int | None = None
    """The sequence this trade must get, or the trade is refused with SEQUENCE_MISMATCH; None: any."""
    validate_only: bool = False
    """Decide on the state as it is, but record nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleEvaluation:
    """The evidence of one rule for one trade."""

    rule: Rule
    """Which rule."""
    limit_pct: Decimal
    """Its limit or target in per cent."""
    observed_pct: Decimal
    """What was observed in per cent, rounded half-even to 6 places for people; the decision itself is exact."""
    triggered: bool
    """Whether the rule's condition holds."""
    headroom: Decimal
    """An amount. For a drawdown the largest further loss on the same day that still survives this rule, for the target
    the profit still missing; 0 once triggered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenge:
    """A challenge at one moment: now, or right after one of its trades."""

    challenge_id: str
    """UUID in lower case."""
    status: ChallengeStatus
    """Where it stands."""
    limits: Limits
    """Its limits."""
    initial_balance: Decimal
    """Equity at creation."""
    equity: Decimal
    """Equity now: max(0, equity + realized P&L) after each trade."""
    peak_equity: Decimal
    """Highest equity so far, at least the initial balance."""
    daily_start_equity: Decimal
    """Equity before the first trade of the current trading day."""
    trading_day: date | None
    """UTC calendar day of the last trade; None while PENDING."""
    last_sequence: int
    """Number of accepted trades, and the sequence of the last one; 0 while PENDING."""
    version: int
    """1 + last_sequence."""
    status_reason: Rule | None
    """The rule that ended the challenge; None while PENDING or ACTIVE."""
    currency_code: str
    """ISO 4217 code."""
    labels: Mapping[str, str] = field(hash=False)
    """The caller's own labels."""
    evaluations: tuple[RuleEvaluation, ...]
    """The evidence of the latest trade, one for each rule in order of priority; empty while PENDING."""
    created_at: datetime
    """When it was made, by the server's clock."""
    activated_at: datetime | None
    """`executed_at` of the first trade; None while PENDING."""
    closed_at: datetime | None
    """`executed_at` of the trade that ended it; None before."""
    last_executed_at: datetime | None
    """`executed_at` of the last accepted trade; None while PENDING."""
    rules_version: int
    """Version of the rules it is decided by."""
    replayed: bool = False
    """True when `create_challenge` found that it existed with the same content."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What was decided on one trade."""

    challenge_id: str
    """UUID in lower case."""
    trade_id: str
    """The caller's id of the trade."""
    sequence: int
    """The trade's number within its challenge: 1, 2, 3 … without gaps."""
    replayed: bool
    """True when this very trade had been accepted before and this is the recorded decision."""
    previous_status: ChallengeStatus
    """Status before the trade."""
    status: ChallengeStatus
    """Status after the trade."""
    reason: Rule | None
    """The rule that ended the challenge on this trade; None when none did."""
    equity: Decimal
    """Equity after the trade."""
    peak_equity: Decimal
    """Peak equity after the trade."""
    daily_start_equity: Decimal
    """Equity before the first trade of the trade's day."""
    evaluations: tuple[RuleEvaluation, ...]
    """The evidence, one for each rule in order of priority."""
    executed_at: datetime
    """`executed_at` of the trade."""
    recorded_at: datetime | None
    """When the decision was recorded, by the server's clock; None for one that was only validated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedTrade:
    """An accepted trade with the decision recorded for it."""

    trade: Trade
    """The trade as accepted."""
    decision: Decision
    """The decision as recorded; `replayed` is False."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChallengeTerms:
    """What a challenge was made with: enough to make it again."""

    initial_balance: Decimal
    """Equity at creation."""
    limits: Limits
    """Its limits."""
    currency_code: str
    """ISO 4217 code."""
    labels: Mapping[str, str] = field(hash=False)
    """The caller's own labels."""
    rules_version: int
    """Version of the rules."""
    created_at: datetime
    """When it was made, by the server's clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChallengeEvent:
    """Something that happened to a challenge."""

    position: int
    """Place in the log of all challenges: 1, 2, 3 … without gaps."""
    challenge_id: str
    """UUID in lower case."""
    challenge_sequence: int
    """The event's number within its challenge: 1, 2, 3 … without gaps."""
    event_type: EventType
    """What happened."""
    old_status: ChallengeStatus | None
    """Status before; None for CHALLENGE_CREATED."""
    new_status: ChallengeStatus
    """Status after; PENDING for CHALLENGE_CREATED."""
    reason: Rule | None
    """The rule that ended the challenge; None for CHALLENGE_CREATED and PENDING to ACTIVE."""
    trade_id: str | None
    """The causing trade; None for CHALLENGE_CREATED."""
    trade_sequence: int | None
    """Sequence of the causing trade; None for CHALLENGE_CREATED."""
    equity: Decimal
    """Equity after the causing trade; the initial balance for CHALLENGE_CREATED."""
    evaluations: tuple[RuleEvaluation, ...]
    """The evidence of the causing trade; empty for CHALLENGE_CREATED."""
    occurred_at: datetime
    """`executed_at` of the causing trade; `created_at` for CHALLENGE_CREATED."""
    recorded_at: datetime
    """When it was recorded, by the server's clock."""
    terms: ChallengeTerms | None
    """What the challenge was made with; for CHALLENGE_CREATED only."""


@dataclass(frozen=True, slots=True)
class EventMessage:
    """The stream says: this happened."""

    cursor: str
    """Store it once the event is handled, to resume after it."""
    event: ChallengeEvent
    """The event."""


@dataclass(frozen=True, slots=True)
class EventBatch:
    """The stream says: these happened. Sent only to a reader that allows several events in one message."""

    cursor: str
    """Store it once every one of the events is handled, to resume after the last."""
    events: tuple[ChallengeEvent, ...]
    """The events, by position; at least one."""


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """The stream says: every recorded event has been sent; sent again each time the reader had fallen behind."""

    cursor: str
    """Resumes after this message."""
    position: int
    """The position reached."""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The stream says: nothing matched for a while, or the server is about to end the stream."""

    cursor: str
    """Resumes after this message."""
    position: int
    """The position reached; every matching event up to it has been sent."""


StreamMessage = EventMessage | EventBatch | CaughtUp | Heartbeat
"""One message of the event stream."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """What a subscription hands over at a time: some events, and the one cursor that stands after all of them.

    Handle the events and store the cursor in one transaction, and each event is handled exactly once, whatever breaks
    or crashes. A delivery without events says that the stream was caught up or silent; its cursor is to be stored like
    any other.
    """

    events: tuple[ChallengeEvent, ...]
    """By position; may be empty."""
    cursor: str
    """Resumes after this delivery."""
    previous_cursor: str | None
    """The cursor of the delivery before, or the one the subscription started with; None when there was none. When this
    is not what you have stored, somebody else handles the same events: roll back."""
    position: int
    """The position reached; every matching event up to it is in this delivery or in one before."""
