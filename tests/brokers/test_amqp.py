"""The relay and a real RabbitMQ: routing, confirms, and what a broker may do in between."""

import asyncio
import signal
import uuid

import aio_pika
import pytest
from aio_pika.abc import AbstractChannel, AbstractQueue
from sqlalchemy.engine import URL

from challenge_engine import relaying as relay_engine
from challenge_engine.relaying import SinkError
from challenge_server.relay import amqp_sink
from challenge_server.relay.amqp_sink import AmqpSink
from challenge_server.relay.messages import PayloadFormat, encoder
from challenge_server.relay.targets import parse_target
from tests.brokers.contents import Received, amqp_contents, check_complete, log_contents
from tests.brokers.servers import RabbitServer
from tests.brokers.test_redis import says
from tests.engine.harness import eventually
from tests.relay.harness import relay_once, relaying
from tests.server.calls import command, url_text


@pytest.fixture
def exchange() -> str:
    """The name of an exchange that is not there yet."""
    return f"events-{uuid.uuid4()}"


def sink(server: RabbitServer, exchange: str, options: str = "") -> AmqpSink:
    return AmqpSink(parse_target(f"{server.url}?exchange={exchange}{options}"), encoder(PayloadFormat.JSON))


async def bound(channel: AbstractChannel, exchange: str, key: str, **arguments) -> AbstractQueue:
    """A queue that takes what has this key."""
    queue = await channel.declare_queue(str(uuid.uuid4()), durable=True, arguments=arguments)
    made = await channel.declare_exchange(exchange, aio_pika.ExchangeType.TOPIC, durable=True)
    await queue.bind(made, key)
    return queue


@pytest.mark.parametrize("payload_format", ["json", "protobuf"])
async def test_the_command_brings_every_event_to_the_queues_that_want_it(
    log_url: URL, rabbit: RabbitServer, channel: AbstractChannel, exchange: str, payload_format: str
):
    log = await log_contents(log_url)
    one = log[0].event.challenge_id
    keys = ("#", "*.FUNDED.*", f"*.*.{one}", "CHALLENGE_CREATED.#")
    queues = {key: await bound(channel, exchange, key) for key in keys}
    arguments = ("--to", f"{rabbit.url}?exchange={exchange}", "--once", "--format", payload_format)
    ended = command("relay", *arguments, "--database-url", url_text(log_url))
    assert ended.returncode == 0, ended.stderr
    received = {key: await amqp_contents(queue) for key, queue in queues.items()}
    assert check_complete(received["#"], log) == 0

    def positions(wanted) -> set[str]:
        return {str(positioned.position) for positioned in log if wanted(positioned.event)}

    assert ids(received["*.FUNDED.*"]) == positions(lambda event: event.new_status == "FUNDED")
    assert ids(received[f"*.*.{one}"]) == positions(lambda event: event.challenge_id == one)
    assert ids(received["CHALLENGE_CREATED.#"]) == positions(lambda event: event.event_type == "CHALLENGE_CREATED")
    assert all(len(found) > 2 for found in received.values())


def ids(received: list[Received]) -> set[str]:
    assert len({message.message_id for message in received}) == len(received)
    return {message.message_id for message in received}


async def test_without_a_queue_nothing_is_lost_and_the_operator_is_told(
    log_url: URL, rabbit: RabbitServer, channel: AbstractChannel, exchange: str, caplog: pytest.LogCaptureFixture
):
    """The relay makes the exchange, and waits until somebody binds a queue to it."""
    async with relaying(log_url, sink(rabbit, exchange)):
        await eventually(lambda: says(caplog, f"no queue takes an event from the exchange {exchange}"))
        queue = await bound(channel, exchange, "#")
        found: list[Received] = []
        await eventually(lambda: collected(queue, found, 30))
    assert check_complete(found, await log_contents(log_url)) == 0


async def test_what_nobody_wants_may_be_dropped(
    log_url: URL, rabbit: RabbitServer, channel: AbstractChannel, exchange: str
):
    queue = await bound(channel, exchange, "*.FAILED.*")
    assert await relay_once(log_url, sink(rabbit, exchange, "&mandatory=no")) == 30
    assert len(ids(await amqp_contents(queue))) == 5


async def test_a_full_queue_that_rejects_gets_everything_in_order_once_there_is_room(
    log_url: URL,
    rabbit: RabbitServer,
    channel: AbstractChannel,
    exchange: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    """It refuses some of a page and may take later ones: those of the same challenge must not be sent before."""
    monkeypatch.setattr(relay_engine, "MAX_PAUSE_S", 0.1)
    queue = await bound(channel, exchange, "#", **{"x-max-length": 4, "x-overflow": "reject-publish"})
    found: list[Received] = []
    async with relaying(log_url, sink(rabbit, exchange)):
        await eventually(lambda: says(caplog, "the broker refused an event"))
        await eventually(lambda: collected(queue, found, 30))
    check_complete(found, await log_contents(log_url))


async def test_a_silent_broker_is_given_up_and_gets_the_events_again(
    log_url: URL,
    rabbit: RabbitServer,
    channel: AbstractChannel,
    exchange: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    monkeypatch.setattr(amqp_sink, "CONFIRM_TIMEOUT_S", 0.5)
    monkeypatch.setattr(amqp_sink, "CONNECT_TIMEOUT_S", 0.5)
    queue = await bound(channel, exchange, "#")
    found: list[Received] = []
    rabbit.signal(signal.SIGSTOP)
    try:
        async with relaying(log_url, sink(rabbit, exchange)):
            await eventually(lambda: says(caplog, "does not take events"))
            monkeypatch.undo()
            rabbit.signal(signal.SIGCONT)
            await eventually(lambda: collected(queue, found, 30))
    finally:
        rabbit.signal(signal.SIGCONT)
    check_complete(found, await log_contents(log_url))


async def test_a_channel_that_the_broker_closes_is_replaced(
    log_url: URL, rabbit: RabbitServer, channel: AbstractChannel, exchange: str
):
    """Here because the exchange was deleted."""
    queue = await bound(channel, exchange, "#")
    relayed = sink(rabbit, exchange)
    log = await log_contents(log_url)
    await relayed.publish(str(uuid.uuid4()), log[:10])
    await channel.exchange_delete(exchange)
    with pytest.raises(SinkError):
        await relayed.publish(str(uuid.uuid4()), log[10:])
    await queue.bind(await channel.declare_exchange(exchange, aio_pika.ExchangeType.TOPIC, durable=True), "#")
    await relayed.publish(str(uuid.uuid4()), log[10:])
    await relayed.close()
    assert check_complete(await amqp_contents(queue), log) == 0


async def test_a_wrong_password_is_told_without_it(log_url: URL, rabbit: RabbitServer, exchange: str):
    url = f"amqp://guest:falsch@127.0.0.1:{rabbit.port}/?exchange={exchange}"
    wrong = AmqpSink(parse_target(url), encoder(PayloadFormat.JSON))
    with pytest.raises(SinkError) as refused:
        await wrong.publish(str(uuid.uuid4()), await log_contents(log_url))
    await wrong.close()
    assert "ACCESS_REFUSED" in str(refused.value)
    assert "falsch" not in str(refused.value)


async def collected(queue: AbstractQueue, found: list[Received], count: int) -> bool:
    """Takes what there is; whether so many different messages have been taken by now."""
    found += await amqp_contents(queue)
    await asyncio.sleep(0)
    return len({message.message_id for message in found}) == count
