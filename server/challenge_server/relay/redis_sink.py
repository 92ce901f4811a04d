"""Brings events to a Redis stream, each exactly once as long as the stream lives.

The id of an entry is `<position>-<mark of the log>`, and Redis takes no id that is not greater than the last one,
also when that entry is trimmed away. So the stream itself tells how far it has come, and of which log.
"""

import uuid
from collections.abc import Sequence
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from challenge_engine.event_log import PositionedEvent
from challenge_engine.relaying import RelayError, SinkError, SinkLostEventsError
from challenge_server.relay.messages import Encoder, Message
from challenge_server.relay.targets import RedisTarget, conceal

CONNECT_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 10.0
BODY = "body"
IDENTITY = ("challenge-id", "challenge-sequence", "new-status")
"""The headers by which an entry that is there is recognised as the event that belongs there."""


class RedisSink:
    """A stream. It remembers what it has sent, to notice when a Redis comes back without it."""

    def __init__(self, target: RedisTarget, encode: Encoder) -> None:
        self._target = target
        self._encode = encode
        self._began_after: int | None = None
        self._confirmed = 0
        self._redis = Redis(
            host=target.host,
            port=target.port,
            db=target.database,
            username=target.username,
            password=target.password,
            ssl=target.tls,
            socket_connect_timeout=CONNECT_TIMEOUT_S,
            socket_timeout=ANSWER_TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
            client_name="challenge-engine-relay",
            decode_responses=False,
        )

    async def publish(self, log_id: str, events: Sequence[PositionedEvent]) -> None:
        """As `Sink.publish` says. All that are missing are added in one transaction of Redis."""
        if self._began_after is None:
            self._began_after = self._confirmed = events[0].position - 1
        try:
            await self._publish(log_id, [self._encode(log_id, event) for event in events])
        except (RedisError, OSError, TimeoutError) as error:
            raise SinkError(conceal(f"{type(error).__name__}: {error}", self._target)) from None

    async def close(self) -> None:
        """As `Sink.close` says."""
        await self._redis.aclose()

    async def _publish(self, log_id: str, messages: list[Message]) -> None:
        mark = mark_of(log_id)
        last = await self._last_position(mark)
        assert self._began_after is not None
        if last < self._confirmed:
            self._confirmed = max(last, self._began_after)
            if self._confirmed < messages[0].position - 1:
                raise SinkLostEventsError(self._confirmed)
        there = [message for message in messages if message.position <= last]
        missing = messages[len(there) :]
        if there:
            await self._recognise(there, mark)
        if missing:
            await self._add(missing, mark)
        self._confirmed = messages[-1].position

    async def _last_position(self, mark: int) -> int:
        """The position of the last entry that ever was in the stream, 0 when none was."""
        try:
            about: dict[str, Any] = await self._redis.xinfo_stream(self._target.stream)
        except ResponseError as error:
            if "no such key" in str(error):
                return 0
            if str(error).startswith("WRONGTYPE"):
                raise RelayError(f"{self._target.name} holds something else than a stream") from None
            raise
        last_id = about["last-generated-id"]
        position, _, other_mark = (last_id.decode() if isinstance(last_id, bytes) else str(last_id)).partition("-")
        if last_id in (b"0-0", "0-0"):
            return 0
        if other_mark != str(mark):
            raise RelayError(self._foreign())
        return int(position)

    async def _recognise(self, messages: list[Message], mark: int) -> None:
        """Make sure that those entries which are there, and were not trimmed, are these events."""
        first, last = messages[0].position, messages[-1].position
        found: Any = await self._redis.xrange(self._target.stream, f"{first}-{mark}", f"{last}-{mark}")
        expected = {f"{message.position}-{mark}".encode(): message for message in messages}
        for entry_id, fields in found:
            message = expected[entry_id]
            if any(fields.get(name.encode()) != message.headers[name].encode() for name in IDENTITY):
                raise RelayError(self._foreign())

    async def _add(self, messages: list[Message], mark: int) -> None:
        # A transaction is taken or refused as a whole; without one, a Redis short of memory might leave one out.
        async with self._redis.pipeline(transaction=True) as transaction:
            for message in messages:
                fields: dict[Any, Any] = {**message.headers, BODY: message.body}
                transaction.xadd(
                    self._target.stream,
                    fields,
                    id=f"{message.position}-{mark}",
                    maxlen=self._target.max_length or None,
                    approximate=True,
                )
            # Raises the first error; that an entry is there by now, from a relay that was cut off, is one. Trying again
            # then finds it.
            await transaction.execute()

    def _foreign(self) -> str:
        return (
            f"{self._target.name} has entries that are not of this log, so new ones would not fit in behind them: give"
            " another stream (?stream=NAME), or delete it and start once with --reset"
        )


def mark_of(log_id: str) -> int:
    """What stands for a log in the ids of entries: the first 64 bits of its id."""
    return uuid.UUID(log_id).int >> 64
