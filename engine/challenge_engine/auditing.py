"""Decides the stored trades of a challenge again, and compares every decision, state, event and link with what is
stored. Pure: rows go in, findings come out.

Replay asks whether the rules give what is recorded; the chain, whether what is recorded is what was recorded at the
time. Both run over the same rows here, and both go on from what is stored after a finding, so that one altered row is
one finding and the next one is found as well.
"""

import struct
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import Any

from challenge_engine import rows
from challenge_rules import (
    ChallengeEngine,
    ChallengeError,
    ChallengeEvent,
    ChallengeRulesEngine,
    ChallengeState,
    ChallengeStatus,
    ChallengeTerms,
    EventType,
    Trade,
)
from challenge_rules.chain import trade_link
from challenge_rules.challenge import Decision
from challenge_rules.timestamps import trading_day


class Fault(StrEnum):
    """What can be wrong."""

    MISSING = "MISSING"
    """A row that must be there is not."""
    UNEXPECTED = "UNEXPECTED"
    """A row that nothing accounts for."""
    DECISION = "DECISION"
    """The rules decide otherwise than is recorded."""
    CHAIN = "CHAIN"
    """A row is not the one that was chained."""
    STATE = "STATE"
    """The challenge's row is not the state that its trades lead to."""
    EVENT = "EVENT"
    """An event is not the one that its cause leads to."""
    UNREADABLE = "UNREADABLE"
    """A row holds what no release has written."""
    SEAL = "SEAL"
    """What was sealed is not what is stored."""
    CHECKPOINT = "CHECKPOINT"
    """A checkpoint is not one of this tree, or not signed by a known key."""
    ARCHIVE = "ARCHIVE"
    """An archive is missing, or not the one that was recorded."""
    LOG = "LOG"
    """The log of events has a gap, or an event has no place in it."""


MAX_NAMED = 100
"""Of a gap so many missing trades are named one by one."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong: what, where, and in words. `sequence` is the trade's, 0 for the creation."""

    fault: Fault
    challenge_id: str | None
    sequence: int | None
    message: str


@dataclass(slots=True)
class StoredChallenge:
    """All rows of one challenge.

    `row` is of `queries.CHALLENGE_COLUMNS` with the archive's id, `events` of `queries.EVENT_COLUMNS` with their link,
    `trades` of `queries.TRADE_COLUMNS` with the initial balance that each repeats.
    """

    challenge_id: str
    row: rows.Row | None
    events: Sequence[rows.Row]
    trades: Iterable[rows.Row]
    compares_row: bool = True
    """Whether the row is to be compared; if not, it is not even looked at."""

    @property
    def archive_id(self) -> str | None:
        """The archive that holds the trades, once they are there and no longer here."""
        return None if self.row is None else self.row[-1]


@dataclass(slots=True)
class Audited:
    """What the audit of one challenge comes to. `state` is what its events and trades lead to; None if they cannot."""

    challenge_id: str
    findings: list[Finding]
    trade_count: int = 0
    event_count: int = 0
    state: ChallengeState | None = None


class Auditor:
    """Audits challenges one after the other, each by the rules version it was created with."""

    def __init__(self) -> None:
        self._engines: dict[int, ChallengeEngine] = {}

    def audit(self, stored: StoredChallenge) -> Audited:
        """Everything that is wrong with one challenge, by its own rows alone.

        Rows that were tampered with may hold anything; whatever they make this stumble over is a finding as well.
        """
        audit = _Audit(stored, self._engine)
        try:
            return audit.run()
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, struct.error) as error:
            return audit.stumble(error)

    def _engine(self, rules_version: int) -> ChallengeEngine:
        engine = self._engines.get(rules_version)
        if engine is None:
            engine = self._engines[rules_version] = ChallengeEngine(ChallengeRulesEngine(rules_version))
        return engine


