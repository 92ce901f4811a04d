"""Which failures pass, and how long to wait before a call is sent again. No I/O, no clock, no randomness.

Every call may be sent again as it is: ids are minted once for a logical call, so the service answers a repetition with
what it recorded the first time.
"""

from typing import Any

import grpc

from challenge_client.errors import (
    ChallengeError,
    OutcomeUnknownError,
    OverloadedError,
    PredecessorFailedError,
    SequenceMismatchError,
    TransportError,
    WriteConflictError,
)

FIRST_DELAY_S, MAX_DELAY_S = 0.05, 2.0
"""The wait before the second attempt; it doubles up to the second. Each is shortened by up to a half, by chance."""

_UNDECIDED = frozenset(
    {
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.UNKNOWN,
    }
)


def passes(error: ChallengeError) -> bool:
    """Whether the same call may succeed in a moment: the server is away, busy, or another writer was in the way."""
    return error.code is grpc.StatusCode.UNAVAILABLE or isinstance(
        error, OverloadedError | PredecessorFailedError | WriteConflictError
    )


def is_undecided(error: ChallengeError) -> bool:
    """Whether a trade failed for reasons of machinery: it was not refused, and may even have been recorded."""
    return isinstance(error, TransportError) or (
        error.code in _UNDECIDED and not isinstance(error, SequenceMismatchError)
    )


def describe(error: ChallengeError, method: str, request: Any, attempts: "Attempts") -> None:
    """Say which call failed for good, how often it was sent, and whether that leaves open what was recorded."""
    error.note(method, request, attempts.count, may_be_recorded=attempts.may_be_recorded and is_undecided(error))


class Attempts:
    """The attempts of one call within its deadline. Times are seconds of any clock that only goes forward."""

    def __init__(self, *, timeout_s: float, max_attempts: int | None = None) -> None:
        self._timeout_s = timeout_s
        self._max_attempts = max_attempts
        self._deadline_s: float | None = None
        self.count = 0
        """How many were begun."""
        self.may_be_recorded = False
        """Whether one of them failed in a way that leaves open what was recorded."""

    def begin(self, now_s: float) -> float:
        """The next attempt begins: how many seconds it may take. The first one sets the deadline of all."""
        if self._deadline_s is None:
            self._deadline_s = now_s + self._timeout_s
        self.count += 1
        return max(0.0, self._deadline_s - now_s)

    def delay_s(self, error: ChallengeError, now_s: float, chance: float) -> float | None:
        """How long to wait before the next attempt; None when there is to be none.

        `chance` is a random number from 0 to 1. Nobody is asked again before the server's RetryInfo allows, and not
        when that would be after the deadline.
        """
        assert self._deadline_s is not None, "no attempt was begun"
        self.may_be_recorded |= isinstance(error, TransportError | OutcomeUnknownError)
        if not passes(error) or self.count == self._max_attempts:
            return None
        # 2.0 ** 1024 would be an error.
        delay_s = min(FIRST_DELAY_S * 2.0 ** min(self.count - 1, 32), MAX_DELAY_S) * (1 - chance / 2)
        if error.retry_after is not None:
            delay_s = max(delay_s, error.retry_after.total_seconds())
        return delay_s if now_s + delay_s < self._deadline_s else None
