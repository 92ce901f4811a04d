"""The pure core of the Challenge Engine: money, rules and state machine.

Standard library only, and no I/O, no clock, no randomness: the same input gives the same verdict on every machine.
"""

from challenge_rules.challenge import ChallengeState, ChallengeTerms, Decision, RecordedTrade, Trade, TradeSubmission
from challenge_rules.engine import ChallengeEngine, Outcome
from challenge_rules.errors import ChallengeError, ErrorReason
from challenge_rules.events import ChallengeEvent, EventType
from challenge_rules.limits import Limits
from challenge_rules.rules import ChallengeRulesEngine, Evidence, Rule, RuleEvaluation
from challenge_rules.status import ChallengeStatus

__all__ = [
    "ChallengeEngine",
    "ChallengeError",
    "ChallengeEvent",
    "ChallengeRulesEngine",
    "ChallengeState",
    "ChallengeStatus",
    "ChallengeTerms",
    "Decision",
    "ErrorReason",
    "EventType",
    "Evidence",
    "Limits",
    "Outcome",
    "RecordedTrade",
    "Rule",
    "RuleEvaluation",
    "Trade",
    "TradeSubmission",
]
