"""The enumerations of the contract, open to members that a newer server may know.

Members are strings: `ChallengeStatus.FAILED == "FAILED"`. A number without a name in this release becomes a member of
its own, `UNKNOWN_<number>`: nothing crashes, nothing is lost, and it may be sent back as a filter.
"""

import re
from enum import StrEnum
from typing import Self

_UNKNOWN = re.compile(r"UNKNOWN_(0|-?[1-9][0-9]*)", re.ASCII)


class OpenEnum(StrEnum):
    """An enumeration that keeps unknown numbers. Unknown members compare by value, not by identity."""

    @classmethod
    def unknown(cls, number: int) -> Self:
        """The member that stands for a number without a name in this release."""
        return cls(f"UNKNOWN_{number}")

    @property
    def unknown_number(self) -> int | None:
        """The number in the contract of a member unknown to this release, None for the known ones."""
        match = _UNKNOWN.fullmatch(self)
        return None if match is None else int(match[1])

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        if not isinstance(value, str) or _UNKNOWN.fullmatch(value) is None:
            return None
        member = str.__new__(cls, value)
        member._name_ = value
        member._value_ = value
        return member


class ChallengeStatus(OpenEnum):
    """Where a challenge stands: PENDING, then ACTIVE, then FAILED or FUNDED, which are final."""

    PENDING = "PENDING"
    """Created, no trade accepted yet."""
    ACTIVE = "ACTIVE"
    """At least one trade accepted, no rule triggered."""
    FAILED = "FAILED"
    """A drawdown limit was broken. Final."""
    FUNDED = "FUNDED"
    """The profit target was reached. Final."""

    @property
    def is_terminal(self) -> bool:
        """Whether the challenge has ended and accepts no more trades; False for an unknown status."""
        return self in {ChallengeStatus.FAILED, ChallengeStatus.FUNDED}


class Rule(OpenEnum):
    """The rules in order of priority: when several trigger on one trade, the first one decides."""

    MAX_DAILY_DRAWDOWN = "MAX_DAILY_DRAWDOWN"
    """FAILED if (daily_start_equity − equity) / daily_start_equity × 100 > limit."""
    MAX_TOTAL_DRAWDOWN = "MAX_TOTAL_DRAWDOWN"
    """FAILED if (peak_equity − equity) / peak_equity × 100 > limit."""
    PROFIT_TARGET = "PROFIT_TARGET"
    """FUNDED if (equity − initial_balance) / initial_balance × 100 ≥ target."""


class EventType(OpenEnum):
    """What an event reports."""

    CHALLENGE_CREATED = "CHALLENGE_CREATED"
    """A challenge was made."""
    CHALLENGE_STATUS_CHANGED = "CHALLENGE_STATUS_CHANGED"
    """A trade changed the status of a challenge."""
