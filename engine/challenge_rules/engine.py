"""The state machine: one trade in, one decision out.

Live traffic, dry runs, replay and proofs all call this code, so that they cannot disagree.
"""

from dataclasses import dataclass, fields, replace

from challenge_rules import errors
from challenge_rules.chain import creation_link, trade_link
from challenge_rules.challenge import ChallengeState, ChallengeTerms, Decision, RecordedTrade, Trade
from challenge_rules.events import ChallengeEvent, EventType
from challenge_rules.limits import Limits
from challenge_rules.money import MAX_AMOUNT
from challenge_rules.rules import ChallengeRulesEngine, Evidence, Rule
from challenge_rules.status import ChallengeStatus
from challenge_rules.timestamps import to_iso, trading_day


@dataclass(frozen=True, slots=True)
class Outcome:
    """A decision, the state after it, and the events it caused (none for a replay)."""

    decision: Decision
    state: ChallengeState
    events: tuple[ChallengeEvent, ...]


class ChallengeEngine:
    """Applies trades to challenges. Pure: no I/O, no clock, no randomness."""

    def __init__(self, rules: ChallengeRulesEngine | None = None) -> None:
        self.rules = rules or ChallengeRulesEngine()

    def create(self, terms: ChallengeTerms) -> tuple[ChallengeState, ChallengeEvent]:
        """A new challenge in status PENDING, and its CHALLENGE_CREATED event."""
        event = _creation(terms)
        return _created(terms, event), event

    def decide(
        self,
        state: ChallengeState,
        trade: Trade,
        *,
        recorded_at: int,
        recorded: RecordedTrade | None = None,
        expected_sequence: int | None = None,
        latest_executed_at: int | None = None,
    ) -> Outcome:
        """Decide one valid trade of a known challenge.

        `recorded` is the trade accepted earlier under the same trade_id, if any; `recorded_at` the moment the decision
        is recorded; `latest_executed_at` the latest moment not yet refused as the future (None in replay, which never
        looks at a clock). The checks below stand in their binding order.

        Raises `TradeIdReusedError`, `ChallengeTerminalError`, `TradeInFutureError`, `TradeOutOfOrderError`,
        `SequenceMismatchError` or `EquityOutOfRangeError`; the state is then unchanged. A challenge made with another
        version of the rules than this engine's is a plain `ValueError`.
        """
        if state.terms.rules_version != self.rules.version:
            raise ValueError(
                f"challenge {state.terms.challenge_id} is decided by rules version {state.terms.rules_version},"
                f" not {self.rules.version}"
            )
        if recorded is not None:
            return Outcome(replay(recorded, trade), state, ())
        if state.status.is_terminal:
            raise errors.ChallengeTerminalError(
                f"the challenge has ended: it is {state.status} and accepts no more trades", status=state.status
            )
        if latest_executed_at is not None and trade.executed_at > latest_executed_at:
            raise errors.TradeInFutureError(
                f"executed_at {to_iso(trade.executed_at)} is ahead of the server's clock;"
                f" the latest allowed now is {to_iso(latest_executed_at)}"
            )
        if state.last_executed_at is not None and trade.executed_at <= state.last_executed_at:
            last = to_iso(state.last_executed_at)
            raise errors.TradeOutOfOrderError(
                f"executed_at {to_iso(trade.executed_at)} is not after the last accepted trade at {last}",
                last_executed_at=last,
            )
        sequence = state.last_sequence + 1
        if expected_sequence is not None and expected_sequence != sequence:
            raise errors.SequenceMismatchError(
                f"expected_sequence is {expected_sequence}, but this trade would get {sequence}",
                next_sequence=str(sequence),
            )
        return self._apply(state, trade, sequence, recorded_at)

    def _apply(self, state: ChallengeState, trade: Trade, sequence: int, recorded_at: int) -> Outcome:
        terms = state.terms
        day = trading_day(trade.executed_at)
        daily_start_equity = state.daily_start_equity if day == state.trading_day else state.equity
        equity = max(0, state.equity + trade.realized_pnl)
        if equity > MAX_AMOUNT:
            raise errors.EquityOutOfRangeError("the trade would lift the equity beyond 16 digits before the point")
        peak_equity = max(state.peak_equity, equity)
        evidence = self.rules.evaluate(
            terms.limits,
            initial_balance=terms.initial_balance,
            daily_start_equity=daily_start_equity,
            peak_equity=peak_equity,
            equity=equity,
        )
        status = ChallengeStatus.ACTIVE if evidence.deciding is None else evidence.deciding.verdict
        decision = Decision(
            challenge_id=terms.challenge_id,
            trade_id=trade.trade_id,
            sequence=sequence,
            replayed=False,
            previous_status=state.status,
            status=status,
            reason=evidence.deciding,
            equity=equity,
            peak_equity=peak_equity,
            daily_start_equity=daily_start_equity,
            evaluations=evidence.evaluations,
            executed_at=trade.executed_at,
            recorded_at=recorded_at,
        )
        events = _status_changes(state, decision)
        event_count = state.event_count + len(events)
        activated_at = trade.executed_at if state.activated_at is None else state.activated_at
        after = ChallengeState(
            terms=terms,
            status=status,
            status_reason=evidence.deciding,
            equity=equity,
            peak_equity=peak_equity,
            daily_start_equity=daily_start_equity,
            trading_day=day,
            last_sequence=sequence,
            event_count=event_count,
            activated_at=activated_at,
            closed_at=trade.executed_at if status.is_terminal else None,
            last_executed_at=trade.executed_at,
            chain_head=trade_link(
                state.chain_head,
                terms,
                trade,
                decision,
                event_count=event_count,
                activated_at=activated_at,
                events=events,
            ),
        )
        return Outcome(decision, after, events)

    def evidence(self, terms: ChallengeTerms, decided: Decision | ChallengeState) -> Evidence:
        """The evidence that belongs to the figures of a decision or a state: it follows from them alone."""
        return self.rules.evaluate(
            terms.limits,
            initial_balance=terms.initial_balance,
            daily_start_equity=decided.daily_start_equity,
            peak_equity=decided.peak_equity,
            equity=decided.equity,
        )


