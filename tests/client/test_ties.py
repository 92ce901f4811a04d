"""Trades that share a moment get moments of their own, and the same ones each time."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from challenge_client import Trade, spread_ties

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
TIE = timedelta(microseconds=1)


def trade(number, moment):
    return Trade(f"t{number}", number, moment, "ES")


def test_ties_keep_their_order_each_a_microsecond_after_the_one_before():
    spread = spread_ties([trade(1, NOON), trade(2, NOON), trade(3, NOON)])
    assert [(t.trade_id, t.executed_at) for t in spread] == [("t1", NOON), ("t2", NOON + TIE), ("t3", NOON + 2 * TIE)]
    assert spread[1] == Trade("t2", 2, NOON + TIE, "ES")


def test_rows_that_are_not_in_order_are_put_in_order():
    later = NOON + timedelta(seconds=1)
    assert [t.trade_id for t in spread_ties([trade(1, later), trade(2, NOON), trade(3, later)])] == ["t2", "t1", "t3"]


def test_whoever_is_caught_up_with_is_moved_on_too():
    spread = spread_ties([trade(1, NOON), trade(2, NOON), trade(3, NOON + TIE), trade(4, NOON + 5 * TIE)])
    assert [t.executed_at - NOON for t in spread] == [0 * TIE, TIE, 2 * TIE, 5 * TIE]


def test_a_larger_step_is_kept_between_all():
    spread = spread_ties([trade(1, NOON), trade(2, NOON + TIE)], step=timedelta(milliseconds=1))
    assert spread[1].executed_at == NOON + timedelta(milliseconds=1)


def test_no_trade_is_carried_into_another_day():
    last = datetime(2026, 3, 2, 23, 59, 59, 999_999, tzinfo=UTC)
    with pytest.raises(ValueError, match=r"trade 't2' at .* has so many ties"):
        spread_ties([trade(1, last), trade(2, last)])


def test_a_step_that_is_none_is_refused():
    with pytest.raises(ValueError, match="step must be at least a microsecond"):
        spread_ties([], step=timedelta(0))


@given(st.lists(st.integers(0, 30), max_size=40))
def test_the_outcome_is_strictly_increasing_keeps_every_trade_and_spreads_to_itself(offsets):
    trades = [trade(number, NOON + offset * TIE) for number, offset in enumerate(offsets)]
    spread = spread_ties(trades)
    moments = [t.executed_at for t in spread]
    assert all(before < after for before, after in pairwise(moments))
    assert sorted(t.trade_id for t in spread) == sorted(t.trade_id for t in trades)
    assert spread_ties(spread) == spread
    for each in spread:
        assert each.executed_at >= trades[int(each.trade_id[1:])].executed_at
