"""The states of a challenge."""

from enum import StrEnum


class ChallengeStatus(StrEnum):
    """PENDING (created) → ACTIVE (first trade) → FAILED or FUNDED, both final. Nothing else is possible."""

    PENDING = "PENDING"
    ACTIVE = "ACTIVE"
    FAILED = "FAILED"
    FUNDED = "FUNDED"

    @property
    def is_terminal(self) -> bool:
        """Whether no further trade is accepted."""
        return self in TERMINAL


TERMINAL = frozenset({ChallengeStatus.FAILED, ChallengeStatus.FUNDED})
