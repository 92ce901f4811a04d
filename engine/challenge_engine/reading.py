"""Reads challenges and their trades."""

import json
from dataclasses import dataclass, replace

from challenge_engine import queries, rows
from challenge_engine.database import Database
from challenge_engine.paging import fitting, size_of_labels
from challenge_engine.tokens import seal, unseal_page
from challenge_rules import ChallengeEngine, ChallengeRulesEngine, ChallengeState, ChallengeStatus, RecordedTrade
from challenge_rules.engine import initial_state
from challenge_rules.errors import ChallengeArchivedError, ChallengeNotFoundError, SequenceNotFoundError
from challenge_rules.rules import RuleEvaluation
from challenge_rules.timestamps import to_iso, trading_day

CHALLENGES = "challenges"
TRADES = "trades"
LAST_OF_ALL = 2**63 - 1


@dataclass(frozen=True, slots=True)
class ChallengeView:
    """A challenge with the evidence of its latest trade (none while PENDING)."""

    state: ChallengeState
    evaluations: tuple[RuleEvaluation, ...]


@dataclass(frozen=True, slots=True)
class ChallengeFilter:
    """Which challenges a reader wants; all that is set must hold. Moments are microseconds."""

    statuses: tuple[ChallengeStatus, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    closed_at_from: int | None = None
    closed_at_before: int | None = None

    def scope(self) -> list[object]:
        """What a page token of this filter is bound to."""
        statuses = sorted({status.value for status in self.statuses})
        return [statuses, dict(self.labels), self.closed_at_from, self.closed_at_before]


def view(state: ChallengeState) -> ChallengeView:
    """A challenge with its evidence, which follows from its figures by the rules it was made with."""
    if state.status is ChallengeStatus.PENDING:
        return ChallengeView(state, ())
    engine = ChallengeEngine(ChallengeRulesEngine(state.terms.rules_version))
    return ChallengeView(state, engine.evidence(state.terms, state).evaluations)


class ChallengeReader:
    """Answers questions about challenges and trades from the database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, challenge_id: str, at_sequence: int | None = None) -> ChallengeView:
        """A challenge now, or right after one of its trades (0: as created).

        Raises `ChallengeNotFoundError`, `SequenceNotFoundError` for a trade it does not have, or
        `ChallengeArchivedError` for one that is in an archive.
        """
        state = await self._state(challenge_id)
        if at_sequence is None or at_sequence == state.last_sequence:
            return view(state)
        if at_sequence == 0:
            return view(initial_state(state.terms))
        # Trades that came after the state was read are left to the next question: the two must belong together.
        if at_sequence > state.last_sequence:
            raise SequenceNotFoundError(
                f"challenge {challenge_id} has no trade {at_sequence}; its last is {state.last_sequence}"
            )
        found = await self._database.fetch(queries.GET_TRADE, {"challenge_id": challenge_id, "sequence": at_sequence})
        if not found:
            await self._require_trades(state)
        return view(_state_after(state, self._recorded(found[0], state)))

    async def list_challenges(
        self, wanted: ChallengeFilter, *, limit: int, page_token: str
    ) -> tuple[list[ChallengeView], str]:
        """A page of challenges, oldest first, and the token of the next page (empty on the last)."""
        conditions = ["true"]
        parameters: dict[str, object] = {"limit": limit + 1}
        for value, condition, name, parameter in (
            (wanted.statuses, queries.CHALLENGES_WITH_STATUS, "statuses", [s.value for s in wanted.statuses]),
            (wanted.labels, queries.CHALLENGES_WITH_LABELS, "labels", json.dumps(dict(wanted.labels))),
            (wanted.closed_at_from is not None, queries.CHALLENGES_CLOSED_FROM, "closed_from",
             None if wanted.closed_at_from is None else to_iso(wanted.closed_at_from)),
            (wanted.closed_at_before is not None, queries.CHALLENGES_CLOSED_BEFORE, "closed_before",
             None if wanted.closed_at_before is None else to_iso(wanted.closed_at_before)),
        ):  # fmt: skip
            if value:
                conditions.append(condition)
                parameters[name] = parameter
        if page_token:
            created_at, challenge_id = unseal_page(CHALLENGES, wanted.scope(), page_token)
            conditions.append(queries.CHALLENGES_AFTER)
            parameters |= {"after_created": to_iso(created_at), "after_id": challenge_id}
        found = await self._database.fetch(
            queries.LIST_CHALLENGES.format(conditions=" AND ".join(conditions)), parameters
        )
        states = [rows.challenge_from_row(row) for row in found[:limit]]
        states = states[: fitting(states, lambda state: size_of_labels(state.terms))]
        token = ""
        if len(found) > len(states):
            last = states[-1].terms
            token = seal(CHALLENGES, wanted.scope(), [last.created_at, last.challenge_id])
        return [view(state) for state in states], token

    async def list_trades(
        self, challenge_id: str, *, first: int, last: int, limit: int, page_token: str
    ) -> tuple[list[RecordedTrade], str]:
        """A page of a challenge's trades `first` to `last` (0: to its end), and the token of the next page.

        Raises `ChallengeNotFoundError`, or `ChallengeArchivedError` when they are in an archive.
        """
        scope = [challenge_id, first, last]
        start = unseal_page(TRADES, scope, page_token)[0] + 1 if page_token else first
        state = await self._state(challenge_id)
        found = await self._database.fetch(
            queries.LIST_TRADES,
            {"challenge_id": challenge_id, "first": start, "last": last or LAST_OF_ALL, "limit": limit + 1},
        )
        if not found:
            await self._require_trades(state)
        trades = [self._recorded(row, state) for row in found[:limit]]
        token = seal(TRADES, scope, [trades[-1].decision.sequence]) if len(found) > limit else ""
        return trades, token

    async def _state(self, challenge_id: str) -> ChallengeState:
        found = await self._database.fetch(queries.GET_CHALLENGE, {"challenge_id": challenge_id})
        if not found:
            raise ChallengeNotFoundError(f"there is no challenge {challenge_id}")
        return rows.challenge_from_row(found[0])

    async def _require_trades(self, state: ChallengeState) -> None:
        """Raise `ChallengeArchivedError` if a challenge has no trades here because they are in an archive."""
        challenge_id = state.terms.challenge_id
        if state.status.is_terminal and await self._database.fetch(queries.IS_ARCHIVED, {"challenge_id": challenge_id}):
            raise ChallengeArchivedError(f"the trades of challenge {challenge_id} have been archived")

    @staticmethod
    def _recorded(row: rows.Row, state: ChallengeState) -> RecordedTrade:
        engine = ChallengeEngine(ChallengeRulesEngine(state.terms.rules_version))
        return rows.trade_from_row(row, state.terms, engine)


def _state_after(now: ChallengeState, recorded: RecordedTrade) -> ChallengeState:
    """The state right after an earlier trade, from its recorded figures.

    Before its last trade a challenge was ACTIVE, and its events were CHALLENGE_CREATED and PENDING to ACTIVE.
    """
    decision = recorded.decision
    return replace(
        now,
        status=decision.status,
        status_reason=decision.reason,
        equity=decision.equity,
        peak_equity=decision.peak_equity,
        daily_start_equity=decision.daily_start_equity,
        trading_day=trading_day(decision.executed_at),
        last_sequence=decision.sequence,
        event_count=2,
        closed_at=None,
        last_executed_at=decision.executed_at,
        chain_head=recorded.chain_hash,
    )
