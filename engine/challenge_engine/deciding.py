"""Decides a group of trades on the states that were read for it. Pure: the writer reads before and writes after."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace

from challenge_engine.submissions import Answer, WaitingTrade
from challenge_engine.waiting import Group
from challenge_rules import (
    ChallengeEngine,
    ChallengeError,
    ChallengeEvent,
    ChallengeRulesEngine,
    ChallengeState,
    RecordedTrade,
)
from challenge_rules.errors import ChallengeArchivedError, ChallengeNotFoundError

Recorded = dict[tuple[str, str], RecordedTrade]
"""Accepted trades by challenge_id and trade_id."""


@dataclass(slots=True)
class Decided:
    """What one group comes to: the answers, and all that has to be written before they may be given."""

    answers: list[tuple[WaitingTrade, Answer]] = field(default_factory=list)
    accepted: list[tuple[RecordedTrade, int]] = field(default_factory=list)
    moved: dict[str, tuple[int, ChallengeState]] = field(default_factory=dict)
    events: list[ChallengeEvent] = field(default_factory=list)

    @property
    def all_accepted(self) -> bool:
        """Whether every trade was a new one, and none was refused."""
        return len(self.accepted) == len(self.answers)


class GroupDecider:
    """Runs the pure engine over groups, each challenge by the rules version it was made with."""

    def __init__(self, *, clock: Callable[[], int], max_clock_skew: int) -> None:
        self._clock = clock
        self._max_clock_skew = max_clock_skew
        self._engines: dict[int, ChallengeEngine] = {}

    def engine(self, rules_version: int) -> ChallengeEngine:
        """The engine of a rules version; `ValueError` for one this release does not know."""
        engine = self._engines.get(rules_version)
        if engine is None:
            engine = self._engines[rules_version] = ChallengeEngine(ChallengeRulesEngine(rules_version))
        return engine

    def decide(
        self,
        group: Group,
        states: Mapping[str, ChallengeState],
        recorded: Recorded,
        archived: Collection[str] = frozenset(),
    ) -> Decided:
        """Decide every trade of the group in order. `recorded` gains the trades accepted on the way.

        Of `archived` challenges it cannot be told whether a trade was accepted before.
        """
        decided = Decided()
        now = self._clock()
        for challenge_id, waiting_trades in group.items():
            state = states.get(challenge_id)
            if state is None:
                not_found = ChallengeNotFoundError(f"there is no challenge {challenge_id}")
                decided.answers.extend((waiting, not_found) for waiting in waiting_trades)
                continue
            if challenge_id in archived:
                decided.answers.extend((waiting, _archived(challenge_id)) for waiting in waiting_trades)
                continue
            read_version = state.version
            for waiting in waiting_trades:
                try:
                    state = self._decide_one(waiting, state, recorded, decided, now)
                except ChallengeError as error:
                    decided.answers.append((waiting, error))
            if state.version != read_version:
                decided.moved[challenge_id] = (read_version, state)
        return decided

    def _decide_one(
        self, waiting: WaitingTrade, state: ChallengeState, recorded: Recorded, decided: Decided, now: int
    ) -> ChallengeState:
        submission = waiting.submission
        trade = submission.trade
        key = (submission.challenge_id, trade.trade_id)
        outcome = self.engine(state.terms.rules_version).decide(
            state,
            trade,
            recorded_at=now,
            recorded=recorded.get(key),
            expected_sequence=submission.expected_sequence,
            latest_executed_at=now + self._max_clock_skew,
        )
        decision = outcome.decision
        if submission.validate_only:
            decided.answers.append((waiting, replace(decision, recorded_at=None)))
            return state
        if decision.replayed:
            decided.answers.append((waiting, decision))
            return state
        accepted = RecordedTrade(trade, decision, outcome.state.chain_head)
        recorded[key] = accepted
        decided.answers.append((waiting, decision))
        decided.accepted.append((accepted, state.terms.initial_balance))
        decided.events.extend(outcome.events)
        return outcome.state


def _archived(challenge_id: str) -> ChallengeArchivedError:
    return ChallengeArchivedError(f"the trades of challenge {challenge_id} have been archived")
