"""The brokers, each started once when the first test asks for it."""

from collections.abc import AsyncIterator, Callable, Iterator

import aio_pika
import pytest
from redis import Redis
from sqlalchemy.engine import URL

from tests.brokers.servers import PASSWORD, KafkaCluster, RabbitServer, RedisServer
from tests.engine.harness import running_engine
from tests.relay.harness import RelayProcess, make_events
from tests.server.calls import url_text


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    try:
        server.start()
        yield server
    finally:
        server.end()


@pytest.fixture
def redis(redis_server: RedisServer) -> Iterator["Redis[bytes]"]:
    """A client of an empty Redis."""
    with Redis(port=redis_server.port, password=PASSWORD) as client:
        client.flushall()
        yield client


@pytest.fixture(scope="session")
def rabbit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitServer]:
    server = RabbitServer(tmp_path_factory.mktemp("rabbit"))
    try:
        server.start()
        yield server
    finally:
        server.end()


@pytest.fixture
async def channel(rabbit: RabbitServer) -> AsyncIterator[aio_pika.abc.AbstractChannel]:
    """A client's channel."""
    async with await aio_pika.connect(rabbit.url) as connection:
        yield await connection.channel()


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaCluster]:
    cluster = KafkaCluster(tmp_path_factory.mktemp("kafka"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.end()


@pytest.fixture
async def log_url(database_url: URL) -> URL:
    """A log of 30 events of ten challenges."""
    async with running_engine(database_url) as engine:
        await make_events(engine, 10)
    return database_url


@pytest.fixture
def start_relay() -> Iterator[Callable[..., RelayProcess]]:
    """Starts relays of their own process on a database, and ends those that are left."""
    started: list[RelayProcess] = []

    def start(url: URL, to: str, *options: str) -> RelayProcess:
        relay = RelayProcess("--database-url", url_text(url), *options, environment={"CHALLENGE_RELAY_TO": to})
        started.append(relay)
        return relay

    yield start
    for relay in started:
        relay.close()
