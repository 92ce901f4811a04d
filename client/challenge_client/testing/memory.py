"""Challenges, trades and events in memory, decided by the rules that the service itself uses."""

import base64
import json
import threading
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from challenge_rules import (
    ChallengeEngine,
    ChallengeError,
    ChallengeEvent,
    ChallengeState,
    ChallengeStatus,
    ChallengeTerms,
    Decision,
    RecordedTrade,
    TradeSubmission,
)
from challenge_rules.engine import check_same_terms
from challenge_rules.errors import (
    ChallengeNotFoundError,
    CursorMismatchError,
    FieldViolation,
    SequenceNotFoundError,
    ValidationError,
)


@dataclass(slots=True)
class Account:
    """A challenge with its history: `states[n]` is the state right after trade n."""

    states: list[ChallengeState]
    trades: list[RecordedTrade] = field(default_factory=list)
    by_trade_id: dict[str, RecordedTrade] = field(default_factory=dict)

    @property
    def state(self) -> ChallengeState:
        """As it is now."""
        return self.states[-1]


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events a reader wants; empty means all."""

    challenge_ids: tuple[str, ...] = ()
    new_statuses: tuple[ChallengeStatus, ...] = ()

    def matches(self, event: ChallengeEvent) -> bool:
        """Whether an event is wanted."""
        return (not self.challenge_ids or event.challenge_id in self.challenge_ids) and (
            not self.new_statuses or event.new_status in self.new_statuses
        )

    def scope(self) -> list[list[str]]:
        """What a token of this filter is bound to."""
        return [sorted(set(self.challenge_ids)), sorted({status.value for status in self.new_statuses})]


class Memory:
    """All challenges of one fake server. Safe for threads. `clock` tells microseconds since 1970."""

    def __init__(self, clock: Callable[[], int], max_clock_skew: int) -> None:
        self._clock = clock
        self._max_clock_skew = max_clock_skew
        self._engine = ChallengeEngine()
        self._accounts: dict[str, Account] = {}
        self._events: list[ChallengeEvent] = []
        self._log_id = str(uuid.uuid4())
        self.changed = threading.Condition()
        """Held while anything changes, and notified when there are new events."""

    def now(self) -> int:
        """The moment, by the server's clock."""
        return self._clock()

    def create(self, terms: ChallengeTerms) -> tuple[ChallengeState, bool]:
        """A new challenge; or the one of that id and True, when its terms are the same."""
        with self.changed:
            known = self._accounts.get(terms.challenge_id)
            if known is not None:
                check_same_terms(known.state.terms, terms)
                return known.state, True
            state, event = self._engine.create(terms)
            self._accounts[terms.challenge_id] = Account([state])
            self._publish([event])
            return state, False

    def submit(self, submissions: Iterable[TradeSubmission]) -> list[Decision | ChallengeError]:
        """Decide trades in order."""
        answers: list[Decision | ChallengeError] = []
        with self.changed:
            for submission in submissions:
                try:
                    answers.append(self._decide(submission))
                except ChallengeError as error:
                    answers.append(error)
        return answers

    def get(self, challenge_id: str, at_sequence: int | None) -> ChallengeState:
        """A challenge now, or right after a trade."""
        with self.changed:
            account = self._account(challenge_id)
            if at_sequence is None:
                return account.state
            if at_sequence >= len(account.states):
                raise SequenceNotFoundError(
                    f"challenge {challenge_id} has no trade {at_sequence}; its last is {account.state.last_sequence}"
                )
            # What only the end of a challenge sets belongs to its last state alone; the rest stands in each.
            return account.states[at_sequence]

    def challenges(self) -> list[ChallengeState]:
        """All challenges, oldest first."""
        with self.changed:
            states = [account.state for account in self._accounts.values()]
        return sorted(states, key=lambda state: (state.terms.created_at, state.terms.challenge_id))

    def trades(self, challenge_id: str) -> list[RecordedTrade]:
        """The trades of a challenge, by sequence."""
        with self.changed:
            return list(self._account(challenge_id).trades)

    @property
    def end(self) -> int:
        """The last position of the log."""
        return len(self._events)

    def events(self, wanted: EventFilter, after: int, limit: int) -> tuple[list[tuple[int, ChallengeEvent]], int]:
        """At most so many events after a position, each with its own, and the last position of the log."""
        with self.changed:
            found: list[tuple[int, ChallengeEvent]] = []
            for position in range(after + 1, len(self._events) + 1):
                if len(found) == limit:
                    break
                event = self._events[position - 1]
                if wanted.matches(event):
                    found.append((position, event))
            return found, len(self._events)

    def cursor(self, wanted: EventFilter, position: int) -> str:
        """What stands for a position of this log under a filter."""
        return _sealed(["cursor", self._log_id, wanted.scope(), position])

    def position_of(self, wanted: EventFilter, cursor: str) -> int:
        """The position that a cursor stands for."""
        with self.changed:
            end = len(self._events)
        kind, *rest = _unsealed(cursor) or ["none"]
        if kind != "cursor" or rest[:2] != [self._log_id, wanted.scope()] or len(rest) < 3 or rest[2] > end:
            raise CursorMismatchError
        return int(rest[2])

    def _decide(self, submission: TradeSubmission) -> Decision:
        account = self._account(submission.challenge_id)
        now = self._clock()
        outcome = self._engine.decide(
            account.state,
            submission.trade,
            recorded_at=now,
            recorded=account.by_trade_id.get(submission.trade.trade_id),
            expected_sequence=submission.expected_sequence,
            latest_executed_at=now + self._max_clock_skew,
        )
        if submission.validate_only:
            return replace(outcome.decision, recorded_at=None)
        if not outcome.decision.replayed:
            recorded = RecordedTrade(submission.trade, outcome.decision, outcome.state.chain_head)
            account.states.append(outcome.state)
            account.trades.append(recorded)
            account.by_trade_id[submission.trade.trade_id] = recorded
            self._publish(outcome.events)
        return outcome.decision

    def _account(self, challenge_id: str) -> Account:
        account = self._accounts.get(challenge_id)
        if account is None:
            raise ChallengeNotFoundError(f"there is no challenge {challenge_id}")
        return account

    def _publish(self, events: Sequence[ChallengeEvent]) -> None:
        if events:
            self._events.extend(events)
            self.changed.notify_all()


def page_token(scope: object, last: Any) -> str:
    """The token of the page that begins behind the item of a key."""
    return _sealed(["page", scope, last])


def page_start(scope: object, token: str) -> Any:
    """The key behind which the page of a token begins; `ValidationError` when it is not one of this list."""
    kind, *rest = _unsealed(token) or ["none"]
    if kind != "page" or len(rest) != 2 or rest[0] != scope:
        description = "must be the next_page_token of the page before, with the same filters"
        raise ValidationError([FieldViolation("page_token", description)])
    return rest[1]


def _sealed(content: list[Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(content).encode()).decode()


def _unsealed(text: str) -> list[Any] | None:
    try:
        content = json.loads(base64.b64decode(text, altchars=b"-_", validate=True))
    except ValueError:
        return None
    return content if isinstance(content, list) and len(content) in {3, 4} else None
