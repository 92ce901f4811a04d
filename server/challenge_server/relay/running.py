"""Wires a relay together and runs it."""

import asyncio
import importlib
import logging
import signal

from sqlalchemy.engine import URL

from challenge_engine.database import Database
from challenge_engine.event_listener import EventListener
from challenge_engine.relaying import Relay, RelayOrder, Sink
from challenge_engine.wakeup import Wakeup
from challenge_server.relay.messages import PayloadFormat, encoder
from challenge_server.relay.targets import AmqpTarget, KafkaTarget, RedisTarget, Target
from challenge_server.settings import SettingsError

logger = logging.getLogger(__name__)

POOL_SIZE = 2
CHATTY_LIBRARIES = ("aio_pika", "aiormq")
"""They log what they send and receive, which a relay tells about better."""

_SINKS: dict[type[Target], tuple[str, str, str]] = {
    RedisTarget: ("redis_sink", "RedisSink", "relay-redis"),
    AmqpTarget: ("amqp_sink", "AmqpSink", "relay-amqp"),
    KafkaTarget: ("kafka_sink", "KafkaSink", "relay-kafka"),
}
"""The module, the class and the extra with the library that it needs."""


def open_sink(target: Target, payload_format: PayloadFormat) -> Sink:
    """The sink of a target, not connected yet. `SettingsError` when the library it needs is not installed."""
    module, name, extra = _SINKS[type(target)]
    try:
        made: Sink = getattr(importlib.import_module(f"challenge_server.relay.{module}"), name)(
            target, encoder(payload_format)
        )
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"{target.name} needs a library that is not installed, {error.name}:"
            f" install the project with its extra '{extra}', such as pip install '.[{extra}]'"
        ) from None
    return made


async def relay(url: URL, target: Target, payload_format: PayloadFormat, order: RelayOrder) -> None:
    """Relay until SIGTERM or SIGINT, or as far as the order says."""
    sink = open_sink(target, payload_format)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    for library in CHATTY_LIBRARIES:
        logging.getLogger(library).setLevel(logging.CRITICAL)
    database = Database(url, pool_size=POOL_SIZE)
    news = Wakeup()
    listener = EventListener(database, news)
    listener.start()
    try:
        position = await Relay(database, news, sink, order).run(stop)
    finally:
        await listener.stop()
        await database.close()
    logger.info("stopped; %s has the events up to position %d", order.sink, position)
