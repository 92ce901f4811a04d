"""One call that streams events, for asyncio. Its twin is `event_stream`."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio

from challenge_client.calls import Call
from challenge_client.statuses import cancelled, error_from_rpc
from challenge_client.values import StreamMessage


class AsyncEventStream(AsyncIterator[StreamMessage]):
    """The messages of one `stream_events` call.

    Closing it ends the call, and so does dropping it: a loop over `client.stream_events(…)` that is left early ends the
    call by itself. To keep the stream in a variable, use it as an async context manager.
    """

    def __init__(self, open_rpc: Callable[[Call[Any]], Any], call: Call[StreamMessage | None]) -> None:
        self._open_rpc = open_rpc
        self._call = call
        self._rpc: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        if self._loop is not None and not self._closed:
            # Whatever thread drops the last reference, the call is cancelled on its own loop, unless that has ended.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._rpc.cancel)

    async def __anext__(self) -> StreamMessage:
        if self._closed:
            raise StopAsyncIteration
        if self._rpc is None:
            self._rpc = self._open_rpc(self._call)
            self._loop = asyncio.get_running_loop()
        while True:
            response = await self._read()
            if response is grpc.aio.EOF:
                await self.aclose()
                raise StopAsyncIteration
            message = self._call.decode(response)
            if message is not None:
                return message

    async def aclose(self) -> None:
        """End the call; the iteration is then over. May be called again, and from another task."""
        self._closed = True
        if self._rpc is not None:
            self._rpc.cancel()

    async def _read(self) -> Any:
        try:
            return await self._rpc.read()
        except grpc.RpcError as error:
            await self.aclose()
            failure = error_from_rpc(error)
            failure.note(self._call.method, self._call.about, 1)
            raise failure from error
        except asyncio.CancelledError:
            was_closed = self._closed
            await self.aclose()
            if task_is_cancelled():
                raise
            if was_closed:
                return grpc.aio.EOF
            raise cancelled("the channel was closed during the stream") from None


def task_is_cancelled() -> bool:
    """Whether a `CancelledError` is meant for the running task: grpc.aio raises it for a cancelled call, too."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
