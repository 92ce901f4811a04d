"""Relays that are killed at random while events are made: no broker misses one, or has one out of order."""

import asyncio
import logging
import random
import signal
from collections.abc import Awaitable, Callable

import aio_pika
from redis import Redis
from sqlalchemy.engine import URL

from tests.brokers.contents import Received, amqp_contents, check_complete, kafka_contents, log_contents, redis_contents
from tests.brokers.servers import KafkaCluster, RabbitServer, RedisServer
from tests.engine.harness import RunningEngine, eventually, running_engine, submission
from tests.relay.harness import RelayProcess

logger = logging.getLogger(__name__)

Start = Callable[..., RelayProcess]

KILLS = 20
LONGEST_LIFE_S = 0.4
"""A relay is killed at most so long after it has begun to work, with what was made meanwhile before it."""
BURST = 15
PAUSE_S = 0.08


async def make_events_until(stop: asyncio.Event, engine: RunningEngine) -> None:
    """Challenges that are created, begin and end, some of them a burst later, so that their events mix."""
    earlier: list[str] = []
    while not stop.is_set():
        made = await asyncio.gather(*(engine.create() for _ in range(BURST)))
        begun = [submission(challenge_id, "1", "1") for challenge_id in made]
        ended = [submission(challenge_id, "2", random.choice(["-6000", "20000"]), 1) for challenge_id in earlier]
        await engine.batch(*begun, *ended)
        earlier = made
        await asyncio.sleep(PAUSE_S)


async def kill_relays(start: Start, url: URL, to: str, *options: str) -> None:
    """Kill one relay after the other; each time the next one is ready to take over."""
    async with running_engine(url) as engine:
        stop = asyncio.Event()
        making = asyncio.create_task(make_events_until(stop, engine))
        relays = [start(url, to, *options)]
        for _ in range(KILLS):
            relays.append(start(url, to, *options))
            at_work = await eventually(lambda: _at_work(relays))
            await asyncio.sleep(random.uniform(0, LONGEST_LIFE_S))
            assert at_work.process.poll() is None, at_work.stderr()
            at_work.kill()
            assert at_work.process.returncode == -signal.SIGKILL
            relays.remove(at_work)
        stop.set()
        await making
        await engine.positions.assign_all()
    relays[0].kill()
    last = start(url, to, *options, "--once")
    assert await asyncio.to_thread(last.process.wait, 60) == 0, last.stderr()


async def _at_work(relays: list[RelayProcess]) -> RelayProcess | None:
    """The one of them that has the claim; None while none has."""
    for relay in relays:
        assert relay.process.poll() is None, relay.stderr()
    working = [relay for relay in relays if "relaying to" in relay.stderr()]
    assert len(working) < 2
    return working[0] if working else None


async def check(url: URL, read: Callable[[], Awaitable[list[Received]]]) -> list[Received]:
    """What the broker has is what the log has; returns it."""
    log = await log_contents(url)
    assert len(log) > KILLS * BURST
    received = await read()
    repetitions = check_complete(received, log)
    logger.info("%d kills, %d events, %d came again", KILLS, len(log), repetitions)
    return received


async def test_redis_has_every_event_exactly_once_and_in_log_order(
    database_url: URL, redis: "Redis[bytes]", redis_server: RedisServer, start_relay: Start
):
    await kill_relays(start_relay, database_url, redis_server.url)

    async def read() -> list[Received]:
        return redis_contents(redis)

    received = await check(database_url, read)
    assert [message.message_id for message in received] == [str(number) for number in range(1, len(received) + 1)]


async def test_rabbitmq_has_every_event_in_order_per_challenge(
    database_url: URL, rabbit: RabbitServer, channel: aio_pika.abc.AbstractChannel, start_relay: Start
):
    exchange = await channel.declare_exchange("kills", aio_pika.ExchangeType.TOPIC, durable=True)
    queue = await channel.declare_queue("kills", durable=True)
    await queue.bind(exchange, "#")
    await kill_relays(start_relay, database_url, f"{rabbit.url}?exchange=kills")
    await check(database_url, lambda: amqp_contents(queue))


async def test_kafka_has_every_event_in_order_per_challenge(database_url: URL, kafka: KafkaCluster, start_relay: Start):
    await kill_relays(start_relay, database_url, f"{kafka.url}kills", "--format", "protobuf")
    await check(database_url, lambda: asyncio.to_thread(kafka_contents, kafka.servers, "kills"))
