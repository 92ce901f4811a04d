"""Both kinds of subscription against a server that breaks as it is told."""

import asyncio
import gc
import itertools
import threading
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta

import grpc
import pytest

from challenge_client import (
    AsyncChallengeClient,
    ChallengeClient,
    CursorMismatchError,
    DatabaseUnavailableError,
    DrainingError,
    TransportError,
    resumption,
)
from tests.client.log_server import END, FOREIGN_CURSOR, HANG, Break, LogServer
from tests.client.proxy import Proxy
from tests.client.waiting import until

Code = grpc.StatusCode
PATIENCE_S = 20.0
SOON = timedelta(milliseconds=200)
"""A heartbeat interval that only the server of these tests allows."""


@pytest.fixture(autouse=True)
def short_silences(monkeypatch):
    """A call lasts half a second, where it is to last for heartbeats of 0.2 s."""
    monkeypatch.setattr(resumption, "SILENCE_MARGIN_S", 0.2)


@pytest.fixture
async def server():
    async with LogServer() as running, asyncio.timeout(2 * PATIENCE_S):
        yield running


@pytest.fixture
async def client(server, make_client):
    async with make_client(server.address) as connected:
        yield connected


async def first(count, items):
    """The next so many items."""
    found = []
    async with asyncio.timeout(PATIENCE_S):
        while len(found) < count:
            found.append(await anext(items))
    return found


async def events(count, subscription):
    """The positions of the next so many events."""
    return [event.position for event in await first(count, subscription)]


async def rest(items):
    """What else there is, of something that ends."""
    async with asyncio.timeout(PATIENCE_S):
        return [item async for item in items]


async def fail_over(subscription):
    """A handler that fails."""
    async for event in subscription:
        assert event.position / 0


def starts(server):
    """How each call began."""
    return [
        (name, getattr(request, name) if name.startswith("after") else None)
        for request in server.requests
        if (name := request.WhichOneof("start"))
    ]


