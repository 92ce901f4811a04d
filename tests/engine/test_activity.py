"""Work that goes on, and waiting for it to pause."""

import asyncio

import pytest

from challenge_engine.activity import Activity

LONG = 3600.0


async def test_a_pause_is_when_the_last_of_several_has_ended():
    work = Activity()
    await work.pause(LONG)
    with work:
        with work:
            paused = asyncio.create_task(work.pause(LONG))
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not paused.done()
    await paused


async def test_work_that_fails_has_ended_too():
    work = Activity()
    with pytest.raises(ValueError, match="bad"), work:
        raise ValueError("bad")
    await work.pause(LONG)


async def test_it_is_remembered_for_as_long_as_one_asks():
    work = Activity()
    assert not work.was_seen_within(LONG)
    with work:
        assert work.was_seen_within(0)
    assert work.was_seen_within(LONG)
    assert not work.was_seen_within(0)
