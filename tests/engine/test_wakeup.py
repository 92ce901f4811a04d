"""Hints that there may be something new."""

import asyncio

from challenge_engine.wakeup import Wakeup, wait_at_most
from tests.engine.harness import PATIENCE_S


async def test_it_wakes_all_who_wait():
    wakeup = Wakeup()
    waiting = [asyncio.create_task(wait_at_most(wakeup.subscribe(), PATIENCE_S)) for _ in range(3)]
    await asyncio.sleep(0)
    wakeup.wake()
    assert await asyncio.gather(*waiting) == [True, True, True]


async def test_a_wake_between_subscribing_and_waiting_is_not_lost():
    wakeup = Wakeup()
    news = wakeup.subscribe()
    wakeup.wake()
    assert await wait_at_most(news, PATIENCE_S)


async def test_a_wake_before_subscribing_is_not_heard():
    wakeup = Wakeup()
    wakeup.wake()
    assert not await wait_at_most(wakeup.subscribe(), 0.01)


async def test_waiting_ends_after_its_time():
    clock = asyncio.get_running_loop().time
    begun = clock()
    assert not await wait_at_most(asyncio.Event(), 0.05)
    assert clock() - begun >= 0.049