class TestResuming:
    @pytest.mark.parametrize(
        "how",
        [END, "DRAINING", "DATABASE_UNAVAILABLE", "INTERNAL", Code.UNAVAILABLE, Code.INTERNAL, Code.DEADLINE_EXCEEDED],
    )
    async def test_after_every_kind_of_break_it_goes_on_behind_the_last_message(self, server, client, how):
        await server.happen(7)
        server.breaks = [Break(how), Break(how, after=2), Break(how, after=1), Break(how, after=1)]
        async with client.subscribe(from_beginning=True, max_events_per_message=2) as subscription:
            assert await events(7, subscription) == [1, 2, 3, 4, 5, 6, 7]
            await server.happen(1)
            assert await events(1, subscription) == [8]
            assert subscription.last_error is None
        assert starts(server) == [("from_beginning", None)] * 2 + [("after_cursor", c) for c in ("4", "6", "7")]

    @pytest.mark.parametrize("most", [1, 3, 200])
    async def test_events_that_come_again_are_given_once(self, server, client, most):
        await server.happen(20)
        server.breaks = [Break("DRAINING", after=4, repeats=2) for _ in range(12)]
        async with client.subscribe(from_beginning=True, max_events_per_message=most) as subscription:
            assert await events(20, subscription) == list(range(1, 21))

    async def test_a_server_that_knows_no_batches_will_do(self, make_client):
        async with LogServer(batches=False) as server, make_client(server.address) as client:
            await server.happen(5)
            server.breaks = [Break("DRAINING", after=2)]
            async with client.subscribe(from_beginning=True) as subscription:
                assert await events(5, subscription) == [1, 2, 3, 4, 5]
            assert [request.max_events_per_message for request in server.requests] == [200, 200]

    async def test_from_now_asks_for_now_until_the_first_answer_and_loses_nothing_after_it(self, server, client):
        await server.happen(3)
        server.breaks = [Break("DRAINING"), Break(Code.UNAVAILABLE), Break("DRAINING", after=1)]
        async with client.subscribe(from_now=True) as subscription:
            reading = asyncio.ensure_future(events(2, subscription))
            await server.calls_are(4, open_calls=1)
            await server.happen(2)
            assert await reading == [4, 5]
        assert starts(server) == [("from_now", None)] * 3 + [("after_cursor", "3")]

    async def test_what_happens_while_the_line_is_cut_is_given_afterwards(self, server, make_client):
        async with (
            Proxy(server.address) as proxy,
            make_client(proxy.address) as client,
            client.subscribe(from_now=True) as subscription,
        ):
            reading = asyncio.ensure_future(events(5, subscription))
            await until(lambda: subscription.caught_up)
            for _ in range(5):
                proxy.cut()
                await server.happen(1)
            assert await reading == [1, 2, 3, 4, 5]

    async def test_a_line_that_is_cut_every_100_ms_delivers_all_the_same(self, server, make_client):
        async with Proxy(server.address) as proxy, make_client(proxy.address) as client:
            cutting = asyncio.create_task(proxy.cut_every(0.1))
            async with client.subscribe(from_beginning=True, max_events_per_message=3) as subscription:
                reading = asyncio.ensure_future(events(200, subscription))
                while len(server.log) < 200:
                    await server.happen(5)
                    await asyncio.sleep(0.05)  # the events are to be spread over many cuts
                assert await reading == list(range(1, 201))
            cutting.cancel()
            assert proxy.connections >= 5

    async def test_a_peer_that_is_silent_for_too_long_is_left(self, server, client):
        """The line stands and pings are answered, but nothing is said any more, as behind a proxy whose server died."""
        server.breaks = [Break(HANG, after=2), Break(HANG)]
        await server.happen(1)
        async with client.subscribe(from_beginning=True, heartbeat_interval=SOON) as subscription:
            assert await events(1, subscription) == [1]
            reading = asyncio.ensure_future(events(1, subscription))
            await server.calls_are(3)
            await server.happen(1)
            assert await reading == [2]
        assert starts(server)[1:] == [("after_cursor", "1")] * 2

    async def test_a_line_that_swallows_everything_is_left(self, server, make_client):
        """The connection stands, and no byte passes: the call is given up, and a healthy line is used at once."""
        async with (
            Proxy(server.address) as proxy,
            make_client(proxy.address) as client,
            client.subscribe(from_now=True, heartbeat_interval=SOON) as subscription,
        ):
            reading = asyncio.ensure_future(events(1, subscription))
            await until(lambda: subscription.caught_up)
            proxy.flowing.clear()
            await server.happen(1)
            await until(lambda: subscription.last_error is not None)
            assert subscription.last_error.code in (Code.DEADLINE_EXCEEDED, Code.UNAVAILABLE)
            assert not reading.done()
            proxy.flowing.set()
            assert await reading == [1]

    async def test_a_renewal_shows_nowhere(self, server, client):
        async with client.subscribe(from_now=True, heartbeat_interval=SOON) as subscription:
            deliveries = subscription.deliveries()
            (caught_up,) = await first(1, deliveries)
            reading = asyncio.ensure_future(first(5, deliveries))
            await server.calls_are(2)
            assert (subscription.caught_up, subscription.last_error) == (True, None)
            await until(reading.done)
            assert caught_up == replace(caught_up, events=(), position=0, cursor="0", previous_cursor=None)
            assert await reading == [replace(caught_up, previous_cursor="0")] * 5, "heartbeats"
            assert subscription.caught_up
        assert {name for name, _ in starts(server)[1:]} == {"after_cursor"}


class TestWhatIsNotRetried:
    async def test_a_foreign_cursor_is_a_mismatch_and_the_end(self, server, client):
        subscription = client.subscribe(after_cursor=FOREIGN_CURSOR)
        with pytest.raises(CursorMismatchError):
            await anext(subscription)
        assert await rest(subscription) == []
        assert await rest(subscription.deliveries()) == []
        assert len(server.requests) == 1

    @pytest.mark.parametrize(
        "code", [Code.INVALID_ARGUMENT, Code.UNIMPLEMENTED, Code.PERMISSION_DENIED, Code.UNAUTHENTICATED]
    )
    async def test_a_code_that_would_come_again_is_raised_at_once(self, server, client, code):
        await server.happen(1)
        server.breaks = [Break(code, after=1)]
        subscription = client.subscribe(from_beginning=True)
        assert await events(1, subscription) == [1]
        with pytest.raises(TransportError) as raised:
            await anext(subscription)
        assert raised.value.code is code
        assert isinstance(raised.value.__cause__, grpc.RpcError)
        assert len(server.requests) == 1

    async def test_when_patience_runs_out_the_last_error_is_raised(self, server, client):
        await server.happen(1)
        server.breaks = [Break("DRAINING", after=1), *[Break("DATABASE_UNAVAILABLE")] * 100]
        subscription = client.subscribe(from_beginning=True, give_up_after_s=0.5)
        assert await events(1, subscription) == [1]
        with pytest.raises(DatabaseUnavailableError):
            await anext(subscription)
        assert 3 <= len(server.requests) <= 8
        assert await rest(subscription) == []

    async def test_no_patience_raises_the_first_break(self, server, client):
        server.breaks = [Break("DRAINING")]
        with pytest.raises(DrainingError):
            await anext(client.subscribe(from_beginning=True, give_up_after_s=0))

    async def test_wrong_arguments_never_leave_the_process(self, client):
        with pytest.raises(ValueError, match="exactly one of"):
            client.subscribe()
        with pytest.raises(ValueError, match="give_up_after_s must be 0 to 1000000000 seconds"):
            client.subscribe(from_now=True, give_up_after_s=-1)
        with pytest.raises(TypeError, match="give_up_after_s must be a number of seconds"):
            client.subscribe(from_now=True, give_up_after_s=SOON)


