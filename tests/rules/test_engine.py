"""The state machine: one trade in, one decision out, in V2's order of work (V1–V9, V11, V12, V14)."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import combinations, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from challenge_rules import (
    ChallengeEngine,
    ChallengeError,
    ChallengeEvent,
    ChallengeState,
    ChallengeStatus,
    Decision,
    ErrorReason,
    EventType,
    Rule,
    RuleEvaluation,
    Trade,
)
from challenge_rules.chain import creation_link
from challenge_rules.engine import initial_state
from challenge_rules.money import MAX_AMOUNT, format_amount
from tests.rules.account import (
    CHALLENGE_ID,
    CREATED_AT,
    RECORDED_AT,
    Account,
    microseconds,
    moment,
    terms,
    units,
)
from tests.rules.model import ModelChallenge, wire

PENDING, ACTIVE, FAILED, FUNDED = ChallengeStatus
DAILY, TOTAL, TARGET = Rule
T1, T2, T3, T4 = (f"2025-01-02T10:00:0{second}" for second in range(1, 5))
LARGEST = "9999999999999999.99999999"


class TestCreation:
    def test_a_new_challenge_is_pending_with_every_figure_at_the_initial_balance(self):
        state, created = ChallengeEngine().create(terms())
        assert state == ChallengeState(
            terms=terms(),
            status=PENDING,
            status_reason=None,
            equity=units("100000"),
            peak_equity=units("100000"),
            daily_start_equity=units("100000"),
            trading_day=None,
            last_sequence=0,
            event_count=1,
            activated_at=None,
            closed_at=None,
            last_executed_at=None,
            chain_head=creation_link(created),
        )
        assert initial_state(terms()) == state
        assert state.version == 1

    def test_its_event_holds_everything_needed_to_make_it_again(self):
        _, event = ChallengeEngine().create(terms())
        assert event == ChallengeEvent(
            challenge_id=CHALLENGE_ID,
            challenge_sequence=1,
            event_type=EventType.CHALLENGE_CREATED,
            old_status=None,
            new_status=PENDING,
            reason=None,
            trade_id=None,
            trade_sequence=None,
            equity=units("100000"),
            evaluations=(),
            occurred_at=CREATED_AT,
            recorded_at=CREATED_AT,
            terms=terms(),
        )


# Each row: the trades (P&L, executed_at), and the last one's status change and reason.
TRANSITIONS = {
    "the first trade activates": ([("0", T1)], PENDING, ACTIVE, None),
    "the first trade fails by the day": ([("-5000.00000001", T1)], PENDING, FAILED, DAILY),
    "the first trade is funded": ([("10000", T1)], PENDING, FUNDED, TARGET),
    "the first trade survives at the limit": ([("-5000", T1)], PENDING, ACTIVE, None),
    "a loss within limits stays active": ([("-1", T1), ("-4999", T2)], ACTIVE, ACTIVE, None),
    "a gain below the target stays active": ([("1", T1), ("9998.99999999", T2)], ACTIVE, ACTIVE, None),
    "a later trade fails by the day": ([("-1", T1), ("-4999.00000001", T2)], ACTIVE, FAILED, DAILY),
    "a later trade fails in total": (
        [("-5000", "2025-01-02T10:00"), ("-4750", "2025-01-03T10:00"), ("-250.00000001", "2025-01-04T10:00")],
        ACTIVE,
        FAILED,
        TOTAL,
    ),
    "both drawdowns at once fail by the day": ([("-1", T1), ("-50000", T2)], ACTIVE, FAILED, DAILY),
    "a later trade is funded": ([("1", T1), ("9999", T2)], ACTIVE, FUNDED, TARGET),
}


class TestStateMachine:
    @pytest.mark.parametrize(("trades", "before", "after", "reason"), TRANSITIONS.values(), ids=TRANSITIONS)
    def test_every_allowed_transition(self, trades, before, after, reason):
        account = Account()
        for pnl, at in trades:
            outcome = account.trade(pnl, at)
        decision = outcome.decision
        assert (decision.previous_status, decision.status, decision.reason) == (before, after, reason)
        assert (account.state.status, account.state.status_reason) == (after, reason)
        assert after.is_terminal is (after in {FAILED, FUNDED})
        assert account.state.activated_at == microseconds(trades[0][1])
        assert account.state.closed_at == (microseconds(trades[-1][1]) if after.is_terminal else None)

    def test_a_total_drawdown_alone_fails_the_first_trade_when_its_limit_is_the_tighter(self):
        account = Account(daily="10", total="5")
        assert account.trade("-5000.00000001", T1).decision.reason is TOTAL

    def test_only_failed_and_funded_are_terminal(self):
        assert [status for status in ChallengeStatus if status.is_terminal] == [FAILED, FUNDED]

    def test_a_decision_carries_all_the_figures_after_the_trade(self):
        account = Account()
        account.trade("2000", T1, "first")
        at = microseconds(T2)
        outcome = account.decide(Trade("second", units("-1000.5"), at, "EURUSD"), recorded_at=99)
        assert outcome.decision == Decision(
            challenge_id=CHALLENGE_ID,
            trade_id="second",
            sequence=2,
            replayed=False,
            previous_status=ACTIVE,
            status=ACTIVE,
            reason=None,
            equity=units("100999.5"),
            peak_equity=units("102000"),
            daily_start_equity=units("100000"),
            evaluations=(
                RuleEvaluation(DAILY, 50_000, -999_500, False, units("5999.5")),
                RuleEvaluation(TOTAL, 100_000, 980_882, False, units("9199.5")),
                RuleEvaluation(TARGET, 100_000, 999_500, False, units("9000.5")),
            ),
            executed_at=at,
            recorded_at=99,
        )
        assert outcome.state == replace(
            initial_state(terms()),
            status=ACTIVE,
            equity=units("100999.5"),
            peak_equity=units("102000"),
            trading_day=20_090,
            last_sequence=2,
            event_count=2,
            activated_at=microseconds(T1),
            last_executed_at=at,
            chain_head=outcome.state.chain_head,
        )

    def test_accepted_trades_are_numbered_without_gaps_and_refused_ones_get_no_number(self):
        account = Account()
        assert account.trade("1", T2).decision.sequence == 1
        with pytest.raises(ChallengeError):
            account.trade("1", T1)
        assert account.trade("1", T3).decision.sequence == 2
        assert account.state.last_sequence == 2
        assert account.state.version == 3


ENDINGS = [("-5000.00000001", FAILED, DAILY, "5", "10"), ("-5000.00000001", FAILED, TOTAL, "10", "5")]
ENDINGS.append(("10000", FUNDED, TARGET, "5", "10"))


class TestEvents:
    def test_activation_is_an_event_without_a_reason(self):
        outcome = Account().decide(Trade("a", units("-100"), microseconds(T1)), recorded_at=77)
        assert outcome.events == (
            ChallengeEvent(
                challenge_id=CHALLENGE_ID,
                challenge_sequence=2,
                event_type=EventType.CHALLENGE_STATUS_CHANGED,
                old_status=PENDING,
                new_status=ACTIVE,
                reason=None,
                trade_id="a",
                trade_sequence=1,
                equity=units("99900"),
                evaluations=outcome.decision.evaluations,
                occurred_at=microseconds(T1),
                recorded_at=77,
                terms=None,
            ),
        )

    @pytest.mark.parametrize(("pnl", "status", "reason", "daily", "total"), ENDINGS)
    def test_a_decisive_first_trade_causes_two_status_changes(self, pnl, status, reason, daily, total):
        account = Account(daily=daily, total=total)
        outcome = account.decide(Trade("a", units(pnl), microseconds(T1)), recorded_at=77)
        activated = ChallengeEvent(
            challenge_id=CHALLENGE_ID,
            challenge_sequence=2,
            event_type=EventType.CHALLENGE_STATUS_CHANGED,
            old_status=PENDING,
            new_status=ACTIVE,
            reason=None,
            trade_id="a",
            trade_sequence=1,
            equity=units("100000") + units(pnl),
            evaluations=outcome.decision.evaluations,
            occurred_at=microseconds(T1),
            recorded_at=77,
        )
        ended = replace(activated, challenge_sequence=3, old_status=ACTIVE, new_status=status, reason=reason)
        assert outcome.events == (activated, ended)
        assert len(outcome.decision.evaluations) == 3
        assert (outcome.decision.previous_status, outcome.decision.status) == (PENDING, status)
        assert outcome.state.event_count == 3
        assert outcome.state.activated_at == outcome.state.closed_at == microseconds(T1)

    @pytest.mark.parametrize(("pnl", "status", "reason", "daily", "total"), ENDINGS)
    def test_a_later_decisive_trade_causes_one_status_change(self, pnl, status, reason, daily, total):
        account = Account(daily=daily, total=total)
        account.trade("0", T1)
        outcome = account.trade(pnl, T2, "b")
        (event,) = outcome.events
        assert (event.old_status, event.new_status, event.reason) == (ACTIVE, status, reason)
        assert (event.challenge_sequence, event.trade_id, event.trade_sequence) == (3, "b", 2)
        assert event.occurred_at == account.state.closed_at == microseconds(T2)
        assert account.state.activated_at == microseconds(T1)

    def test_a_trade_that_changes_no_status_causes_no_event(self):
        account = Account()
        account.trade("1", T1)
        assert account.trade("1", T2).events == ()
        assert account.state.event_count == 2

    def test_history_may_be_imported_and_occurs_before_the_challenge_was_created(self):
        outcome = Account().trade("1", "1999-12-31T23:59:59")
        assert outcome.events[0].occurred_at < CREATED_AT


# The refusals in V2's order of precedence, each with the fault that causes it. Faults are independent of each other, so
# that any set of them can be present at once.
PRECEDENCE = [
    ErrorReason.TRADE_ID_REUSED,
    ErrorReason.CHALLENGE_TERMINAL,
    ErrorReason.TRADE_IN_FUTURE,
    ErrorReason.TRADE_OUT_OF_ORDER,
    ErrorReason.SEQUENCE_MISMATCH,
    ErrorReason.EQUITY_OUT_OF_RANGE,
]
FAULTS = [faults for size in range(1, 7) for faults in combinations(PRECEDENCE, size)]


def decide_with(faults: tuple[ErrorReason, ...]):
    """Two trades are accepted, and then one comes that has all of these faults and no other."""
    account = Account()
    account.trade("1", T1, "first")
    account.trade("-6000" if ErrorReason.CHALLENGE_TERMINAL in faults else "1", T3, "second")
    at = microseconds(T2 if ErrorReason.TRADE_OUT_OF_ORDER in faults else T4)
    trade = Trade(
        trade_id="first" if ErrorReason.TRADE_ID_REUSED in faults else "third",
        realized_pnl=MAX_AMOUNT if ErrorReason.EQUITY_OUT_OF_RANGE in faults else 0,
        executed_at=at,
    )
    return account.decide(
        trade,
        latest_executed_at=at - 1 if ErrorReason.TRADE_IN_FUTURE in faults else at,
        expected_sequence=2 if ErrorReason.SEQUENCE_MISMATCH in faults else 3,
    )


class TestRefusals:
    def test_without_a_fault_the_trade_of_the_table_is_accepted(self):
        assert decide_with(()).decision.sequence == 3

    @pytest.mark.parametrize("faults", FAULTS, ids="+".join)
    def test_the_earlier_check_wins_when_several_refuse(self, faults):
        with pytest.raises(ChallengeError) as refused:
            decide_with(faults)
        assert refused.value.reason == faults[0]

    @pytest.mark.parametrize(
        ("reason", "metadata"),
        [
            (ErrorReason.TRADE_ID_REUSED, {"differing_fields": "realized_pnl,executed_at"}),
            (ErrorReason.CHALLENGE_TERMINAL, {"status": "FAILED"}),
            (ErrorReason.TRADE_IN_FUTURE, {}),
            (ErrorReason.TRADE_OUT_OF_ORDER, {"last_executed_at": "2025-01-02T10:00:03.000000Z"}),
            (ErrorReason.SEQUENCE_MISMATCH, {"next_sequence": "3"}),
            (ErrorReason.EQUITY_OUT_OF_RANGE, {}),
        ],
    )
    def test_a_refusal_names_the_facts_that_belong_to_it(self, reason, metadata):
        with pytest.raises(ChallengeError) as refused:
            decide_with((reason,))
        assert refused.value.metadata == metadata
        assert refused.value.message

    @pytest.mark.parametrize(("pnl", "status", "reason", "daily", "total"), ENDINGS)
    def test_an_ended_challenge_accepts_no_trade_and_says_how_it_ended(self, pnl, status, reason, daily, total):
        account = Account(daily=daily, total=total)
        account.trade(pnl, T1)
        ended = account.state
        for later_pnl in ("0", "1", "-1"):
            with pytest.raises(ChallengeError) as refused:
                account.trade(later_pnl, T2)
            assert refused.value.reason == ErrorReason.CHALLENGE_TERMINAL
            assert refused.value.metadata == {"status": str(status)}
        assert account.state == ended

    @pytest.mark.parametrize(
        ("last", "at", "accepted"),
        [
            ("2025-01-02T10:00:00", "2025-01-02T10:00:00.000001", True),
            ("2025-01-02T10:00:00", "2025-01-02T10:00:00", False),
            ("2025-01-02T10:00:00", "2025-01-02T09:59:59.999999", False),
            ("2025-01-02T10:00:00", "2025-01-01T23:00:00", False),
            ("1969-12-31T23:59:59.999999", "1970-01-01T00:00:00", True),
            ("1970-01-01T00:00:00", "1969-12-31T23:59:59.999999", False),
            ("0001-01-01T00:00:00", "9999-12-31T23:59:59.999999", True),
        ],
    )
    def test_a_trade_must_be_executed_strictly_after_the_last_accepted_one(self, last, at, accepted):
        account = Account()
        account.trade("0", last)
        if accepted:
            assert account.trade("0", at).decision.sequence == 2
        else:
            with pytest.raises(ChallengeError) as refused:
                account.trade("0", at)
            assert refused.value.reason == ErrorReason.TRADE_OUT_OF_ORDER

    def test_a_refused_trade_does_not_move_the_moment_that_later_trades_must_follow(self):
        account = Account()
        account.trade("0", T1)
        with pytest.raises(ChallengeError):
            account.decide(Trade("late", 0, microseconds(T4)), expected_sequence=9)
        assert account.trade("0", T2, "late").decision.sequence == 2

    def test_the_latest_allowed_moment_itself_is_not_the_future(self):
        at = microseconds(T1)
        assert Account().decide(Trade("a", 0, at), latest_executed_at=at).decision.sequence == 1
        with pytest.raises(ChallengeError) as refused:
            Account().decide(Trade("a", 0, at + 1), latest_executed_at=at)
        assert refused.value.reason == ErrorReason.TRADE_IN_FUTURE

    def test_without_a_clock_no_trade_is_in_the_future(self):
        assert Account().trade("0", "9999-12-31T23:59:59.999999").decision.sequence == 1

    @pytest.mark.parametrize(("accepted", "expected"), [(0, 0), (0, 2), (0, -1), (2, 1), (2, 2), (2, 4)])
    def test_a_wrong_expected_sequence_is_refused_with_the_right_one(self, accepted, expected):
        account = Account()
        for number in range(accepted):
            account.decide(Trade(f"t{number}", 0, number))
        with pytest.raises(ChallengeError) as refused:
            account.decide(Trade("x", 0, 9), expected_sequence=expected)
        assert refused.value.reason == ErrorReason.SEQUENCE_MISMATCH
        assert refused.value.metadata == {"next_sequence": str(accepted + 1)}
        assert account.decide(Trade("x", 0, 9), expected_sequence=accepted + 1).decision.sequence == accepted + 1


class TestReplay:
    def test_the_same_trade_again_gets_the_recorded_decision_marked_replayed(self):
        account = Account()
        first = account.decide(Trade("a", units("-100"), microseconds(T1), "XAU"), recorded_at=5).decision
        account.trade("50", T2)
        before = account.state
        outcome = account.decide(Trade("a", units("-100"), microseconds(T1), "XAU"), recorded_at=6)
        assert outcome.decision == replace(first, replayed=True)
        assert outcome.decision.recorded_at == 5
        assert outcome.events == ()
        assert outcome.state is before

    @pytest.mark.parametrize(("pnl", "status", "reason", "daily", "total"), ENDINGS)
    def test_it_does_so_after_the_challenge_has_ended_too(self, pnl, status, reason, daily, total):
        account = Account(daily=daily, total=total)
        active = account.trade("0", T1, "a").decision
        decisive = account.trade(pnl, T2, "b").decision
        assert account.trade("0", T1, "a").decision == replace(active, replayed=True)
        again = account.trade(pnl, T2, "b")
        assert again.decision == replace(decisive, replayed=True)
        assert (again.decision.previous_status, again.decision.status) == (ACTIVE, status)
        assert again.events == ()

    @pytest.mark.parametrize("expected_sequence", [None, 0, 1, 2, 99])
    @pytest.mark.parametrize("ahead", [None, 0, 1, 10**12])
    def test_replay_looks_at_neither_clock_nor_expected_sequence(self, expected_sequence, ahead):
        account = Account()
        trade = Trade("a", 0, microseconds(T2))
        account.decide(trade)
        latest = None if ahead is None else trade.executed_at - ahead
        assert account.decide(trade, expected_sequence=expected_sequence, latest_executed_at=latest).decision.replayed

    def test_replay_of_a_trade_before_the_last_one_is_not_out_of_order(self):
        account = Account()
        for at in (T1, T2, T3):
            account.trade("1", at, at)
        assert [account.trade("1", at, at).decision.sequence for at in (T3, T1, T2)] == [3, 1, 2]

    @pytest.mark.parametrize(
        ("changes", "differing"),
        [
            ({"realized_pnl": units("-100.00000001")}, "realized_pnl"),
            ({"realized_pnl": units("100")}, "realized_pnl"),
            ({"executed_at": microseconds(T1) + 1}, "executed_at"),
            ({"symbol": ""}, "symbol"),
            ({"symbol": "xau"}, "symbol"),
            ({"realized_pnl": 0, "executed_at": 0}, "realized_pnl,executed_at"),
            ({"realized_pnl": 0, "symbol": "EUR"}, "realized_pnl,symbol"),
            ({"executed_at": 0, "symbol": "EUR"}, "executed_at,symbol"),
            ({"realized_pnl": 0, "executed_at": 0, "symbol": "EUR"}, "realized_pnl,executed_at,symbol"),
        ],
    )
    @pytest.mark.parametrize("ended", [False, True])
    def test_the_same_id_with_other_content_is_refused_and_names_what_differs(self, changes, differing, ended):
        account = Account()
        trade = Trade("a", units("-100"), microseconds(T1), "XAU")
        account.decide(trade)
        if ended:
            account.trade("10100", T2)
        before = account.state
        with pytest.raises(ChallengeError) as refused:
            account.decide(replace(trade, **changes))
        assert refused.value.reason == ErrorReason.TRADE_ID_REUSED
        assert refused.value.metadata == {"differing_fields": differing}
        assert account.state == before
        assert account.decide(trade).decision.replayed

    def test_ids_that_differ_in_case_or_spaces_are_different_trades(self):
        account = Account()
        sequences = [account.trade("0", at, id_).decision.sequence for at, id_ in [(T1, "a"), (T2, "A"), (T3, "a ")]]
        assert sequences == [1, 2, 3]


# Each row: the trades (P&L, executed_at), and the equity at the day's start that each decision carries.
ROLL_OVERS = {
    "the first trade starts its day at the initial balance": ([("-1000", T1)], ["100000"]),
    "trades of one day share its start": ([("-1000", T1), ("500", T2), ("7", T3)], ["100000"] * 3),
    "a new day starts at the equity before its first trade": (
        [("-1000", "2025-01-02T12:00"), ("300", "2025-01-03T12:00"), ("5", "2025-01-03T13:00")],
        ["100000", "99000", "99000"],
    ),
    "a day ends at midnight UTC to the microsecond": (
        [
            ("-1", "2025-01-02T23:59:59.999998"),
            ("-1", "2025-01-02T23:59:59.999999"),
            ("-1", "2025-01-03T00:00"),
            ("-1", "2025-01-03T00:00:00.000001"),
        ],
        ["100000", "100000", "99998", "99998"],
    ),
    "days without trades need nothing": (
        [("-1000", "2025-01-02T12:00"), ("-1000", "2025-03-01T12:00"), ("-1000", "2031-01-02T12:00")],
        ["100000", "99000", "98000"],
    ),
    "the same time a month or a year later is another day": (
        [("-1", "2024-02-29T12:00"), ("-1", "2024-03-29T12:00"), ("-1", "2025-03-29T12:00")],
        ["100000", "99999", "99998"],
    ),
    "a day before 1970 ends at midnight too": (
        [("-1", "1969-12-30T23:59:59.999999"), ("-1", "1969-12-31T00:00"), ("-1", "1969-12-31T23:59:59.999999")],
        ["100000", "99999", "99999"],
    ),
    "1970 begins a day like any other": (
        [("-1", "1969-12-31T00:00"), ("-1", "1969-12-31T23:59:59.999999"), ("-1", "1970-01-01T00:00")],
        ["100000", "100000", "99998"],
    ),
    "the first and last days there are": (
        [("-1", "0001-01-01T00:00"), ("-1", "0001-01-01T23:59"), ("-1", "9999-12-31T23:59:59.999999")],
        ["100000", "100000", "99998"],
    ),
}


class TestDay:
    @pytest.mark.parametrize(("trades", "starts"), ROLL_OVERS.values(), ids=ROLL_OVERS)
    def test_a_day_is_the_utc_calendar_day_of_executed_at(self, trades, starts):
        account = Account()
        decisions = [account.trade(pnl, at).decision for pnl, at in trades]
        assert [format_amount(decision.daily_start_equity) for decision in decisions] == starts

    def test_the_moment_of_recording_plays_no_part(self):
        account = Account()
        starts = []
        for days, at in enumerate((T1, T2, T3)):
            recorded_at = RECORDED_AT + days * 86_400_000_000
            trade = Trade(at, units("-1000"), microseconds(at))
            starts.append(account.decide(trade, recorded_at=recorded_at).decision.daily_start_equity)
        assert starts == [units("100000")] * 3

    @pytest.mark.parametrize(
        ("second_at", "status", "reason"),
        [("2025-01-02T23:59:59.999999", FAILED, DAILY), ("2025-01-03T00:00", ACTIVE, None)],
    )
    def test_losses_on_both_sides_of_midnight_count_for_different_days(self, second_at, status, reason):
        account = Account()
        account.trade("-3000", "2025-01-02T20:00")
        decision = account.trade("-3000", second_at).decision
        assert (decision.status, decision.reason) == (status, reason)

    def test_the_daily_limit_follows_the_equity_of_the_days_start(self):
        for second_loss, status in [("-4800", ACTIVE), ("-4800.00000001", FAILED)]:
            account = Account()
            account.trade("-4000", "2025-01-02T20:00")
            assert account.trade(second_loss, "2025-01-03T20:00").decision.status is status

    def test_a_days_gain_is_room_for_the_same_days_loss(self):
        account = Account()
        account.trade("4000", T1)
        assert account.trade("-9000", T2).decision.status is ACTIVE
        assert account.trade("-0.00000001", T3).decision.reason is DAILY

    def test_a_refused_trade_does_not_roll_the_day_over(self):
        account = Account()
        account.trade("-1000", "2025-01-02T10:00")
        with pytest.raises(ChallengeError):
            account.decide(Trade("x", 0, microseconds("2025-01-03T10:00")), expected_sequence=9)
        assert account.trade("-1000", "2025-01-02T11:00").decision.daily_start_equity == units("100000")


class TestPeakFloorAndRange:
    def test_the_peak_rises_with_the_trade_itself_never_falls_and_knows_no_days(self):
        account = Account()
        trades = [("5000", "2025-01-02T10:00"), ("-2000", "2025-01-02T11:00"), ("-1000", "2025-01-09T10:00")]
        peaks = [format_amount(account.trade(pnl, at).decision.peak_equity) for pnl, at in trades]
        assert peaks == ["105000"] * 3
        assert format_amount(account.trade("3000.00000001", "2025-01-09T11:00").decision.peak_equity) == (
            "105000.00000001"
        )

    def test_the_total_drawdown_is_measured_from_the_peak(self):
        account = Account()
        account.trade("5000", "2025-01-02T10:00")
        account.trade("-5250", "2025-01-03T10:00")
        account.trade("-4987.5", "2025-01-04T10:00")
        assert format_amount(account.state.equity) == "94762.5"
        decision = account.trade("-262.50000001", "2025-01-05T10:00").decision
        assert (decision.status, decision.reason) == (FAILED, TOTAL)
        assert [format_amount(decision.equity), format_amount(decision.peak_equity)] == ["94499.99999999", "105000"]

    @pytest.mark.parametrize("pnl", ["-100000", "-100000.00000001", "-200000", f"-{LARGEST}"])
    def test_equity_never_falls_below_0_and_a_floored_account_has_failed(self, pnl):
        account = Account(daily="99.9999", total="99.9999")
        decision = account.trade(pnl, T1).decision
        assert (decision.equity, decision.status, decision.reason) == (0, FAILED, DAILY)
        assert [row.observed_pct for row in decision.evaluations] == [100_000_000, 100_000_000, -100_000_000]

    def test_one_unit_above_the_floor_may_still_survive(self):
        account = Account(balance="0.01", daily="99.9999", total="99.9999")
        assert account.trade("-0.00999999", T1).decision.status is ACTIVE
        assert account.state.equity == 1
        assert account.trade("-0.00000001", T2).decision.reason is DAILY

    @pytest.mark.parametrize(
        ("balance", "pnl", "fits"),
        [
            ("9999999999999999", "0.99999999", True),
            ("9999999999999999", "1", False),
            ("0.01", "9999999999999999.98999999", True),
            ("0.01", "9999999999999999.99", False),
            (LARGEST, "0", True),
            (LARGEST, "0.00000001", False),
            (LARGEST, LARGEST, False),
            (LARGEST, f"-{LARGEST}", True),
        ],
    )
    def test_an_equity_of_16_digits_is_accepted_and_not_one_unit_more(self, balance, pnl, fits):
        account = Account(balance=balance)
        if fits:
            assert account.trade(pnl, T1).decision.equity == units(balance) + units(pnl)
            return
        before = account.state
        with pytest.raises(ChallengeError) as refused:
            account.trade(pnl, T1, "x")
        assert refused.value.reason == ErrorReason.EQUITY_OUT_OF_RANGE
        assert account.state == before
        assert account.trade("0", T1, "x").decision.sequence == 1


class TestHeadroom:
    @pytest.mark.parametrize("rule", [DAILY, TOTAL])
    def test_the_next_trade_of_the_day_may_lose_exactly_the_headroom(self, rule):
        daily, total = ("3.3333", "99") if rule is DAILY else ("99", "3.3333")
        for extra, status in [(0, ACTIVE), (1, FAILED)]:
            account = Account(balance="33333.33333333", daily=daily, total=total)
            account.trade("123.45678901", T1)
            row = next(row for row in account.trade("-55.5", T2).decision.evaluations if row.rule is rule)
            decision = account.decide(Trade("x", -row.headroom - extra, microseconds(T3))).decision
            assert decision.status is status

    def test_the_next_trade_is_funded_by_exactly_the_missing_profit(self):
        for short, status in [(0, FUNDED), (1, ACTIVE)]:
            account = Account(balance="33333.33333333", target="3.3333")
            missing = account.trade("-55.5", T2).decision.evaluations[2].headroom
            assert account.decide(Trade("x", missing - short, microseconds(T3))).decision.status is status

    def test_the_evidence_follows_from_the_figures_of_a_decision_or_a_state(self):
        account = Account()
        account.trade("500", "2025-01-02T10:00")
        outcome = account.trade("-7000", "2025-01-03T10:00")
        for decided in (outcome.decision, outcome.state):
            evidence = account.engine.evidence(account.state.terms, decided)
            assert evidence.evaluations == outcome.decision.evaluations
            assert evidence.deciding is outcome.decision.reason is DAILY


BALANCES = ["100000", "0.01", "33333.33333333", "1234567890123456.78901234", "9999999999999999", LARGEST]
DRAWDOWNS = ["10", "5", "60", "99.9999", "12.3457", "3.3333", "0.0001"]
TARGETS = ["10", "200", "10000", "3.3333", "0.0001"]
START = moment("1969-12-30T22:00")

# The P&L of a step: a part of what is left before a verdict, so that most challenges live long; at a rule's edge and so
# many units beyond it; at the largest equity and so many units beyond it; or a fixed amount.
PARTS = st.tuples(st.just("part"), st.sampled_from(["loss", "gain"]), st.integers(1, 40))
AMOUNTS = st.one_of(
    *[PARTS] * 8,
    st.tuples(st.just("edge"), st.sampled_from(list(Rule)), st.sampled_from([-1, 0, -2, 1])),
    st.tuples(st.just("brim"), st.integers(-1, 1)),
    st.tuples(st.just("fixed"), st.sampled_from(["0", "0.00000001", "-0.00000001", "12.5", LARGEST, f"-{LARGEST}"])),
)
# When: after the last step by so many microseconds, or at the next midnight give or take a microsecond.
TIMES = st.one_of(
    st.tuples(st.just("after"), st.sampled_from([1, 1_000_000, 3_600_000_000, 10**10, 86_400_000_000, 10**14, 0, -1])),
    st.tuples(st.just("midnight"), st.sampled_from([-1, 0, 1])),
)
STEPS = st.fixed_dictionaries(
    {
        "amount": AMOUNTS,
        "time": TIMES,
        "again": st.sampled_from([None] * 12 + ["same", "same", "pnl", "time", "symbol"]),
        "symbol": st.sampled_from(["", "EURUSD"]),
        "expected": st.sampled_from([None] * 6 + ["right"] * 4 + [-1, 1]),
        "skew": st.sampled_from([None] * 6 + [0] * 4 + [1]),
        "which": st.integers(0, 30),
    }
)


def pnl_of(amount, model: ModelChallenge) -> str:
    """The amount of a step as a P&L in wire form that fits the wire."""
    match amount:
        case ("part", "loss", divisor):
            pnl = -min(units(model.headroom(DAILY)), units(model.headroom(TOTAL))) // divisor
        case ("part", _, divisor):
            pnl = (units(model.headroom(TARGET)) - 1) // divisor
        case ("edge", rule, beyond):
            edge = units(model.headroom(rule))
            pnl = edge + beyond if rule is TARGET else -edge - beyond
        case ("brim", beyond):
            pnl = MAX_AMOUNT - units(wire(model.equity)) + beyond
        case (_, text):
            pnl = units(text)
    return format_amount(max(-MAX_AMOUNT, min(MAX_AMOUNT, pnl)))


def time_of(time, last: datetime) -> datetime:
    """The moment of a step."""
    match time:
        case ("after", microseconds_later):
            return last + timedelta(microseconds=microseconds_later)
        case (_, microseconds_off):
            midnight = datetime(last.year, last.month, last.day, tzinfo=UTC) + timedelta(days=1)
            return midnight + timedelta(microseconds=microseconds_off)


def request_of(step, number: int, sent: list, model: ModelChallenge) -> dict:
    """The arguments of one submission: a fresh trade, or an earlier one as it was or altered."""
    request = {
        "trade_id": f"t{number}",
        "realized_pnl": pnl_of(step["amount"], model),
        "executed_at": time_of(step["time"], model.last_executed_at or START),
        "symbol": step["symbol"],
    }
    if step["again"] and sent:
        request = dict(sent[step["which"] % len(sent)])
        if step["again"] == "pnl":
            request["realized_pnl"] = format_amount(units(request["realized_pnl"]) // 2 + 1)
        elif step["again"] == "time":
            request["executed_at"] += timedelta(microseconds=1)
        elif step["again"] == "symbol":
            request["symbol"] += "X"
    sent.append(dict(request))
    if step["expected"] is not None:
        off = 0 if step["expected"] == "right" else step["expected"]
        request["expected_sequence"] = model.last_sequence + 1 + off
    if step["skew"] is not None:
        # Exactly at the allowed skew, or one microsecond further ahead of the clock than that.
        request["now"] = request["executed_at"] - timedelta(seconds=5, microseconds=step["skew"])
    return request


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(BALANCES),
    st.sampled_from(DRAWDOWNS),
    st.sampled_from(DRAWDOWNS),
    st.sampled_from(TARGETS),
    st.lists(STEPS, min_size=10, max_size=30),
)
def test_the_engine_and_the_model_agree_on_every_answer_state_and_event(balance, daily, total, target, steps):
    account = Account(balance, daily, total, target)
    model = ModelChallenge(balance, daily, total, target)
    sent: list[dict] = []
    after_the_end = 0
    for number, step in enumerate(steps):
        request = request_of(step, number, sent, model)
        assert account.submit(**request) == model.submit(**request), request
        assert account.snapshot() == model.snapshot()
        after_the_end += account.state.status.is_terminal
        if after_the_end == 5:
            break
    assert account.events == model.events
    assert [event.challenge_sequence for event in account.log] == list(range(1, account.state.event_count + 1))
    for before, after in pairwise(account.log):
        assert after.old_status == before.new_status
    changes = {(event.old_status, event.new_status) for event in account.log[1:]}
    assert changes <= {(PENDING, ACTIVE), (ACTIVE, FAILED), (ACTIVE, FUNDED)}
