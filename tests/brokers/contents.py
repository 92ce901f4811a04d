"""What is in a broker, read by an ordinary client of it."""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

import aio_pika
from aio_pika.abc import AbstractRobustQueue
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition
from google.protobuf.json_format import Parse
from redis import Redis
from sqlalchemy.engine import URL

from challenge_engine.database import Database
from challenge_engine.event_log import ALL_EVENTS, EventLog, PositionedEvent
from challenge_server import wire
from propfirm.challenge.v1 import challenge_pb2 as pb


@dataclass(frozen=True)
class Received:
    """A message as a client of the broker sees it."""

    message_id: str
    headers: dict[str, str]
    body: bytes

    @property
    def event(self) -> pb.ChallengeEvent:
        """What it tells."""
        if self.headers["content-type"] == "application/json":
            return Parse(self.body, pb.ChallengeEvent(), ignore_unknown_fields=True)
        return pb.ChallengeEvent.FromString(self.body)


def redis_contents(redis: "Redis[bytes]", stream: str = "challenge-events") -> list[Received]:
    """The entries of a stream."""
    found = []
    for entry_id, fields in redis.xrange(stream):
        body = fields.pop(b"body")
        headers = {name.decode(): value.decode() for name, value in fields.items()}
        assert entry_id.decode().partition("-")[0] == headers["message-id"]
        found.append(Received(headers["message-id"], headers, body))
    return found


async def amqp_contents(queue: AbstractRobustQueue) -> list[Received]:
    """Takes the messages from a queue."""
    found = []
    while (message := await queue.get(no_ack=True, fail=False)) is not None:
        assert message.delivery_mode is aio_pika.DeliveryMode.PERSISTENT
        headers = {name: str(value) for name, value in message.headers.items()}
        assert message.content_type == headers["content-type"]
        assert message.type == headers["event-type"]
        found.append(Received(message.message_id or "", headers, message.body))
    return found


def kafka_contents(servers: str, topic: str) -> list[Received]:
    """The messages of each partition of a topic from its very beginning, one partition after the other."""
    consumer = Consumer(
        {"bootstrap.servers": servers, "group.id": "reader", "enable.partition.eof": True, "log_level": 0}
    )
    with contextlib.closing(consumer):
        partitions = list(consumer.list_topics(topic, timeout=10).topics[topic].partitions)
        consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in partitions])
        messages, left = [], set(partitions)
        while left:
            message = consumer.poll(10)
            assert message is not None, "the brokers say nothing"
            if message.error() is None:
                messages.append(message)
                continue
            assert message.error().code() == KafkaError._PARTITION_EOF, message.error()
            left.discard(message.partition())
    found = []
    for _, of_partition in groupby(
        sorted(messages, key=lambda one: (one.partition(), one.offset())), lambda one: one.partition()
    ):
        for offset, message in enumerate(of_partition):
            assert message.offset() == offset, "the brokers have let go of the beginning"
            headers = {name: value.decode() for name, value in message.headers()}
            assert message.key().decode() == headers["challenge-id"]
            found.append(Received(headers["message-id"], headers, message.value()))
    return found


async def log_contents(url: URL) -> list[PositionedEvent]:
    """The log, in order."""
    database = Database(url, pool_size=1)
    try:
        return list((await EventLog(database).read(ALL_EVENTS, after=0, limit=1_000_000)).events)
    finally:
        await database.close()


def without_repetitions(received: Iterable[Received]) -> Iterator[Received]:
    """As a careful receiver handles them: what has a known id is dropped."""
    known: set[str] = set()
    for message in received:
        if message.message_id not in known:
            known.add(message.message_id)
            yield message


def check_complete(received: list[Received], log: list[PositionedEvent]) -> int:
    """Every event of the log is there, as it is, in order per challenge, and nothing else; returns the repetitions."""
    told = list(without_repetitions(received))
    expected = {str(positioned.position): wire.event_to(positioned) for positioned in log}
    assert len(expected) == len(log) > 0
    assert {message.message_id for message in told} == set(expected)
    # Also of those that came again: the same id must mean the same event.
    for message in received:
        assert message.event == expected[message.message_id]
    order: dict[str, list[int]] = {}
    for message in told:
        order.setdefault(message.headers["challenge-id"], []).append(int(message.headers["challenge-sequence"]))
    for sequences in order.values():
        assert sequences == list(range(1, len(sequences) + 1))
    return len(received) - len(told)
