"""Brings events to a Kafka topic, by an idempotent producer that waits for every replica in sync.

The key is the challenge_id, so the events of a challenge are in one partition, in order.
"""

import asyncio
import contextlib
from collections.abc import Sequence

from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka import Message as Delivered

from challenge_engine.event_log import PositionedEvent
from challenge_engine.relaying import SinkError
from challenge_server.relay.messages import Encoder, Message, waves
from challenge_server.relay.targets import KafkaTarget, conceal

CONNECT_TIMEOUT_S = 5.0
CONFIRM_TIMEOUT_S = 20.0
FLUSH_SLICE_S = 0.2
"""librdkafka blocks a thread of ours for so long at a time."""
LINGER_MS = 5


class KafkaSink:
    """A topic, which must be there already. After an error the producer is replaced by a new one."""

    def __init__(self, target: KafkaTarget, encode: Encoder) -> None:
        self._target = target
        self._encode = encode
        self._producer: Producer | None = None

    async def publish(self, log_id: str, events: Sequence[PositionedEvent]) -> None:
        """As `Sink.publish` says."""
        try:
            producer = self._producer or await self._open()
            for wave in waves(self._encode(log_id, event) for event in events):
                await self._publish_wave(producer, wave)
        except (KafkaException, BufferError, SinkError) as error:
            await self.close()
            raise SinkError(conceal(_text(error), self._target)) from None
        except asyncio.CancelledError:
            await self.close()
            raise

    async def close(self) -> None:
        """As `Sink.close` says. What the producer still holds is given up: it will be sent again."""
        producer, self._producer = self._producer, None
        if producer is not None:
            with contextlib.suppress(KafkaException):
                producer.purge(in_queue=True, in_flight=True, blocking=False)
                await asyncio.to_thread(producer.flush, FLUSH_SLICE_S)

    async def _publish_wave(self, producer: Producer, messages: Sequence[Message]) -> None:
        failures: list[KafkaError] = []

        def delivered(error: KafkaError | None, _: Delivered) -> None:
            if error is not None:
                failures.append(error)

        for message in messages:
            producer.produce(
                self._target.topic,
                key=message.challenge_id.encode(),
                value=message.body,
                headers=[(name, value.encode()) for name, value in message.headers.items()],
                on_delivery=delivered,
            )
        deadline = asyncio.get_running_loop().time() + CONFIRM_TIMEOUT_S
        while await asyncio.to_thread(producer.flush, FLUSH_SLICE_S):
            if asyncio.get_running_loop().time() > deadline:
                raise SinkError(f"the brokers have not confirmed the events within {CONFIRM_TIMEOUT_S:.0f} s")
        if failures:
            raise KafkaException(failures[0])

    async def _open(self) -> Producer:
        target = self._target
        settings: dict[str, str | int | bool] = {
            "bootstrap.servers": ",".join(target.servers),
            "client.id": "challenge-engine-relay",
            "enable.idempotence": True,
            "acks": "all",
            # A message that librdkafka gave up by itself could be overtaken by the next one.
            "message.timeout.ms": 0,
            "linger.ms": LINGER_MS,
            "log_level": 2,
            **target.options,
        }
        if target.username is not None:
            settings |= {"sasl.username": target.username, "sasl.password": target.password or ""}
        producer = Producer(settings)
        found = await asyncio.to_thread(producer.list_topics, target.topic, CONNECT_TIMEOUT_S)
        problem = found.topics[target.topic].error
        if problem is not None:
            raise SinkError(f"the topic {target.topic} cannot be used: {problem.str()}")
        self._producer = producer
        return producer


def _text(error: BaseException) -> str:
    cause = error.args[0] if error.args else error
    return f"{cause.name()}: {cause.str()}" if isinstance(cause, KafkaError) else str(error)
