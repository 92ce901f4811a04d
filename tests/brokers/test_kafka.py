"""The relay and a Kafka cluster, librdkafka's own."""

import asyncio
import signal

import pytest
from sqlalchemy.engine import URL

from challenge_server.relay import kafka_sink
from challenge_server.relay.kafka_sink import KafkaSink
from challenge_server.relay.messages import PayloadFormat, encoder
from challenge_server.relay.targets import parse_target
from tests.brokers.contents import check_complete, kafka_contents, log_contents
from tests.brokers.servers import KafkaCluster
from tests.brokers.test_redis import says
from tests.engine.harness import eventually, sql
from tests.relay.harness import relaying
from tests.server.calls import command, url_text


@pytest.mark.parametrize("payload_format", ["json", "protobuf"])
async def test_the_command_brings_every_event(log_url: URL, kafka: KafkaCluster, payload_format: str):
    arguments = ("--to", kafka.url + payload_format, "--once", "--format", payload_format)
    ended = command("relay", *arguments, "--database-url", url_text(log_url))
    assert ended.returncode == 0, ended.stderr
    received = await asyncio.to_thread(kafka_contents, kafka.servers, payload_format)
    assert check_complete(received, await log_contents(log_url)) == 0


async def test_a_silent_cluster_is_given_up_and_gets_the_events_again(
    log_url: URL, kafka: KafkaCluster, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(kafka_sink, "CONFIRM_TIMEOUT_S", 0.5)
    sink = KafkaSink(parse_target(kafka.url + "silent"), encoder(PayloadFormat.JSON))
    log = await log_contents(log_url)
    await sink.publish("0d6f1c1e-8f7c-4a57-9d0e-6f1f5a0e7c11", log[:12])
    kafka.signal(signal.SIGSTOP)
    try:
        async with relaying(log_url, sink):
            await eventually(lambda: says(caplog, "have not confirmed"))
            monkeypatch.undo()
            kafka.signal(signal.SIGCONT)
            await eventually(lambda: is_cursor(log_url, 30))
    finally:
        kafka.signal(signal.SIGCONT)
    received = await asyncio.to_thread(kafka_contents, kafka.servers, "silent")
    assert check_complete(received, log) >= 12


async def is_cursor(url: URL, position: int) -> bool:
    return await sql(url, "SELECT position FROM event_relays") == [(position,)]
