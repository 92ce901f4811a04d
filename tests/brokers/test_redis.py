"""The relay and a real Redis: exactly once into a stream, also when Redis or its readers make it hard."""

import logging
import signal

import pytest
from redis import Redis
from sqlalchemy.engine import URL

from challenge_engine.relaying import RelayError, SinkError
from challenge_server.relay import redis_sink
from challenge_server.relay.messages import PayloadFormat, encoder
from challenge_server.relay.redis_sink import RedisSink
from challenge_server.relay.targets import parse_target
from tests.brokers.contents import check_complete, log_contents, redis_contents
from tests.brokers.servers import RedisServer
from tests.engine.harness import eventually, running_engine, sql, value
from tests.relay.harness import make_events, relay_once, relaying
from tests.server.calls import command, url_text

STREAM = "challenge-events"


def sink(server: RedisServer, options: str = "") -> RedisSink:
    return RedisSink(parse_target(server.url + options), encoder(PayloadFormat.JSON))


async def is_there(redis: "Redis[bytes]", count: int) -> bool:
    return len(redis_contents(redis)) == count


@pytest.mark.parametrize("payload_format", ["json", "protobuf"])
async def test_the_command_brings_every_event(log_url: URL, redis_server: RedisServer, redis, payload_format: str):
    arguments = ("--to", redis_server.url + "?stream=s", "--once", "--format", payload_format)
    ended = command("relay", *arguments, "--database-url", url_text(log_url))
    assert ended.returncode == 0, ended.stderr
    log = await log_contents(log_url)
    received = redis_contents(redis, "s")
    assert check_complete(received, log) == 0
    assert [message.message_id for message in received] == [str(event.position) for event in log]
    assert {message.headers["log-id"] for message in received} == {
        await value(log_url, "SELECT log_id::text FROM event_log")
    }
    ((_, seventeenth),) = redis.xrange("s", 17, 17)
    assert seventeenth[b"message-id"] == b"17"
    name = f"redis://127.0.0.1:{redis_server.port}/0/s"
    assert await sql(log_url, "SELECT sink, position FROM event_relays") == [(name, 30)]


async def test_events_that_are_there_are_not_added_again(log_url: URL, redis_server: RedisServer, redis):
    """As after a relay that died before it stored its cursor, or whose cursor was reset."""
    await relay_once(log_url, sink(redis_server))
    for start in (0, 17, 30):
        assert await relay_once(log_url, sink(redis_server), reset=True, start=start) == 30
    assert check_complete(redis_contents(redis), await log_contents(log_url)) == 0


async def test_events_that_readers_have_deleted_stay_deleted(log_url: URL, redis_server: RedisServer, redis):
    await relay_once(log_url, sink(redis_server))
    redis.xtrim(STREAM, maxlen=0, approximate=False)
    await relay_once(log_url, sink(redis_server), reset=True)
    assert redis_contents(redis) == []


async def test_a_stream_may_be_kept_short(log_url: URL, redis_server: RedisServer, redis):
    """About as short as is asked: Redis lets go of whole nodes, which are made small here."""
    redis.config_set("stream-node-max-entries", 5)
    try:
        await relay_once(log_url, sink(redis_server, "?maxlen=10"))
    finally:
        redis.config_set("stream-node-max-entries", 100)
    left = [message.message_id for message in redis_contents(redis)]
    assert 10 <= len(left) < 20
    assert left[-1] == "30"


async def test_what_is_not_a_stream_of_this_log_is_refused(log_url: URL, redis_server: RedisServer, redis):
    """Redis would refuse every new entry behind a greater id, which must not be taken for "it is there"."""
    redis.set(STREAM, "x")
    with pytest.raises(RelayError, match="something else than a stream"):
        await relay_once(log_url, sink(redis_server))
    redis.delete(STREAM)
    redis.xadd(STREAM, {"by": "somebody"})
    with pytest.raises(RelayError, match="not of this log"):
        await relay_once(log_url, sink(redis_server))
    redis.delete(STREAM)
    await relay_once(log_url, sink(redis_server))
    await sql(log_url, "UPDATE event_log SET log_id = gen_random_uuid()")
    with pytest.raises(RelayError, match="not of this log"):
        await relay_once(log_url, sink(redis_server), reset=True)


async def test_entries_of_a_future_that_was_undone_are_refused(log_url: URL, redis_server: RedisServer, redis):
    """The database was restored to an earlier moment and went on otherwise: position 30 is another event now."""
    await relay_once(log_url, sink(redis_server))
    *kept, (last_id, fields) = redis.xrange(STREAM)
    redis.delete(STREAM)
    for entry_id, same in kept:
        redis.xadd(STREAM, same, id=entry_id)
    redis.xadd(STREAM, {**fields, b"new-status": b"ACTIVE"}, id=last_id)
    with pytest.raises(RelayError, match="not of this log"):
        await relay_once(log_url, sink(redis_server), reset=True)


async def test_a_redis_that_comes_back_without_its_data_gets_them_again(log_url: URL, redis_server: RedisServer, redis):
    async with running_engine(log_url) as engine, relaying(log_url, sink(redis_server)):
        await eventually(lambda: is_there(redis, 30))
        redis_server.end()
        redis_server.start()
        await make_events(engine, 1)
        await eventually(lambda: is_there(redis, 33))
    assert check_complete(redis_contents(redis), await log_contents(log_url)) == 0


async def test_a_redis_short_of_memory_is_waited_for_and_misses_nothing(
    log_url: URL, redis_server: RedisServer, redis, caplog: pytest.LogCaptureFixture
):
    redis.config_set("maxmemory", "1")
    try:
        async with relaying(log_url, sink(redis_server)):
            await eventually(lambda: says(caplog, "maxmemory"))
            assert redis_contents(redis) == []
            redis.config_set("maxmemory", "0")
            await eventually(lambda: is_there(redis, 30))
    finally:
        redis.config_set("maxmemory", "0")
    assert check_complete(redis_contents(redis), await log_contents(log_url)) == 0


async def test_a_silent_redis_is_given_up_and_tried_again(
    log_url: URL, redis_server: RedisServer, redis, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(redis_sink, "ANSWER_TIMEOUT_S", 0.3)
    redis_server.signal(signal.SIGSTOP)
    try:
        async with relaying(log_url, sink(redis_server)):
            await eventually(lambda: says(caplog, "does not take events"))
            redis_server.signal(signal.SIGCONT)
            await eventually(lambda: is_there(redis, 30))
    finally:
        redis_server.signal(signal.SIGCONT)
    assert check_complete(redis_contents(redis), await log_contents(log_url)) == 0


async def test_a_wrong_password_is_told_without_it(log_url: URL, redis_server: RedisServer):
    url = f"redis://:falsch@127.0.0.1:{redis_server.port}"
    wrong = RedisSink(parse_target(url), encoder(PayloadFormat.JSON))
    with pytest.raises(SinkError) as refused:
        await wrong.publish("0d6f1c1e-8f7c-4a57-9d0e-6f1f5a0e7c11", await log_contents(log_url))
    await wrong.close()
    assert "Authentication" in str(refused.value)
    assert "falsch" not in str(refused.value)


async def says(caplog: pytest.LogCaptureFixture, what: str) -> bool:
    return any(what in record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING)
