"""Both clients behind one face, so that one suite runs over both. The server comes from the shared `server_address`."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from challenge_client import AsyncChallengeClient, ChallengeClient, EventStream, Subscription

END = object()


class ThreadedStream:
    """A sync stream, each step taken in a thread."""

    def __init__(self, stream: EventStream) -> None:
        self._stream = stream

    async def __aenter__(self) -> "ThreadedStream":
        self._stream.__enter__()
        return self

    async def __aexit__(self, *raised: Any) -> None:
        self._stream.__exit__(*raised)

    def __aiter__(self) -> "ThreadedStream":
        return self

    async def __anext__(self) -> Any:
        message = await asyncio.to_thread(next, self._stream, END)
        if message is END:
            raise StopAsyncIteration
        return message

    async def aclose(self) -> None:
        self._stream.close()


class ThreadedSubscription:
    """A sync subscription, each step taken in a thread."""

    def __init__(self, subscription: Subscription) -> None:
        self._subscription = subscription

    async def __aenter__(self) -> "ThreadedSubscription":
        self._subscription.__enter__()
        return self

    async def __aexit__(self, *raised: Any) -> None:
        self._subscription.__exit__(*raised)

    def __aiter__(self) -> "ThreadedSubscription":
        return self

    async def __anext__(self) -> Any:
        event = await asyncio.to_thread(next, self._subscription, END)
        if event is END:
            raise StopAsyncIteration
        return event

    def __getattr__(self, name: str) -> Any:
        return getattr(self._subscription, name)

    def deliveries(self) -> AsyncIterator[Any]:
        return _threaded(self._subscription.deliveries())

    async def aclose(self, *error: Any) -> None:
        self._subscription.close(*error)


class ThreadedClient:
    """The sync client with the face of the async one; nothing but the waiting differs."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self._client = ChallengeClient(*arguments, **named)

    async def __aenter__(self) -> "ThreadedClient":
        self._client.__enter__()
        return self

    async def __aexit__(self, *raised: Any) -> None:
        await asyncio.to_thread(self._client.__exit__, *raised)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._client, name)
        if name == "stream_events":
            return lambda **named: ThreadedStream(method(**named))
        if name == "subscribe":
            return lambda **named: ThreadedSubscription(method(**named))
        if name.startswith("list_") or name == "submit_trades":
            return lambda *arguments, **named: _threaded(method(*arguments, **named))

        async def call(*arguments: Any, **named: Any) -> Any:
            return await asyncio.to_thread(method, *arguments, **named)

        return call


async def _threaded(items: Iterator[Any]) -> AsyncIterator[Any]:
    while (item := await asyncio.to_thread(next, items, END)) is not END:
        yield item


@pytest.fixture(params=[ThreadedClient, AsyncChallengeClient], ids=["sync", "async"])
def make_client(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Makes a client of the kind under test."""
    return request.param


@pytest.fixture
async def client(make_client: Callable[..., Any], server_address: str) -> AsyncIterator[Any]:
    """A client of the real server."""
    async with make_client(server_address) as connected:
        yield connected
