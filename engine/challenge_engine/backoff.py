"""How often and how soon work that met other work is tried again."""

import asyncio
import random

MAX_ATTEMPTS = 4
MAX_BACKOFF_S = 0.05
RETRY_AFTER_S = 0.25
"""When a caller that met full queues should try again."""


async def back_off(attempt: int) -> None:
    """Wait a little, at random, so that two writers in each other's way do not meet again."""
    await asyncio.sleep(random.uniform(0, MAX_BACKOFF_S * attempt))  # noqa: S311 -- not a secret
