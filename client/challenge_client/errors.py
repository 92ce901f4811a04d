"""Every way a call can fail.

    ChallengeError
    ├── ValidationFailedError        CursorMismatchError
    ├── ChallengeNotFoundError       SequenceNotFoundError
    ├── ChallengeExistsError         TradeIdReusedError
    ├── ChallengeTerminalError       ChallengeArchivedError
    ├── TradeOutOfOrderError         TradeInFutureError         EquityOutOfRangeError
    ├── SequenceMismatchError        PredecessorFailedError     WriteConflictError
    ├── OverloadedError              DatabaseUnavailableError   DrainingError         OutcomeUnknownError
    ├── InternalFailureError
    └── TransportError               gRPC itself failed: the server is away, the deadline passed, …

One class for each reason of the contract. A reason that only a newer server knows is a plain `ChallengeError` that
keeps it as text. Programs look at the class, `reason` and `metadata`; the message is for people. Wrong arguments that
never leave this process are `TypeError` and `ValueError`.
"""

import copy
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, ClassVar, Self, TypeVar

import grpc

from challenge_client.enums import ChallengeStatus
from challenge_rules.errors import ErrorReason, FieldViolation
from challenge_rules.timestamps import from_iso, to_datetime

TRANSPORT = "TRANSPORT"
UNKNOWN = "UNKNOWN"

READING = ("Get", "List", "Stream")
"""How the names of calls begin that write nothing."""
MAY_BE_RECORDED = "An attempt may have been recorded: send the very same again to know."

_T = TypeVar("_T")


