"""Waiting for what nothing tells of."""

import asyncio
from collections.abc import Callable

import pytest

PATIENCE_S = 60.0
TICK_S = 0.01


async def until(condition: Callable[[], object]) -> None:
    """Return once the condition holds; fail when it does not in time."""
    for _ in range(int(PATIENCE_S / TICK_S)):
        if condition():
            return
        await asyncio.sleep(TICK_S)
    pytest.fail("waited in vain")
