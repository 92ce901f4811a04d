"""Who catches up, when, and who has to wait for it."""

import asyncio
from collections import deque

import pytest

from challenge_engine import turns
from challenge_engine.activity import Activity
from challenge_engine.turns import Turns
from tests.engine.harness import eventually

LONG = 3600.0


async def has_come(turn) -> bool:
    return await turn.has_come(0)


async def test_one_at_a_time_in_the_order_in_which_they_asked():
    all_turns = Turns(Activity())
    asked = [all_turns.ask() for _ in range(4)]
    for number, turn in enumerate(asked):
        assert [await has_come(each) for each in asked[number:]] == [True] + [False] * (3 - number)
        turn.end()
    assert await has_come(all_turns.ask())


async def test_who_has_waited_in_vain_keeps_the_place_in_the_queue():
    all_turns = Turns(Activity())
    first, second, third = (all_turns.ask() for _ in range(3))
    assert not await second.has_come(0.001)
    assert not await third.has_come(0.001)
    first.end()
    assert await second.has_come(LONG)
    assert not await has_come(third)


async def test_who_leaves_the_queue_is_passed_over():
    all_turns = Turns(Activity())
    first, second, third = (all_turns.ask() for _ in range(3))
    with second:
        assert not await has_come(second)
    first.end()
    assert await has_come(third)


async def test_a_turn_is_given_back_once():
    all_turns = Turns(Activity())
    first, second, third = (all_turns.ask() for _ in range(3))
    first.end()
    first.end()
    assert await has_come(second)
    assert not await has_come(third)


async def test_who_does_not_take_a_batch_in_time_loses_the_turn_and_what_was_read(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(turns, "MAX_HAND_OVER_S", 0.01)
    all_turns = Turns(Activity())
    stalled, other = all_turns.ask(), all_turns.ask()
    rest = deque([1, 2])
    stalled.hand_over(rest)
    assert await other.has_come(LONG)
    assert stalled.was_lost
    assert not rest
    stalled.end()
    assert not await has_come(all_turns.ask())


async def test_each_batch_has_the_whole_time_and_what_lies_between_does_not_count(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(turns, "MAX_HAND_OVER_S", 0.05)
    all_turns = Turns(Activity())
    turn, other = all_turns.ask(), all_turns.ask()
    assert await has_come(turn)
    clock = asyncio.get_running_loop().time
    began = clock()
    rest = deque([1])
    while clock() - began < 0.1:
        turn.hand_over(rest)
        await asyncio.sleep(0)
        turn.handed_over()
    await asyncio.sleep(0.1)
    assert not turn.was_lost
    turn.end()
    assert await has_come(other)


async def test_trades_go_first_for_a_while(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(turns, "BUSY_S", LONG)
    trading = Activity()
    all_turns = Turns(trading)
    assert not all_turns.is_busy
    await all_turns.give_way()
    with trading:
        waiting = asyncio.create_task(all_turns.give_way())
        await asyncio.sleep(0)
        assert not waiting.done()
        assert all_turns.is_busy
    await waiting
    assert all_turns.is_busy
    monkeypatch.setattr(turns, "BUSY_S", 0.0)
    assert not all_turns.is_busy


async def test_however_many_trades_there_are_work_goes_on(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(turns, "MAX_PAUSE_S", 0.01)
    with Activity() as trading:
        await Turns(trading).give_way()


async def test_who_does_not_begin_when_its_turn_comes_asks_again(monkeypatch: pytest.MonkeyPatch):
    """Its message before is still on its way, for as long as it takes."""
    monkeypatch.setattr(turns, "MAX_HAND_OVER_S", 0.01)
    all_turns = Turns(Activity())
    first, away, third = (all_turns.ask() for _ in range(3))
    assert await first.has_come(LONG)
    assert not await has_come(away)
    first.end()
    assert await third.has_come(LONG)
    assert not await has_come(away)
    third.end()
    assert await away.has_come(LONG)
    away.end()
    assert await all_turns.ask().has_come(LONG)


async def test_who_lost_its_turn_before_holds_no_more_either(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(turns, "MAX_HAND_OVER_S", 0.01)
    turn = Turns(Activity()).ask()
    assert await turn.has_come(LONG)
    turn.end()
    rest = deque([1])
    turn.hand_over(rest)

    async def is_dropped() -> bool:
        return not rest

    await eventually(is_dropped)
    assert turn.was_lost


async def test_several_at_once_where_that_is_asked_for():
    all_turns = Turns(Activity(), at_once=2)
    first, second, third = (all_turns.ask() for _ in range(3))
    assert [await has_come(each) for each in (first, second, third)] == [True, True, False]
    second.end()
    assert await has_come(third)


async def test_while_trades_come_there_is_a_rest_before_each_piece(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(turns, "REST_S", LONG)
    activity = Activity()
    all_turns = Turns(activity)
    await all_turns.give_way()
    with activity:
        pass
    piece = asyncio.create_task(all_turns.give_way())
    done, _ = await asyncio.wait([piece], timeout=0.05)
    assert not done
    piece.cancel()