class _Audit:
    def __init__(self, stored: StoredChallenge, engine: Any) -> None:
        self._stored = stored
        self._engine_of = engine
        self._audited = Audited(stored.challenge_id, [])
        self._caused: dict[int, list[ChallengeEvent]] = defaultdict(list)
        self._texts: dict[int, tuple[str, str | None]] = {}
        self._at = 0

    def stumble(self, error: Exception) -> Audited:
        """The audit as far as it came, with a row that is like none that any release has written."""
        self._find(Fault.UNREADABLE, self._at, f"a row cannot be decided on: {type(error).__name__}: {error}")
        self._audited.state = None
        return self._audited

    def run(self) -> Audited:
        created = self._read_events()
        terms = self._terms_of_row() if created is None else created[0].terms
        if terms is None:
            self._find_orphans()
            return self._audited
        try:
            engine = self._engine_of(terms.rules_version)
        except ValueError as error:
            self._find(Fault.UNREADABLE, 0, str(error))
            return self._audited
        state, event = engine.create(terms)
        if created is None:
            self._find(Fault.MISSING, 0, "there is no CHALLENGE_CREATED event")
        else:
            stored_event, stored_link = created
            if not rows.is_as_stored(event, self._texts[1]):
                self._find(Fault.EVENT, 0, "CHALLENGE_CREATED has other JSON than it was stored with")
            if stored_event != event:
                self._find(Fault.EVENT, 0, f"CHALLENGE_CREATED differs in {_differing(stored_event, event)}")
            if stored_link != state.chain_head:
                self._find(Fault.CHAIN, 0, "the creation is not the one that was chained")
                state = replace(state, chain_head=stored_link or bytes(32))
        if self._stored.archive_id is not None:
            self._find_what_archiving_left()
        else:
            state = self._replay(engine, state)
            self._find_uncaused(state.last_sequence)
            if self._stored.compares_row:
                self._compare_row(state)
            self._audited.state = state
        return self._audited

    def _read_events(self) -> tuple[ChallengeEvent, bytes | None] | None:
        """The creation with its link; the other events are put beside the trades that caused them."""
        created = None
        for *row, link in self._stored.events:
            self._audited.event_count += 1
            self._texts[row[1]] = row[9], row[10]
            try:
                if link is not None and row[2] != EventType.CHALLENGE_CREATED:
                    raise ValueError("it has a link of its own")
                event = rows.event_from_row(row)
                if event.occurred_at is None or event.recorded_at is None:
                    raise ValueError("a moment that is not finite")
            except (KeyError, ValueError, TypeError) as error:
                self._find(Fault.UNREADABLE, row[7] or 0, f"event {row[1]} cannot be read: {error!r}")
                continue
            if event.event_type is EventType.CHALLENGE_CREATED and event.terms is not None and created is None:
                created = event, link
            else:
                self._caused[event.trade_sequence or 0].append(event)
        return created

    def _terms_of_row(self) -> ChallengeTerms | None:
        """The terms by the challenge's row, where the event that should tell them is missing."""
        if self._stored.row is None or not self._stored.compares_row:
            return None
        try:
            return rows.challenge_from_row(self._stored.row[:-1]).terms
        except (KeyError, ValueError, TypeError):
            return None

    def _find_what_archiving_left(self) -> None:
        """An archived challenge has ended, and has no trades here."""
        assert self._stored.row is not None
        status, last_sequence = self._stored.row[1], self._stored.row[14]
        if status not in ENDED:
            self._find(Fault.ARCHIVE, last_sequence, f"it is archived, but {status}")
        for row in self._stored.trades:
            self._audited.trade_count += 1
            self._find(Fault.UNEXPECTED, row[1], "a trade of a challenge that is archived")

    def _find_orphans(self) -> None:
        self._find(Fault.MISSING, 0, "there are no terms, so that nothing of it can be decided again")
        for row in self._stored.trades:
            self._audited.trade_count += 1
            self._find(Fault.UNEXPECTED, row[1], "a trade of a challenge that has no creation")

    def _replay(self, engine: ChallengeEngine, state: ChallengeState) -> ChallengeState:
        for *row, initial_balance in self._stored.trades:
            self._audited.trade_count += 1
            sequence = self._at = row[1]
            gap = sequence > state.last_sequence + 1
            if gap:
                self._find_missing(state.last_sequence + 1, sequence - 1)
                for missing in sorted(number for number in self._caused if state.last_sequence < number < sequence):
                    state = self._count_events_of(missing, state)
            try:
                trade, stored, link = _trade_from_row(row)
                is_balance = _exact(initial_balance) == state.terms.initial_balance
            except (KeyError, ValueError, TypeError) as error:
                self._find(Fault.UNREADABLE, sequence, f"trade {sequence} cannot be read: {error!r}")
                state = replace(state, last_sequence=sequence)
                continue
            if not is_balance:
                self._find(Fault.DECISION, sequence, "its initial_balance is not the challenge's")
            if gap:
                # Nothing tells what it was decided on; the next is decided on what it left.
                state = self._as_stored(state, trade, stored, link)
                continue
            state = self._decide_again(engine, state, trade, stored, link)
        return state

    def _decide_again(
        self, engine: ChallengeEngine, state: ChallengeState, trade: Trade, stored: Decision, link: bytes
    ) -> ChallengeState:
        sequence = stored.sequence
        assert stored.recorded_at is not None
        try:
            outcome = engine.decide(state, trade, recorded_at=stored.recorded_at)
        except ChallengeError as error:
            self._find(Fault.DECISION, sequence, f"the rules refuse it: {error.reason}, {error}")
            return self._as_stored(state, trade, stored, link)
        caused = self._caused.pop(sequence, [])
        if (
            outcome.state.chain_head == link
            and _same(outcome.decision, stored)
            and tuple(caused) == outcome.events
            and all(rows.is_as_stored(event, self._texts[event.challenge_sequence]) for event in outcome.events)
        ):
            return outcome.state
        found = len(self._audited.findings)
        if not _same(outcome.decision, stored):
            names = [name for name in DECIDED if getattr(outcome.decision, name) != getattr(stored, name)]
            self._find(Fault.DECISION, sequence, f"the rules decide another {' and '.join(names)}")
        self._compare_events(sequence, caused, outcome.events)
        self._caused[sequence] = caused
        after = self._as_stored(state, trade, stored, link)
        if _same(outcome.decision, stored):
            # An event that is missing was counted when the trade was chained.
            after = replace(after, event_count=outcome.state.event_count)
        if self._link(state, after, trade, stored, caused) != link:
            self._find(Fault.CHAIN, sequence, "it is not the trade, state or event that was chained")
        elif len(self._audited.findings) == found:
            self._find(Fault.CHAIN, sequence, "its link follows from another state than that of the rules")
        return after

    def _link(
        self,
        before: ChallengeState,
        after: ChallengeState,
        trade: Trade,
        stored: Decision,
        caused: Sequence[ChallengeEvent],
    ) -> bytes | None:
        """The link of a trade as everything about it is stored; None for what no link can hold."""
        try:
            return trade_link(
                before.chain_head,
                before.terms,
                trade,
                stored,
                event_count=after.event_count,
                activated_at=after.activated_at or 0,
                events=caused,
            )
        except (OverflowError, ValueError, KeyError, UnicodeEncodeError):
            return None

    def _as_stored(self, state: ChallengeState, trade: Trade, stored: Decision, link: bytes) -> ChallengeState:
        """The state after a trade by what is stored with it, to go on from."""
        caused = self._caused.pop(stored.sequence, [])
        return replace(
            state,
            status=stored.status,
            status_reason=stored.reason,
            equity=stored.equity,
            peak_equity=stored.peak_equity,
            daily_start_equity=stored.daily_start_equity,
            trading_day=trading_day(trade.executed_at),
            last_sequence=stored.sequence,
            event_count=state.event_count + len(caused),
            activated_at=trade.executed_at if state.activated_at is None else state.activated_at,
            closed_at=trade.executed_at if stored.status.is_terminal else None,
            last_executed_at=trade.executed_at,
            chain_head=link,
        )

    def _count_events_of(self, missing: int, state: ChallengeState) -> ChallengeState:
        """The state with what the events of a missing trade tell of it."""
        for event in self._caused.pop(missing, []):
            state = replace(state, event_count=state.event_count + 1)
            if event.new_status is ChallengeStatus.ACTIVE:
                state = replace(state, activated_at=event.occurred_at)
        return state

    def _compare_events(
        self, sequence: int, stored: Sequence[ChallengeEvent], expected: Sequence[ChallengeEvent]
    ) -> None:
        by_number = {event.challenge_sequence: event for event in stored}
        for event in expected:
            found = by_number.pop(event.challenge_sequence, None)
            if found is None:
                self._find(Fault.MISSING, sequence, f"event {event.challenge_sequence} is missing")
            elif found != event:
                names = _differing(found, event)
                self._find(Fault.EVENT, sequence, f"event {event.challenge_sequence} differs in {names}")
            elif not rows.is_as_stored(event, self._texts[event.challenge_sequence]):
                message = f"event {event.challenge_sequence} has other JSON than it was stored with"
                self._find(Fault.EVENT, sequence, message)
        for number in by_number:
            self._find(Fault.UNEXPECTED, sequence, f"event {number} was not caused by this trade")

    def _find_uncaused(self, last_sequence: int) -> None:
        for sequence, events in sorted(self._caused.items()):
            for event in events:
                what = f"trade {sequence}, which is not there" if sequence > last_sequence else f"trade {sequence}"
                self._find(Fault.UNEXPECTED, sequence, f"event {event.challenge_sequence} names {what}")

    def _compare_row(self, state: ChallengeState) -> None:
        row = self._stored.row
        if row is None:
            self._find(Fault.MISSING, state.last_sequence, "there is no row of it in challenges")
            return
        try:
            stored = rows.challenge_from_row(row[:-1])
        except (KeyError, ValueError, TypeError) as error:
            self._find(Fault.UNREADABLE, state.last_sequence, f"its row in challenges cannot be read: {error!r}")
            return
        self._find_missing(state.last_sequence + 1, stored.last_sequence)
        if stored != state and stored.last_sequence <= state.last_sequence:
            self._find(
                Fault.STATE, state.last_sequence, f"its row in challenges differs in {_differing(stored, state)}"
            )

    def _find_missing(self, first: int, last: int) -> None:
        """Name the trades that are missing one by one, but of very many only the first ones and the range."""
        for missing in range(first, min(last, first + MAX_NAMED - 1) + 1):
            self._find(Fault.MISSING, missing, f"trade {missing} is missing")
        if last >= first + MAX_NAMED:
            self._find(Fault.MISSING, last, f"trades {first + MAX_NAMED} to {last} are missing")

    def _find(self, fault: Fault, sequence: int | None, message: str) -> None:
        self._audited.findings.append(Finding(fault, self._stored.challenge_id, sequence, message))


