"""Both kinds of subscription on the real server: killed, stopped, cut off and silenced while events come in."""

import asyncio
import logging
import uuid
from contextlib import asynccontextmanager, suppress
from datetime import timedelta

import pytest

from challenge_client import AsyncChallengeClient, ChallengeError, CursorMismatchError, resumption
from tests.client.proxy import Proxy
from tests.client.waiting import PATIENCE_S, until

SECOND = timedelta(seconds=1)


@pytest.fixture
def url(database_url):
    return database_url.render_as_string(hide_password=False)


@pytest.fixture
def serve(start_server, url):
    """Starts a server on the database of the test."""
    return lambda *arguments: start_server("--database-url", url, "--log-level", "error", *arguments)


class Reader:
    """Reads the events of a subscription, in the background, into a list."""

    def __init__(self, subscription):
        self.events = []
        self._subscription = subscription
        self._task = asyncio.create_task(self._read())

    async def _read(self):
        async for event in self._subscription:
            self.events.append(event)

    async def has(self, count):
        """Wait until so many have come; fails when the reading does."""
        await until(lambda: len(self.events) >= count or self._task.done())
        if self._task.done():
            await self._task
        assert len(self.events) >= count

    async def ended(self):
        async with asyncio.timeout(PATIENCE_S):
            await self._task


@asynccontextmanager
async def reading(client, **arguments):
    """A reader of a subscription of its own."""
    async with client.subscribe(**arguments) as subscription:
        reader = Reader(subscription)
        yield reader, subscription
    await reader.ended()


async def make(client, count, *ids):
    """So many new challenges, or the named ones, each an event; asked for again until the server has answered."""
    for challenge_id in ids or [str(uuid.uuid4()) for _ in range(count)]:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                with suppress(ChallengeError):
                    await client.create_challenge(challenge_id=challenge_id, initial_balance=100_000)
                    break
                await asyncio.sleep(0.02)


async def recorded(client, **arguments):
    return [event async for event in client.list_events(page_size=1000, **arguments)]


async def test_a_server_that_is_killed_and_started_again_costs_no_event(serve, make_client):
    server = serve()
    async with make_client(server.address) as client, AsyncChallengeClient(server.address) as writer:
        await make(writer, 30)
        async with reading(client, from_beginning=True, max_events_per_message=7) as (reader, subscription):
            await reader.has(10)
            for _ in range(2):
                writing = asyncio.create_task(make(writer, 40))
                await reader.has(len(reader.events) + 5)
                await asyncio.to_thread(server.kill)
                server = await asyncio.to_thread(serve, "--listen", server.address)
                await writing
            await reader.has(110)
            # All of them may have come before the last kill; then it is still on its way back.
            await until(lambda: subscription.last_error is None)
        assert reader.events == await recorded(writer)
        assert [event.position for event in reader.events] == list(range(1, 111))


async def test_when_a_server_is_stopped_another_one_takes_over(serve, make_client, caplog):
    servers = [serve() for _ in range(2)]
    # One client for both: gRPC goes to the second address when the first does not answer.
    target = "ipv4:" + ",".join(server.address for server in servers)
    async with AsyncChallengeClient(servers[1].address) as writer, make_client(target) as client:
        async with reading(client, from_now=True) as (reader, subscription):
            await until(lambda: subscription.caught_up)
            writing = asyncio.create_task(make(writer, 60))
            await reader.has(5)
            with caplog.at_level(logging.WARNING):
                assert await asyncio.to_thread(servers[0].stop) == 0
                await writing
                await reader.has(60)
        assert "is resumed in" in caplog.text
        assert "DRAINING" in caplog.text
        assert reader.events == await recorded(writer)


async def test_a_line_that_is_cut_every_100_ms_costs_no_event(server_address, make_client):
    ids = [str(uuid.uuid4()) for _ in range(150)]
    async with Proxy(server_address) as proxy, AsyncChallengeClient(server_address) as writer:
        async with (
            make_client(proxy.address) as client,
            reading(client, challenge_ids=ids, from_beginning=True, max_events_per_message=4) as (reader, _),
        ):
            cutting = asyncio.create_task(proxy.cut_every(0.1))
            await make(writer, 0, *ids[:50])
            await reader.has(50)
            await make(writer, 0, *ids[50:])
            await reader.has(150)
            cutting.cancel()
        assert proxy.connections > 1
        assert [event.challenge_id for event in reader.events] == ids
        assert [event.challenge_sequence for event in reader.events] == [1] * 150


async def test_a_line_that_falls_silent_is_left_and_costs_no_event(server_address, make_client, monkeypatch):
    monkeypatch.setattr(resumption, "SILENCE_MARGIN_S", 0.5)
    ids = [str(uuid.uuid4()) for _ in range(6)]
    async with Proxy(server_address) as proxy, AsyncChallengeClient(server_address) as writer:
        start = {"challenge_ids": ids, "from_beginning": True, "heartbeat_interval": SECOND}
        async with make_client(proxy.address) as client, reading(client, **start) as (reader, subscription):
            await make(writer, 0, *ids[:3])
            await reader.has(3)
            proxy.flowing.clear()
            await make(writer, 0, *ids[3:])
            await until(lambda: subscription.last_error)
            assert len(reader.events) == 3
            assert not subscription.caught_up
            proxy.flowing.set()
            await reader.has(6)
        assert [event.challenge_id for event in reader.events] == ids


async def test_a_cursor_of_another_filter_is_raised_and_a_position_changes_the_filter(server_address, make_client):
    ids = [str(uuid.uuid4()) for _ in range(4)]
    async with make_client(server_address) as client:
        await make(client, 0, *ids)
        async with client.subscribe(challenge_ids=ids, from_beginning=True, max_events_per_message=1) as subscription:
            for _ in range(3):
                event = await anext(subscription)
            cursor, position = subscription.cursor, subscription.position
        with pytest.raises(CursorMismatchError):
            await anext(client.subscribe(challenge_ids=ids[:2], after_cursor=cursor))
        async with client.subscribe(challenge_ids=ids, after_cursor=cursor) as again:
            assert await anext(again) == event
        async with client.subscribe(challenge_ids=ids[2:], after_position=position) as other:
            assert [(await anext(other)).challenge_id for _ in range(2)] == ids[2:]


@pytest.mark.parametrize("most", [1, 3, 200])
async def test_every_delivery_of_the_real_server_resumes_behind_itself(server_address, make_client, most):
    ids = [str(uuid.uuid4()) for _ in range(8)]
    async with make_client(server_address) as client:
        await make(client, 0, *ids)
        deliveries = []
        async with client.subscribe(
            challenge_ids=ids, from_beginning=True, max_events_per_message=most
        ) as subscription:
            async for delivery in subscription.deliveries():
                deliveries.append(delivery)
                if subscription.caught_up and sum(len(each.events) for each in deliveries) == 8:
                    break
        found = [event.challenge_id for delivery in deliveries for event in delivery.events]
        assert found == ids
        assert max(len(delivery.events) for delivery in deliveries) <= most
        assert [delivery.previous_cursor for delivery in deliveries] == [
            None, *(delivery.cursor for delivery in deliveries[:-1]),
        ]  # fmt: skip
        seen = 0
        for delivery in deliveries:
            seen += len(delivery.events)
            async with client.subscribe(challenge_ids=ids, after_cursor=delivery.cursor) as again:
                assert [(await anext(again)).challenge_id for _ in ids[seen:]] == ids[seen:]
