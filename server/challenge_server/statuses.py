"""Ends a call with an error, as grpc.aio wants it."""

from typing import Any, NoReturn

import grpc

from challenge_rules import ChallengeError
from challenge_wire.statuses import CODES, DETAILS_KEY, to_status


async def abort(context: "grpc.aio.ServicerContext[Any, Any]", error: ChallengeError) -> NoReturn:
    """End a call with an error."""
    await context.abort(CODES[error.reason], error.message, ((DETAILS_KEY, to_status(error).SerializeToString()),))
    raise AssertionError("abort always raises")