ENDED = {status.value for status in ChallengeStatus if status.is_terminal}

DECIDED = (
    "previous_status", "status", "reason", "equity", "peak_equity", "daily_start_equity", "sequence", "executed_at",
    "recorded_at", "trade_id",
)  # fmt: skip
"""What is stored of a decision; its evidence follows from that."""


def _same(decided: Decision, stored: Decision) -> bool:
    return (
        decided.equity == stored.equity
        and decided.status is stored.status
        and decided.peak_equity == stored.peak_equity
        and decided.daily_start_equity == stored.daily_start_equity
        and decided.previous_status is stored.previous_status
        and decided.reason is stored.reason
        and decided.sequence == stored.sequence
    )


def _differing(one: Any, other: Any) -> str:
    names: Iterator[str] = (each.name for each in fields(one) if getattr(one, each.name) != getattr(other, each.name))
    return ", ".join(names)


def _exact(text: str) -> int:
    """Units of an amount with its eight decimals, as a column of numeric(24, 8) shows it and no other does."""
    if text[-9:-8] != ".":
        raise ValueError(f"{text} has not eight decimals")
    return rows.units(text)


def _trade_from_row(row: rows.Row) -> tuple[Trade, Decision, bytes]:
    """A trade and its decision as stored, without the evidence, which nothing is compared with."""
    (
        challenge_id, sequence, trade_id, realized_pnl, executed_at, symbol, equity, peak_equity, daily_start_equity,
        previous_status, status, reason, recorded_at, link,
    ) = row  # fmt: skip
    if executed_at is None or recorded_at is None:
        raise ValueError("a moment that is not finite")
    decision = Decision(
        challenge_id=challenge_id,
        trade_id=trade_id,
        sequence=sequence,
        replayed=False,
        previous_status=rows.status(previous_status),
        status=rows.status(status),
        reason=rows.rule(reason),
        equity=_exact(equity),
        peak_equity=_exact(peak_equity),
        daily_start_equity=_exact(daily_start_equity),
        evaluations=(),
        executed_at=executed_at,
        recorded_at=recorded_at,
    )
    return Trade(trade_id, _exact(realized_pnl), executed_at, symbol), decision, link
