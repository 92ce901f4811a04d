"""Brings events to a topic exchange of RabbitMQ, by publisher confirms.

The routing key is `<event type>.<new status>.<challenge id>`, so that a queue may take `*.FUNDED.*` alone.
"""

import asyncio
from collections.abc import Sequence

import aio_pika
from aio_pika.abc import AbstractConnection, AbstractExchange
from aio_pika.exceptions import CONNECTION_EXCEPTIONS, ChannelNotFoundEntity, DeliveryError, PublishError

from challenge_engine.event_log import PositionedEvent
from challenge_engine.relaying import SinkError
from challenge_server.relay.messages import Encoder, Message, waves
from challenge_server.relay.targets import AmqpTarget, conceal

CONNECT_TIMEOUT_S = 10.0
CONFIRM_TIMEOUT_S = 20.0
CLOSE_TIMEOUT_S = 2.0
FAILURES = (*CONNECTION_EXCEPTIONS, asyncio.InvalidStateError, TimeoutError)


class AmqpSink:
    """An exchange, which is made when it is not there. Queues are the business of those who read."""

    def __init__(self, target: AmqpTarget, encode: Encoder) -> None:
        self._target = target
        self._encode = encode
        self._connection: AbstractConnection | None = None
        self._exchange: AbstractExchange | None = None
        self._confirmed: set[int] = set()

    async def publish(self, log_id: str, events: Sequence[PositionedEvent]) -> None:
        """As `Sink.publish` says. What was confirmed is not sent again when the rest is."""
        self._confirmed &= {event.position for event in events}
        messages = [self._encode(log_id, event) for event in events if event.position not in self._confirmed]
        try:
            for wave in waves(messages):
                await self._publish_wave(wave)
        except PublishError:
            raise SinkError(
                f"no queue takes an event from the exchange {self._target.exchange}: bind one with the key #, or let"
                " what nobody wants be dropped, with ?mandatory=no"
            ) from None
        except DeliveryError:
            raise SinkError("the broker refused an event; is a queue full that rejects what it cannot hold?") from None
        except FAILURES as error:
            await self.close()
            raise SinkError(conceal(f"{type(error).__name__}: {error}", self._target)) from None
        except asyncio.CancelledError:
            await self.close()
            raise

    async def close(self) -> None:
        """As `Sink.close` says."""
        connection, self._connection, self._exchange = self._connection, None, None
        if connection is not None:
            await _close(connection)

    async def _publish_wave(self, messages: Sequence[Message]) -> None:
        exchange = self._exchange or await self._open()
        async with asyncio.timeout(CONFIRM_TIMEOUT_S):
            outcomes = await asyncio.gather(
                *(self._publish_one(exchange, message) for message in messages), return_exceptions=True
            )
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    async def _publish_one(self, exchange: AbstractExchange, message: Message) -> None:
        await exchange.publish(
            aio_pika.Message(
                message.body,
                headers=dict(message.headers),
                content_type=message.content_type,
                delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
                message_id=message.message_id,
                type=message.event_type,
                app_id="challenge-engine",
            ),
            routing_key=f"{message.event_type}.{message.new_status}.{message.challenge_id}",
            mandatory=self._target.mandatory,
        )
        self._confirmed.add(message.position)

    async def _open(self) -> AbstractExchange:
        target = self._target
        connection = await aio_pika.connect(
            host=target.host,
            port=target.port,
            login=target.username,
            password=target.password,
            virtualhost=target.virtual_host,
            ssl=target.tls,
            timeout=CONNECT_TIMEOUT_S,
            client_properties={"connection_name": "challenge-engine relay"},
        )
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                exchange = await self._find_or_make_exchange(connection)
        except BaseException:
            await _close(connection)
            raise
        self._connection, self._exchange = connection, exchange
        return exchange

    async def _find_or_make_exchange(self, connection: AbstractConnection) -> AbstractExchange:
        channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
        try:
            # Finding needs no right to configure, which an operator may not want to give.
            return await channel.get_exchange(self._target.exchange)
        except ChannelNotFoundEntity:
            channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
            return await channel.declare_exchange(self._target.exchange, aio_pika.ExchangeType.TOPIC, durable=True)


async def _close(connection: AbstractConnection) -> None:
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            await connection.close()
    except FAILURES:
        # It was of no use any more, which is why it is closed.
        return