class TestCursors:
    async def test_deliveries_are_messages_with_their_cursor_and_the_one_before(self, server, client):
        await server.happen(5)
        async with client.subscribe(from_beginning=True, max_events_per_message=3) as subscription:
            found = await first(3, subscription.deliveries())
        assert [[event.position for event in delivery.events] for delivery in found] == [[1, 2, 3], [4, 5], []]
        assert [(d.previous_cursor, d.cursor, d.position) for d in found] == [
            (None, "3", 3), ("3", "5", 5), ("5", "5", 5),
        ]  # fmt: skip

    async def test_with_one_event_in_a_message_every_event_has_its_cursor(self, server, client):
        await server.happen(3)
        async with client.subscribe(from_beginning=True, max_events_per_message=1) as subscription:
            found = await first(3, subscription.deliveries())
        assert [(len(delivery.events), delivery.cursor) for delivery in found] == [(1, "1"), (1, "2"), (1, "3")]

    async def test_the_cursor_stands_after_what_the_caller_has_come_back_from(self, server, client):
        await server.happen(4)
        seen = []
        async with client.subscribe(from_beginning=True, max_events_per_message=3) as subscription:
            async for event in subscription:
                seen.append((event.position, subscription.cursor, subscription.position))
                if event.position == 4:
                    await subscription.aclose()
        assert seen == [(1, None, 0), (2, None, 1), (3, None, 2), (4, "3", 3)]
        assert (subscription.cursor, subscription.position) == ("4", 4), "it came back from the last one, too"

    async def test_an_event_that_was_left_is_not_finished(self, server, client):
        await server.happen(2)
        async with client.subscribe(from_beginning=True, max_events_per_message=1) as subscription:
            async for event in subscription:
                if event.position == 2:
                    break
            assert (subscription.cursor, subscription.position) == ("1", 1)
        assert subscription.cursor == "1"

    async def test_while_it_waits_for_events_heartbeats_move_the_cursor(self, server, client):
        async with client.subscribe(from_now=True, heartbeat_interval=SOON) as subscription:
            reading = asyncio.ensure_future(events(1, subscription))
            await until(lambda: subscription.cursor is not None)
            assert (subscription.cursor, subscription.caught_up) == ("0", True)
            await server.happen(1)
            assert await reading == [1]

    async def test_any_cursor_and_any_position_on_the_way_lose_and_repeat_nothing(self, server, client):
        await server.happen(7)
        async with client.subscribe(from_beginning=True, max_events_per_message=3) as subscription:
            for number in range(1, 8):
                await anext(subscription)
                finished = number - 1
                async with client.subscribe(after_position=subscription.position) as again:
                    assert await events(7 - finished, again) == list(range(number, 8))
                if subscription.cursor is not None:
                    async with client.subscribe(after_cursor=subscription.cursor) as again:
                        bookmark = finished // 3 * 3
                        assert await events(7 - bookmark, again) == list(range(bookmark + 1, 8))

    async def test_events_and_deliveries_may_take_turns(self, server, client):
        await server.happen(6)
        async with client.subscribe(from_beginning=True, max_events_per_message=4) as subscription:
            assert await events(1, subscription) == [1]
            (delivery,) = await first(1, subscription.deliveries())
            assert [event.position for event in delivery.events] == [2, 3, 4]
            assert await events(2, subscription) == [5, 6]


