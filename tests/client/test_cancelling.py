"""What is left, closed or cancelled ends on the server, too. Both clients against a server that never answers."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from challenge_client import AsyncChallengeClient, CaughtUp, ChallengeClient, TransportError
from propfirm.challenge.v1 import challenge_pb2 as pb
from tests.client import messages

PATIENCE_S = 5.0


class SilentServer:
    """Says that a stream has caught up, then nothing more; a question it never answers. Notes what begins and ends."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.ended = asyncio.Event()
        self.address = ""
        self._server = grpc.aio.server()

    async def __aenter__(self) -> "SilentServer":
        handlers = {
            "StreamEvents": grpc.unary_stream_rpc_method_handler(self._stream),
            "GetChallenge": grpc.unary_unary_rpc_method_handler(self._wait),
        }
        service = "propfirm.challenge.v1.ChallengeService"
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.stop(None)

    async def has_ended(self) -> None:
        """Wait for the end of a call, long before the pings that nobody answers would end it."""
        async with asyncio.timeout(PATIENCE_S):
            await self.ended.wait()

    async def _wait(self, request, context):
        self.begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.ended.set()

    async def _stream(self, request, context):
        try:
            yield messages.message("c", caught_up=pb.CaughtUp(position=3)).SerializeToString()
            await self._wait(request, context)
        finally:
            # The end may come while the message is on its way.
            self.ended.set()


@pytest.fixture
async def silent():
    async with SilentServer() as server:
        yield server


@pytest.fixture
async def client(silent, make_client):
    async with make_client(silent.address) as connected:
        yield connected


async def everything(stream):
    return [message async for message in stream]


async def test_leaving_the_loop_over_a_stream_ends_the_call(client, silent):
    async for message in client.stream_events(from_now=True):
        assert message == CaughtUp("c", 3)
        break
    await silent.has_ended()


async def test_leaving_the_block_of_a_stream_ends_the_call(client, silent):
    async with client.stream_events(from_now=True) as stream:
        await anext(stream)
    await silent.has_ended()
    assert await everything(stream) == []


async def test_closing_a_stream_ends_the_iteration_of_whoever_waits_for_it(client, silent):
    stream = client.stream_events(from_now=True)
    received = asyncio.Event()

    async def count():
        number = 0
        async for _ in stream:
            number += 1
            received.set()
        return number

    reader = asyncio.create_task(count())
    await received.wait()
    await stream.aclose()
    assert await reader == 1
    await silent.has_ended()


async def test_closing_the_client_ends_its_streams_with_a_transport_error(silent, make_client):
    async with make_client(silent.address) as client:
        stream = client.stream_events(from_now=True)
        await anext(stream)
        waiting = asyncio.ensure_future(anext(stream))
        await silent.begun.wait()
    with pytest.raises(TransportError) as raised:
        await waiting
    assert raised.value.code is grpc.StatusCode.CANCELLED
    await silent.has_ended()


async def test_closing_the_client_ends_its_calls_with_a_transport_error(silent, make_client):
    async with make_client(silent.address) as client:
        waiting = asyncio.create_task(client.get_challenge("id"))
        await silent.begun.wait()
    with pytest.raises(TransportError) as raised:
        await waiting
    assert raised.value.code is grpc.StatusCode.CANCELLED
    await silent.has_ended()


@pytest.mark.parametrize("name", ["stream", "call"])
async def test_cancelling_a_task_cancels_its_call_and_stays_a_cancellation(silent, name):
    async with AsyncChallengeClient(silent.address) as client:
        stream = client.stream_events(from_now=True)
        waiting = asyncio.create_task(everything(stream) if name == "stream" else client.get_challenge("id"))
        await silent.begun.wait()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await silent.has_ended()
        if name == "stream":
            assert await everything(stream) == []


async def test_an_async_client_belongs_to_the_loop_of_its_first_call(silent):
    async with AsyncChallengeClient(silent.address) as client:
        await anext(client.stream_events(from_now=True))

        def elsewhere():
            return asyncio.run(client.get_challenge("id"))

        with pytest.raises(RuntimeError, match="another event loop"):
            await asyncio.to_thread(elsewhere)


async def test_an_async_client_may_be_made_before_there_is_a_loop(silent):
    with ThreadPoolExecutor(1) as pool:
        client = pool.submit(AsyncChallengeClient, silent.address).result()
    async with client:
        assert await anext(client.stream_events(from_now=True)) == CaughtUp("c", 3)


async def test_a_channel_of_the_callers_own_stays_open(silent):
    with grpc.insecure_channel(silent.address) as channel:
        for _ in range(2):
            with ChallengeClient(channel=channel) as client, client.stream_events(from_now=True) as stream:
                assert await asyncio.to_thread(next, stream) == CaughtUp("c", 3)
    async with grpc.aio.insecure_channel(silent.address) as channel:
        for _ in range(2):
            async with (
                AsyncChallengeClient(channel=channel) as client,
                client.stream_events(from_now=True) as stream,
            ):
                assert await anext(stream) == CaughtUp("c", 3)
