"""The trades that wait for a transaction: merged, fair, bounded."""

import asyncio
import gc
import weakref
from collections.abc import Coroutine
from itertools import count
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from challenge_engine.submissions import Call, WaitingTrade
from challenge_engine.waiting import WaitingTrades
from challenge_rules import Trade, TradeSubmission
from challenge_rules.errors import DatabaseUnavailableError, OverloadedError, PredecessorFailedError

_ids = count()


def call(*trades: tuple[str, int]) -> Call:
    """A call of (challenge, executed_at) pairs."""
    return Call([TradeSubmission(challenge, Trade(f"t{next(_ids)}", 0, moment)) for challenge, moment in trades])


def moments(group: dict[str, list[WaitingTrade]]) -> dict[str, list[int]]:
    return {
        challenge: [waiting.submission.trade.executed_at for waiting in trades] for challenge, trades in group.items()
    }


async def test_trades_of_different_calls_are_merged_by_executed_at():
    waiting = WaitingTrades(100)
    for trades in ([("a", 5)], [("a", 1), ("a", 9)], [("a", 3)]):
        waiting.add(call(*trades))
    assert moments(waiting.take(100)) == {"a": [1, 3, 5, 9]}


async def test_within_a_call_order_is_kept_whatever_executed_at_says():
    waiting = WaitingTrades(100)
    waiting.add(call(("a", 7), ("a", 2), ("a", 8)))
    waiting.add(call(("a", 3)))
    assert moments(waiting.take(100)) == {"a": [3, 7, 2, 8]}


async def test_at_the_same_moment_the_call_that_came_first_goes_first():
    waiting = WaitingTrades(100)
    calls = [call(("a", 1)) for _ in range(5)]
    for each in calls:
        waiting.add(each)
    assert waiting.take(100)["a"] == [each.trades[0] for each in calls]


async def test_a_challenge_with_an_unfinished_group_is_not_taken_again_until_release():
    waiting = WaitingTrades(100)
    waiting.add(call(("a", 1), ("a", 2), ("b", 1)))
    assert moments(waiting.take(1)) == {"a": [1]}
    waiting.add(call(("a", 0)))
    assert moments(waiting.take(100)) == {"b": [1]}
    assert not waiting.has_ready
    assert waiting.take(100) == {}
    waiting.release(["a"])
    assert waiting.has_ready
    assert moments(waiting.take(100)) == {"a": [0, 2]}
    assert len(waiting) == 0


async def test_challenges_take_turns():
    """One with a thousand trades waiting does not keep the others from theirs."""
    waiting = WaitingTrades(10_000)
    waiting.add(call(*(("big", moment) for moment in range(1000))))
    waiting.add(call(("small", 1), ("tiny", 1)))
    groups = []
    for _ in range(3):
        group = waiting.take(10)
        groups.append({challenge: len(trades) for challenge, trades in group.items()})
        waiting.release(group)
    assert groups == [{"big": 10}, {"small": 1, "tiny": 1, "big": 8}, {"big": 10}]


async def test_a_group_holds_at_most_the_limit():
    waiting = WaitingTrades(100)
    waiting.add(call(*((challenge, 1) for challenge in "abcdefg")))
    assert list(waiting.take(3)) == ["a", "b", "c"]
    assert list(waiting.take(3)) == ["d", "e", "f"]
    assert list(waiting.take(3)) == ["g"]


async def test_a_call_beyond_the_capacity_is_refused_and_nothing_of_it_waits():
    waiting = WaitingTrades(3)
    waiting.add(call(("a", 1), ("b", 1)))
    with pytest.raises(OverloadedError) as refused:
        waiting.add(call(("b", 2), ("c", 1)))
    assert refused.value.retry_after_s > 0
    assert len(waiting) == 2
    waiting.add(call(("c", 1)))
    assert moments(waiting.take(100)) == {"a": [1], "b": [1], "c": [1]}
    waiting.add(call(*(("d", moment) for moment in range(3))))


async def test_abandoned_calls_are_skipped_and_make_room():
    waiting = WaitingTrades(3)
    left, stays = call(("a", 1), ("b", 1)), call(("a", 2))
    waiting.add(left)
    waiting.add(stays)
    task = asyncio.create_task(left.answers())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert left.abandoned
    assert waiting.take(100) == {"a": stays.trades}
    assert len(waiting) == 0
    assert not waiting.has_ready