def initial_state(terms: ChallengeTerms) -> ChallengeState:
    """The state of a challenge as created: PENDING, and counting its CHALLENGE_CREATED event."""
    return _created(terms, _creation(terms))


def _created(terms: ChallengeTerms, event: ChallengeEvent) -> ChallengeState:
    return ChallengeState(
        terms=terms,
        status=ChallengeStatus.PENDING,
        status_reason=None,
        equity=terms.initial_balance,
        peak_equity=terms.initial_balance,
        daily_start_equity=terms.initial_balance,
        trading_day=None,
        last_sequence=0,
        event_count=1,
        activated_at=None,
        closed_at=None,
        last_executed_at=None,
        chain_head=creation_link(event),
    )


def _creation(terms: ChallengeTerms) -> ChallengeEvent:
    return ChallengeEvent(
        challenge_id=terms.challenge_id,
        challenge_sequence=1,
        event_type=EventType.CHALLENGE_CREATED,
        old_status=None,
        new_status=ChallengeStatus.PENDING,
        reason=None,
        trade_id=None,
        trade_sequence=None,
        equity=terms.initial_balance,
        evaluations=(),
        occurred_at=terms.created_at,
        recorded_at=terms.created_at,
        terms=terms,
    )


def replay(recorded: RecordedTrade, trade: Trade) -> Decision:
    """The recorded decision for the same trade sent again; `TradeIdReusedError` when the content differs."""
    first = recorded.trade
    differing = [
        name
        for name, before, now in (
            ("realized_pnl", first.realized_pnl, trade.realized_pnl),
            ("executed_at", first.executed_at, trade.executed_at),
            ("symbol", first.symbol, trade.symbol),
        )
        if before != now
    ]
    if differing:
        raise errors.TradeIdReusedError(
            f"trade_id {trade.trade_id!r} was accepted before with another {' and '.join(differing)}",
            differing_fields=",".join(differing),
        )
    return replace(recorded.decision, replayed=True)


def check_same_terms(existing: ChallengeTerms, asked: ChallengeTerms) -> None:
    """Whether a challenge may be answered for one asked for again; `ChallengeExistsError` names what differs.

    Compared without `created_at` and `rules_version`, which the caller does not choose.
    """
    differing = [
        name
        for name, differs in (
            ("initial_balance", existing.initial_balance != asked.initial_balance),
            *(
                (f"limits.{limit.name}", getattr(existing.limits, limit.name) != getattr(asked.limits, limit.name))
                for limit in fields(Limits)
            ),
            ("currency_code", existing.currency_code != asked.currency_code),
            ("labels", existing.labels != asked.labels),
        )
        if differs
    ]
    if differing:
        raise errors.ChallengeExistsError(
            f"challenge {asked.challenge_id} exists with another {' and '.join(differing)}",
            differing_fields=",".join(differing),
        )


def _status_changes(before: ChallengeState, decision: Decision) -> tuple[ChallengeEvent, ...]:
    """The events of one decision: none, one, or for a decisive first trade two."""
    steps: list[tuple[ChallengeStatus, ChallengeStatus, Rule | None]] = []
    if before.status is ChallengeStatus.PENDING:
        steps.append((ChallengeStatus.PENDING, ChallengeStatus.ACTIVE, None))
    if decision.status is not ChallengeStatus.ACTIVE:
        steps.append((ChallengeStatus.ACTIVE, decision.status, decision.reason))
    if not steps:
        return ()
    assert decision.recorded_at is not None
    return tuple(
        ChallengeEvent(
            challenge_id=decision.challenge_id,
            challenge_sequence=before.event_count + number,
            event_type=EventType.CHALLENGE_STATUS_CHANGED,
            old_status=old_status,
            new_status=new_status,
            reason=reason,
            trade_id=decision.trade_id,
            trade_sequence=decision.sequence,
            equity=decision.equity,
            evaluations=decision.evaluations,
            occurred_at=decision.executed_at,
            recorded_at=decision.recorded_at,
        )
        for number, (old_status, new_status, reason) in enumerate(steps, start=1)
    )
