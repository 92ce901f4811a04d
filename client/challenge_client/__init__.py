"""The Python SDK of the Challenge Engine.

    from challenge_client import ChallengeClient

    with ChallengeClient("127.0.0.1:50051") as client:
        challenge = client.create_challenge(initial_balance="100000")
        decision = client.submit_trade(
            challenge.challenge_id, trade_id="1", realized_pnl="-250.50", executed_at=datetime.now(UTC)
        )

`AsyncChallengeClient` has the same methods with the same arguments for asyncio. Every failure is a `ChallengeError`.
"""

from challenge_client.async_client import AsyncChallengeClient
from challenge_client.async_event_stream import AsyncEventStream
from challenge_client.async_subscription import AsyncSubscription
from challenge_client.client import ChallengeClient
from challenge_client.enums import ChallengeStatus, EventType, Rule
from challenge_client.errors import (
    ChallengeArchivedError,
    ChallengeError,
    ChallengeExistsError,
    ChallengeNotFoundError,
    ChallengeTerminalError,
    CursorMismatchError,
    DatabaseUnavailableError,
    DrainingError,
    EquityOutOfRangeError,
    InternalFailureError,
    OutcomeUnknownError,
    OverloadedError,
    PredecessorFailedError,
    SequenceMismatchError,
    SequenceNotFoundError,
    TradeIdReusedError,
    TradeInFutureError,
    TradeOutOfOrderError,
    TransportError,
    ValidationFailedError,
    WriteConflictError,
)
from challenge_client.event_stream import EventStream
from challenge_client.subscription import Subscription
from challenge_client.ties import spread_ties
from challenge_client.values import (
    CaughtUp,
    Challenge,
    ChallengeEvent,
    ChallengeTerms,
    Decision,
    Delivery,
    EventBatch,
    EventMessage,
    Heartbeat,
    Limits,
    RecordedTrade,
    RuleEvaluation,
    StreamMessage,
    Trade,
    TradeSubmission,
)
from challenge_rules.errors import ErrorReason, FieldViolation

__all__ = [
    "AsyncChallengeClient",
    "AsyncEventStream",
    "AsyncSubscription",
    "CaughtUp",
    "Challenge",
    "ChallengeArchivedError",
    "ChallengeClient",
    "ChallengeError",
    "ChallengeEvent",
    "ChallengeExistsError",
    "ChallengeNotFoundError",
    "ChallengeStatus",
    "ChallengeTerminalError",
    "ChallengeTerms",
    "CursorMismatchError",
    "DatabaseUnavailableError",
    "Decision",
    "Delivery",
    "DrainingError",
    "EquityOutOfRangeError",
    "ErrorReason",
    "EventBatch",
    "EventMessage",
    "EventStream",
    "EventType",
    "FieldViolation",
    "Heartbeat",
    "InternalFailureError",
    "Limits",
    "OutcomeUnknownError",
    "OverloadedError",
    "PredecessorFailedError",
    "RecordedTrade",
    "Rule",
    "RuleEvaluation",
    "SequenceMismatchError",
    "SequenceNotFoundError",
    "StreamMessage",
    "Subscription",
    "Trade",
    "TradeIdReusedError",
    "TradeInFutureError",
    "TradeOutOfOrderError",
    "TradeSubmission",
    "TransportError",
    "ValidationFailedError",
    "WriteConflictError",
    "spread_ties",
]
