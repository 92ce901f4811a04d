"""How the client for asyncio sends calls. Its twin is `connection`; what both do is decided elsewhere."""

import asyncio
import os
import random
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Iterator
from contextlib import suppress
from typing import Any
from weakref import WeakSet

import grpc
import grpc.aio

from challenge_client.async_event_stream import AsyncEventStream, task_is_cancelled
from challenge_client.async_subscription import AsyncSubscription
from challenge_client.batches import Batch, Outcome
from challenge_client.calls import Call, ItemT, Page, ResultT
from challenge_client.channels import ChannelOptions, channel_options
from challenge_client.errors import ChallengeError
from challenge_client.resumption import Resumption
from challenge_client.retries import Attempts, describe
from challenge_client.statuses import cancelled, error_from_rpc
from challenge_client.submitting import Submitting
from challenge_client.values import StreamMessage, TradeSubmission
from propfirm.challenge.v1.challenge_pb2_grpc import ChallengeServiceStub

_END: Any = object()


class AsyncConnection:
    """A channel that is made when it is first needed, and what is done over it, all on the loop of the first call."""

    def __init__(self, target: str, channel: grpc.aio.Channel | None, options: ChannelOptions) -> None:
        self._target = target
        self._given_channel = channel
        self._options = channel_options(options)
        self._pid = os.getpid()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended = asyncio.Event()
        self._own_channel: grpc.aio.Channel | None = None
        self._stub: Any = None
        # Older releases of grpc.aio overlook streams when they close a channel.
        self._streaming: WeakSet[Any] = WeakSet()
        self._subscriptions: WeakSet[AsyncSubscription] = WeakSet()

    async def close(self) -> None:
        """End all calls, streams and subscriptions. May be called again."""
        self._ended.set()
        for subscription in list(self._subscriptions):
            await subscription.aclose(cancelled("the client was closed"))
        self._stub = None
        channel, self._own_channel = self._own_channel, None
        if channel is not None and os.getpid() == self._pid:
            for rpc in list(self._streaming):
                rpc.cancel()
            await channel.close()

    async def send(self, call: Call[ResultT], attempts: Attempts) -> ResultT:
        """The answer to a call, sent again as long as that may help."""
        while True:
            try:
                return await self._send_once(call, attempts)
            except ChallengeError as error:
                delay_s = attempts.delay_s(error, time.monotonic(), _chance())
                describe(error, call.method, call.about, attempts)
                if delay_s is None:
                    raise
            await self._pause(delay_s)

    async def send_batch(self, batch: Batch) -> list[Outcome]:
        """The outcomes of a batch, whose undecided rest is sent again as long as that may help."""
        while True:
            call = batch.call
            try:
                outcomes = await self._send_once(call, batch.attempts)
            except ChallengeError as error:
                delay_s = batch.failed(error, time.monotonic(), _chance())
            else:
                delay_s = batch.answered(outcomes, time.monotonic(), _chance())
            if delay_s is None:
                return batch.outcomes
            await self._pause(delay_s)

    async def submit_all(
        self, submissions: Iterable[TradeSubmission] | AsyncIterable[TradeSubmission], submitting: Submitting
    ) -> AsyncGenerator[Outcome]:
        """The outcomes of many submissions as they become known."""
        source = aiter(submissions) if isinstance(submissions, AsyncIterable) else iter(submissions)
        reading: asyncio.Task[Any] | None = None
        running: dict[asyncio.Task[Any], Batch] = {}
        try:
            while not submitting.is_done:
                for outcome in submitting.take():
                    yield outcome
                if isinstance(source, Iterator):
                    submitting.read_from(source)
                elif submitting.wants or reading is not None:
                    reading = await _read_on(source, reading, submitting)
                for batch in submitting.due(time.monotonic()):
                    running[asyncio.ensure_future(self._send_once(batch.call, batch.attempts))] = batch
                if submitting.wants and reading is None:
                    continue
                wait_s = submitting.wait_s(time.monotonic())
                unfinished = [*running, *([reading] if reading else [])]
                if unfinished:
                    await asyncio.wait(unfinished, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
                elif wait_s is not None:
                    await self._pause(wait_s)
                for task in [task for task in running if task.done()]:
                    _take_answer(submitting, running.pop(task), task)
        finally:
            unfinished = [*running, *([reading] if reading else [])]
            for task in unfinished:
                task.cancel()
            await asyncio.gather(*unfinished, return_exceptions=True)

    async def items(self, call: Call[Page[ItemT]], timeout_s: float, max_attempts: int | None) -> AsyncGenerator[ItemT]:
        """The items of a list, page by page."""
        following: Call[Page[ItemT]] | None = call
        while following is not None:
            page = await self.send(following, Attempts(timeout_s=timeout_s, max_attempts=max_attempts))
            for item in page.items:
                yield item
            following = page.next

    def stream(self, call: Call[StreamMessage | None]) -> AsyncEventStream:
        """A stream, whose call begins with its first message."""
        return AsyncEventStream(self._open, call)

    def subscription(self, resumption: Resumption) -> AsyncSubscription:
        """A subscription, which ends with this connection."""
        subscription = AsyncSubscription(self.stream, resumption)
        self._subscriptions.add(subscription)
        return subscription

    async def _send_once(self, call: Call[ResultT], attempts: Attempts) -> ResultT:
        method = getattr(self._connected(), call.method)
        try:
            response = await method(call.request, timeout=attempts.begin(time.monotonic()))
        except grpc.RpcError as error:
            raise error_from_rpc(error) from error
        except asyncio.CancelledError:
            if task_is_cancelled():
                raise
            raise cancelled("the channel was closed during the call") from None
        return call.decode(response)

    def _open(self, call: Call[Any]) -> Any:
        rpc = getattr(self._connected(), call.method)(call.request, timeout=call.timeout_s)
        self._streaming.add(rpc)
        return rpc

    async def _pause(self, seconds: float) -> None:
        if not seconds:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._ended.wait()
            raise cancelled("the client was closed")

    def _connected(self) -> Any:
        """The stub, made by the first call on the loop that runs it."""
        if os.getpid() != self._pid:
            raise RuntimeError(
                "this client was made before a fork, which grpc.aio does not survive: make a new client in the new"
                " process, or fork before the first one is made"
            )
        if self._ended.is_set():
            raise RuntimeError("this client is closed")
        loop = asyncio.get_running_loop()
        if self._stub is None:
            self._loop = loop
            channel = self._given_channel
            if channel is None:
                channel = self._own_channel = grpc.aio.insecure_channel(self._target, options=self._options)
            self._stub = ChallengeServiceStub(channel)  # type: ignore[no-untyped-call]  # generated
        if loop is not self._loop:
            raise RuntimeError("this client belongs to another event loop: make one client for each loop")
        return self._stub


def _chance() -> float:
    return random.random()  # noqa: S311 -- no secret


async def _next(source: AsyncIterator[TradeSubmission]) -> Any:
    return await anext(source, _END)


async def _read_on(
    source: AsyncIterator[TradeSubmission], reading: "asyncio.Task[Any] | None", submitting: Submitting
) -> "asyncio.Task[Any] | None":
    """Read as many submissions as are wanted and at hand. Whoever has none at hand is still being asked afterwards.

    So a source that is quick fills whole chunks, and nothing is held back for one that is slow.
    """
    while reading is not None or submitting.wants:
        reading = reading or asyncio.ensure_future(_next(source))
        await asyncio.wait([reading], timeout=0)
        if not reading.done():
            return reading
        try:
            submission = reading.result()
            if submission is _END:
                submitting.end()
            else:
                submitting.add(submission)
        except Exception as error:  # noqa: BLE001 -- raised once those before it have their outcomes
            submitting.end(error)
        reading = None
    return None


def _take_answer(submitting: Submitting, batch: Batch, task: "asyncio.Task[list[Outcome]]") -> None:
    try:
        outcomes = task.result()
    except ChallengeError as error:
        submitting.failed(batch, error, time.monotonic(), _chance())
    else:
        submitting.answered(batch, outcomes, time.monotonic(), _chance())
