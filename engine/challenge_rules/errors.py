"""Every way a call or a trade can be refused.

    ChallengeError (ValueError)
    ├── ValidationError            a field, a page token or the bytes of a request are bad
    ├── ChallengeNotFoundError     SequenceNotFoundError
    ├── ChallengeExistsError       TradeIdReusedError
    ├── ChallengeTerminalError     TradeOutOfOrderError     ChallengeArchivedError
    ├── TradeInFutureError         EquityOutOfRangeError
    ├── SequenceMismatchError      PredecessorFailedError   WriteConflictError
    ├── OverloadedError            DatabaseUnavailableError DrainingError   OutcomeUnknownError
    ├── CursorMismatchError
    └── InternalError

Programs look at `reason` and `metadata`; the message is for people. A docstring is its class's default message.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from inspect import cleandoc
from typing import ClassVar

MAX_SHOWN_VIOLATIONS = 3
"""How many bad fields the message tells; `violations` has them all."""


class ErrorReason(StrEnum):
    """The reasons of the contract, without the enum's prefix."""

    VALIDATION_FAILED = "VALIDATION_FAILED"
    CHALLENGE_NOT_FOUND = "CHALLENGE_NOT_FOUND"
    SEQUENCE_NOT_FOUND = "SEQUENCE_NOT_FOUND"
    CHALLENGE_EXISTS = "CHALLENGE_EXISTS"
    TRADE_ID_REUSED = "TRADE_ID_REUSED"
    CHALLENGE_TERMINAL = "CHALLENGE_TERMINAL"
    TRADE_OUT_OF_ORDER = "TRADE_OUT_OF_ORDER"
    TRADE_IN_FUTURE = "TRADE_IN_FUTURE"
    EQUITY_OUT_OF_RANGE = "EQUITY_OUT_OF_RANGE"
    SEQUENCE_MISMATCH = "SEQUENCE_MISMATCH"
    PREDECESSOR_FAILED = "PREDECESSOR_FAILED"
    WRITE_CONFLICT = "WRITE_CONFLICT"
    OVERLOADED = "OVERLOADED"
    DATABASE_UNAVAILABLE = "DATABASE_UNAVAILABLE"
    DRAINING = "DRAINING"
    OUTCOME_UNKNOWN = "OUTCOME_UNKNOWN"
    CURSOR_MISMATCH = "CURSOR_MISMATCH"
    CHALLENGE_ARCHIVED = "CHALLENGE_ARCHIVED"
    INTERNAL = "INTERNAL"


class ChallengeError(ValueError):
    """The call was refused."""

    reason: ClassVar[ErrorReason]

    def __init__(self, message: str | None = None, **metadata: str) -> None:
        self.message = message or cleandoc(self.__doc__ or "").rstrip(".")
        self.metadata = metadata
        super().__init__(self.message)


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One bad field: its path in the request, and what is allowed."""

    field: str
    description: str


class ValidationError(ChallengeError):
    """The request is not valid."""

    reason = ErrorReason.VALIDATION_FAILED

    def __init__(self, violations: Iterable[FieldViolation]) -> None:
        self.violations = tuple(violations)
        shown = [f"{v.field}: {v.description}" for v in self.violations[:MAX_SHOWN_VIOLATIONS]]
        more = len(self.violations) - len(shown)
        super().__init__("; ".join([*shown, f"and {more} more"] if more else shown))


class ChallengeNotFoundError(ChallengeError):
    """There is no challenge of that id."""

    reason = ErrorReason.CHALLENGE_NOT_FOUND


class SequenceNotFoundError(ChallengeError):
    """The challenge has no trade of that sequence."""

    reason = ErrorReason.SEQUENCE_NOT_FOUND


class ChallengeExistsError(ChallengeError):
    """A challenge of that id exists with other content."""

    reason = ErrorReason.CHALLENGE_EXISTS


class TradeIdReusedError(ChallengeError):
    """A trade of that trade_id was accepted with other content."""

    reason = ErrorReason.TRADE_ID_REUSED


class ChallengeTerminalError(ChallengeError):
    """The challenge has ended and accepts no more trades."""

    reason = ErrorReason.CHALLENGE_TERMINAL


class TradeOutOfOrderError(ChallengeError):
    """The trade was not executed after the last accepted one."""

    reason = ErrorReason.TRADE_OUT_OF_ORDER


class TradeInFutureError(ChallengeError):
    """The trade was executed ahead of the server's clock."""

    reason = ErrorReason.TRADE_IN_FUTURE


class EquityOutOfRangeError(ChallengeError):
    """The equity would have more than 16 digits before the point."""

    reason = ErrorReason.EQUITY_OUT_OF_RANGE


class SequenceMismatchError(ChallengeError):
    """The trade would not get the expected sequence."""

    reason = ErrorReason.SEQUENCE_MISMATCH


class PredecessorFailedError(ChallengeError):
    """An earlier trade of the challenge in this call could not be executed, so this one was not tried."""

    reason = ErrorReason.PREDECESSOR_FAILED


class WriteConflictError(ChallengeError):
    """Another writer was in the way; nothing was written, send it again."""

    reason = ErrorReason.WRITE_CONFLICT


class OverloadedError(ChallengeError):
    """The server has too much waiting; nothing was written, send it again a little later."""

    reason = ErrorReason.OVERLOADED

    def __init__(self, retry_after_s: float) -> None:
        self.retry_after_s = retry_after_s
        super().__init__()


class DatabaseUnavailableError(ChallengeError):
    """The database is away; nothing was written, send it again."""

    reason = ErrorReason.DATABASE_UNAVAILABLE


class DrainingError(ChallengeError):
    """The server is shutting down; nothing was written, send it again."""

    reason = ErrorReason.DRAINING


class OutcomeUnknownError(ChallengeError):
    """The connection to the database was lost during COMMIT; send the very same again to learn what was recorded."""

    reason = ErrorReason.OUTCOME_UNKNOWN


class CursorMismatchError(ChallengeError):
    """The cursor is malformed, or belongs to another log or another filter."""

    reason = ErrorReason.CURSOR_MISMATCH


class ChallengeArchivedError(ChallengeError):
    """The trades of the challenge have been moved to an archive."""

    reason = ErrorReason.CHALLENGE_ARCHIVED


class InternalError(ChallengeError):
    """Something unforeseen went wrong; the error_id is found in the server's log."""

    reason = ErrorReason.INTERNAL

    def __init__(self, error_id: str) -> None:
        super().__init__(None, error_id=error_id)