class TestLeaving:
    async def test_leaving_the_block_ends_the_call_and_the_iteration(self, server, client):
        async with client.subscribe(from_now=True) as subscription:
            await first(1, subscription.deliveries())
            assert server.open_calls == 1
        await server.calls_are(1, open_calls=0)
        assert await rest(subscription) == []

    async def test_dropping_it_ends_the_call(self, server, client):
        async for _ in client.subscribe(from_now=True).deliveries():
            break
        gc.collect()
        await server.calls_are(1, open_calls=0)

    @pytest.mark.parametrize("moment", ["reading", "waiting"])
    async def test_closing_it_ends_the_wait_of_whoever_reads(self, server, client, moment, monkeypatch):
        subscription = client.subscribe(from_now=True)
        reading = await self.read(subscription, moment, server, monkeypatch)
        await subscription.aclose()
        assert await asyncio.wait_for(reading, 2.0) == []
        await server.calls_are(1, open_calls=0)

    @pytest.mark.parametrize("moment", ["reading", "waiting"])
    async def test_closing_the_client_ends_it_with_a_transport_error(self, server, make_client, moment, monkeypatch):
        async with make_client(server.address) as client:
            subscription = client.subscribe(from_now=True)
            reading = await self.read(subscription, moment, server, monkeypatch)
        with pytest.raises(TransportError) as raised:
            await asyncio.wait_for(reading, 2.0)
        assert raised.value.code is Code.CANCELLED
        assert await rest(subscription) == []

    @staticmethod
    async def read(subscription, moment, server, monkeypatch):
        """Somebody who waits for the next message, or, for at least 30 s, for the next attempt."""
        if moment == "waiting":
            monkeypatch.setattr(resumption, "FIRST_DELAY_S", 60.0)
            monkeypatch.setattr(resumption, "MAX_DELAY_S", 60.0)
            server.breaks = [Break("DRAINING")]
        reading = asyncio.ensure_future(rest(subscription))
        await until(lambda: subscription.last_error if moment == "waiting" else subscription.caught_up)
        return reading

    async def test_one_that_was_closed_before_it_began_never_begins(self, server, client):
        subscription = client.subscribe(from_now=True)
        await subscription.aclose()
        assert await rest(subscription) == []
        assert server.requests == []

    async def test_a_closed_client_refuses_it(self, server, make_client):
        async with make_client(server.address) as client:
            pass
        with pytest.raises(RuntimeError, match="closed"):
            await anext(client.subscribe(from_now=True))

    async def test_an_error_of_the_handler_leaves_it_usable(self, server, client):
        await server.happen(3)
        async with client.subscribe(from_beginning=True) as subscription:
            with pytest.raises(ZeroDivisionError):
                await fail_over(subscription)
            assert subscription.cursor is None
            assert await events(2, subscription) == [2, 3]


async def test_it_starts_no_thread_of_its_own(server):
    with ChallengeClient(server.address) as client:
        for stream in (client.stream_events(from_now=True), client.subscribe(from_now=True).deliveries()):
            await asyncio.to_thread(next, stream)
        before = threading.active_count()
        subscriptions = [client.subscribe(from_now=True) for _ in range(5)]
        for subscription in subscriptions:
            await asyncio.to_thread(next, subscription.deliveries())
        assert threading.active_count() <= before + 1, "to_thread may have added one"


class TestCancelling:
    """Of tasks, so of the async kind alone."""

    @pytest.fixture
    async def client(self, server):
        async with AsyncChallengeClient(server.address) as connected:
            yield connected

    async def test_it_stays_a_cancellation_and_whoever_reads_on_loses_nothing(self, server, client, caplog):
        async with client.subscribe(from_now=True) as subscription:
            deliveries = subscription.deliveries()
            for number, kind in enumerate((subscription, deliveries), 1):
                reading = asyncio.create_task(rest(kind))
                await server.calls_are(number)
                await until(lambda: subscription.caught_up)
                reading.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await reading
                await server.calls_are(1, open_calls=0)
            assert len(server.requests) == 2
            await server.happen(2)
            found = []
            while len(found) < 2:
                found += (await anext(deliveries)).events
            assert [event.position for event in found] == [1, 2]
        assert "is resumed in" not in caplog.text, "that was no break"

    async def test_cancelled_at_any_moment_it_loses_and_repeats_nothing(self, server, client):
        """Reads end after ever other numbers of turns of the loop, in the middle of whatever goes on."""
        await server.happen(40)
        found = []
        async with client.subscribe(from_beginning=True, max_events_per_message=3) as subscription:
            turns = itertools.cycle(range(0, 120, 7))
            while len(found) < 40:
                with suppress(TimeoutError):
                    async with asyncio.timeout(None) as patience:
                        asyncio.get_running_loop().call_later(next(turns) / 2000, expire, patience)
                        while True:
                            found.append((await anext(subscription)).position)
        assert found == list(range(1, 41))

    async def test_a_cancelled_wait_before_the_next_attempt_is_no_break(self, server, client):
        server.breaks = [Break("DRAINING")] * 5
        async with client.subscribe(from_now=True) as subscription:
            reading = asyncio.create_task(rest(subscription))
            await server.calls_are(4)
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
            reading = asyncio.create_task(events(1, subscription))
            await server.calls_are(6, open_calls=1)
            await server.happen(1)
            assert await reading == [1]


def expire(patience: asyncio.Timeout) -> None:
    with suppress(RuntimeError):
        patience.reschedule(0)
