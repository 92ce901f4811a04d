"""What happens to a challenge, as facts to store and to publish."""

from dataclasses import dataclass
from enum import StrEnum

from challenge_rules.challenge import ChallengeTerms
from challenge_rules.rules import Rule, RuleEvaluation
from challenge_rules.status import ChallengeStatus


class EventType(StrEnum):
    """The kinds of events."""

    CHALLENGE_CREATED = "CHALLENGE_CREATED"
    CHALLENGE_STATUS_CHANGED = "CHALLENGE_STATUS_CHANGED"


@dataclass(frozen=True, slots=True)
class ChallengeEvent:
    """One event of one challenge; `challenge_sequence` numbers them 1, 2, 3 … without gaps.

    `occurred_at` is the causing trade's `executed_at` (or the challenge's `created_at`). `terms` is set for
    CHALLENGE_CREATED alone and holds everything needed to make the challenge again.
    """

    challenge_id: str
    challenge_sequence: int
    event_type: EventType
    old_status: ChallengeStatus | None
    new_status: ChallengeStatus
    reason: Rule | None
    trade_id: str | None
    trade_sequence: int | None
    equity: int
    evaluations: tuple[RuleEvaluation, ...]
    occurred_at: int
    recorded_at: int
    terms: ChallengeTerms | None = None