async def test_after_a_failure_later_trades_of_the_challenge_in_the_call_are_answered_and_not_taken():
    waiting = WaitingTrades(100)
    broken, other = call(("a", 1), ("a", 2), ("b", 1), ("a", 3)), call(("a", 4))
    waiting.add(broken)
    waiting.add(other)
    group = waiting.take(1)
    group["a"][0].fail(DatabaseUnavailableError())
    waiting.release(group)
    rest = waiting.take(100)
    assert moments(rest) == {"b": [1], "a": [4]}
    rest["b"][0].answer(OverloadedError(1))
    answers = await broken.answers()
    assert [type(answer) for answer in answers] == [
        DatabaseUnavailableError,
        PredecessorFailedError,
        OverloadedError,
        PredecessorFailedError,
    ]


async def test_a_failure_after_a_failure_is_a_failed_predecessor_unless_both_were_executed_together():
    one, two = call(("a", 1), ("a", 2)), call(("a", 1), ("a", 2))
    for waiting in one.trades:
        waiting.fail(DatabaseUnavailableError())
    for waiting in two.trades:
        waiting.fail(DatabaseUnavailableError(), executed=True)
    assert [type(answer) for answer in await one.answers()] == [DatabaseUnavailableError, PredecessorFailedError]
    assert [type(answer) for answer in await two.answers()] == [DatabaseUnavailableError, DatabaseUnavailableError]


async def test_a_call_without_trades_is_answered_at_once():
    waiting = WaitingTrades(0)
    empty = call()
    waiting.add(empty)
    assert await empty.answers() == []
    assert not waiting.has_ready


calls = st.lists(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9)), max_size=6), max_size=8)


@given(calls=calls, limits=st.lists(st.integers(1, 5), min_size=1), held=st.lists(st.booleans(), min_size=1))
@settings(max_examples=200)
def test_whatever_the_groups_each_trade_is_taken_once_and_calls_keep_their_order(calls, limits, held):
    """Also when groups are released late; and every trade is taken after those of its call and challenge before it."""

    async def take_all() -> None:
        waiting = WaitingTrades(1000)
        made = [call(*trades) for trades in calls]
        for each in made:
            waiting.add(each)
        assert len(waiting) == sum(map(len, calls))
        taken: list[WaitingTrade] = []
        unfinished: list[list[str]] = []
        for turn in count():
            group = waiting.take(limits[turn % len(limits)])
            assert sum(map(len, group.values())) <= limits[turn % len(limits)]
            assert not any(challenge in others for challenge in group for others in unfinished)
            taken += [trade for trades in group.values() for trade in trades]
            unfinished.append(list(group))
            if not held[turn % len(held)] or not group:
                while unfinished:
                    waiting.release(unfinished.pop())
            if not group and not waiting.has_ready:
                break
        assert len(waiting) == 0
        assert len(taken) == len(set(map(id, taken))) == sum(map(len, calls))
        place = {id(trade): number for number, trade in enumerate(taken)}
        for each in made:
            for challenge in "abc":
                own = [place[id(trade)] for trade in each.trades if trade.submission.challenge_id == challenge]
                assert own == sorted(own)

    run(take_all())


async def test_a_call_that_was_answered_leaves_nothing_to_the_garbage_collector():
    gc.disable()
    try:
        waiting, answered = WaitingTrades(10), call(("a", 1), ("b", 2))
        waiting.add(answered)
        for trades in waiting.take(10).values():
            for trade in trades:
                trade.answer(OverloadedError(1))
        await answered.answers()
        left = weakref.ref(answered)
        del answered, trades, trade
        assert left() is None
    finally:
        gc.enable()


@given(st.lists(st.lists(st.integers(0, 20), min_size=1, max_size=4).map(sorted), max_size=8))
@settings(max_examples=100)
def test_calls_in_order_are_taken_in_order_of_executed_at(runs):
    async def take() -> None:
        waiting = WaitingTrades(1000)
        for run_of_moments in runs:
            waiting.add(call(*(("a", moment) for moment in run_of_moments)))
        assert moments(waiting.take(1000)).get("a", []) == sorted(moment for each in runs for moment in each)

    run(take())


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    asyncio.run(coroutine)