class ChallengeError(Exception):
    """A call, or one trade of a batch, was refused or failed."""

    reason: ErrorReason | str = UNKNOWN
    """Why; a plain `str` when this release does not know the reason, and for `TransportError`."""
    message: str
    """What happened, for people."""
    code: grpc.StatusCode
    """The gRPC status code."""
    metadata: Mapping[str, str]
    """Facts that belong to the reason."""
    field_violations: tuple[FieldViolation, ...]
    """The bad fields, when the reason is VALIDATION_FAILED."""
    retry_after: timedelta | None
    """How long the server asks to wait before a repetition; None when it does not say."""
    method: str | None
    """The call, by its name in the contract; None when the error does not come from one."""
    request: Any
    """What was asked for: a `TradeSubmission`, a tuple of them for a whole batch, or a dict of the request's fields."""
    attempts: int
    """How often it was sent; 0 for a trade that was held back."""
    may_be_recorded: bool
    """Whether this attempt or one before it may have been recorded, although the last answer was another."""
    advice: ClassVar[str] = ""
    """What to do about it, in a sentence."""

    def __init__(
        self,
        message: str = "",
        *,
        code: grpc.StatusCode = grpc.StatusCode.UNKNOWN,
        reason: str | None = None,
        metadata: Mapping[str, str] | None = None,
        field_violations: tuple[FieldViolation, ...] = (),
        retry_after: timedelta | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        if reason is not None:
            self.reason = reason
        self.metadata = dict(metadata or {})
        self.field_violations = field_violations
        self.retry_after = retry_after
        self.method = None
        self.request = None
        self.attempts = 1
        self.may_be_recorded = False

    def note(self, method: str, request: Any, attempts: int, *, may_be_recorded: bool = False) -> None:
        """Say which call it was."""
        self.method, self.request, self.attempts = method, request, attempts
        self.may_be_recorded = may_be_recorded

    def copied(self) -> Self:
        """A copy, for another call that failed by the same error."""
        error = copy.copy(self)
        error.__cause__ = self.__cause__
        return error

    def __str__(self) -> str:
        text = f"{self.reason}: {self.message}" if self.message else str(self.reason)
        if self.attempts > 1:
            text = f"{text.rstrip('.')} (after {self.attempts} attempts)"
        advice = MAY_BE_RECORDED if self.may_be_recorded else self.advice
        if self.method is not None and self.method.startswith(READING) and isinstance(self, TransportError):
            advice = "Nothing was to be written; ask again."
        return f"{text.rstrip('.')}. {advice}" if advice else text

    def __repr__(self) -> str:
        details = f"{type(self).__name__}({self.message!r}, reason={str(self.reason)!r}, code={self.code.name}"
        if self.metadata:
            details += f", metadata={self.metadata!r}"
        if self.retry_after is not None:
            details += f", retry_after={self.retry_after!r}"
        return details + ")"


class ValidationFailedError(ChallengeError):
    """A field of the request is bad; `field_violations` says which and what is allowed. Mend it and send it again."""

    reason = ErrorReason.VALIDATION_FAILED
    advice = "Mend the named fields and send it again."


class CursorMismatchError(ChallengeError):
    """The cursor is malformed, or belongs to another log or another filter. Resume with `after_position`."""

    reason = ErrorReason.CURSOR_MISMATCH
    advice = "Resume with after_position, or from_beginning."


class ChallengeNotFoundError(ChallengeError):
    """There is no challenge of that id."""

    reason = ErrorReason.CHALLENGE_NOT_FOUND
    advice = "Check the challenge_id, and that this is the server it was created on."


class SequenceNotFoundError(ChallengeError):
    """The challenge has no trade of that sequence yet."""

    reason = ErrorReason.SEQUENCE_NOT_FOUND
    advice = "Ask for at most last_sequence of the challenge."


class _DiffersError(ChallengeError):
    """Something of the same id was accepted with other content."""

    @property
    def differing_fields(self) -> tuple[str, ...]:
        """The names of the fields that differ."""
        return tuple(filter(None, self.metadata.get("differing_fields", "").split(",")))


class ChallengeExistsError(_DiffersError):
    """A challenge of that id exists with other content; `differing_fields` names what differs."""

    reason = ErrorReason.CHALLENGE_EXISTS
    advice = "Use the terms it was created with, or another challenge_id."


class TradeIdReusedError(_DiffersError):
    """A trade of that trade_id was accepted with other content; `differing_fields` names what differs."""

    reason = ErrorReason.TRADE_ID_REUSED
    advice = "Give the new trade an id of its own; a correction is a new trade."


class ChallengeTerminalError(ChallengeError):
    """The challenge has ended and accepts no more trades; `status` says how."""

    reason = ErrorReason.CHALLENGE_TERMINAL
    advice = "Send no more trades for it; its verdict stands."

    @property
    def status(self) -> ChallengeStatus | None:
        """How the challenge ended; None if the server did not say in words this release knows."""
        return _read(ChallengeStatus, self.metadata.get("status"))


class ChallengeArchivedError(ChallengeError):
    """The trades of the challenge have been moved to an archive."""

    reason = ErrorReason.CHALLENGE_ARCHIVED
    advice = "Ask its operator for the archive."


class TradeOutOfOrderError(ChallengeError):
    """The trade was not executed after the challenge's last accepted one; `last_executed_at` says when that was."""

    reason = ErrorReason.TRADE_OUT_OF_ORDER
    advice = "Send trades in the order of executed_at; spread_ties separates those of the same moment."

    @property
    def last_executed_at(self) -> datetime | None:
        """When the last accepted trade was executed, in UTC; None if the server did not say."""
        return _read(_moment, self.metadata.get("last_executed_at"))


class TradeInFutureError(ChallengeError):
    """The trade was executed further ahead of the server's clock than it allows."""

    reason = ErrorReason.TRADE_IN_FUTURE
    advice = "Check the clock that executed_at comes from."


class EquityOutOfRangeError(ChallengeError):
    """The trade would lift the equity beyond 16 digits before the point."""

    reason = ErrorReason.EQUITY_OUT_OF_RANGE
    advice = "Check the currency unit of realized_pnl."


class SequenceMismatchError(ChallengeError):
    """The trade would not get `expected_sequence` but `next_sequence`: somebody else trades this challenge."""

    reason = ErrorReason.SEQUENCE_MISMATCH
    advice = "Read the challenge, find out who else trades it, and decide anew."

    @property
    def next_sequence(self) -> int | None:
        """The sequence the trade would get; None if the server did not say."""
        return _read(int, self.metadata.get("next_sequence"))


class PredecessorFailedError(ChallengeError):
    """An earlier trade of the challenge in the same call could not be executed, so this one was not tried."""

    reason = ErrorReason.PREDECESSOR_FAILED
    advice = "Send the earlier trade again first, then this one."


class WriteConflictError(ChallengeError):
    """Another writer was in the way. Nothing was written; send it again."""

    reason = ErrorReason.WRITE_CONFLICT
    advice = "Nothing was written; send the very same again."


class OverloadedError(ChallengeError):
    """The server's queues are full. Nothing was written; send it again after `retry_after`."""

    reason = ErrorReason.OVERLOADED
    advice = "Nothing was written; send the very same again after retry_after, and fewer at a time."


class DatabaseUnavailableError(ChallengeError):
    """The server's database is away. Nothing was written; send it again."""

    reason = ErrorReason.DATABASE_UNAVAILABLE
    advice = "Nothing was written; send the very same again."


class DrainingError(ChallengeError):
    """The server is shutting down. Nothing was written; send it again, or resume the stream with its last cursor."""

    reason = ErrorReason.DRAINING
    advice = "Nothing was written; send the very same again, to another server if there is one."


class OutcomeUnknownError(ChallengeError):
    """The server lost its database during COMMIT. Send the very same again to learn what was recorded."""

    reason = ErrorReason.OUTCOME_UNKNOWN
    advice = "Send the very same again to learn what was recorded."


class InternalFailureError(ChallengeError):
    """Something unforeseen went wrong in the server; `error_id` is found in its log."""

    reason = ErrorReason.INTERNAL
    advice = "Look for its error_id in the server's log, then send the very same again."

    @property
    def error_id(self) -> str | None:
        """What to look for in the server's log; None if the server did not say."""
        return self.metadata.get("error_id")


class TransportError(ChallengeError):
    """The call failed outside the service: no server, deadline passed, message too large, channel closed.

    `code` says which. Whether a write was recorded is unknown; send the very same again to know.
    """

    reason = TRANSPORT
    advice = "A write may have been recorded: send the very same again to know."


def _moment(iso: str) -> datetime:
    return to_datetime(from_iso(iso))


def _read(convert: Callable[[str], _T], text: str | None) -> _T | None:
    """A fact of the metadata, or None when it is not there or not in a form this release knows."""
    try:
        return None if text is None else convert(text)
    except (ValueError, TypeError):
        return None
