"""How the client for threads sends calls. Its twin is `async_connection`; what both do is decided elsewhere."""

import os
import random
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any
from weakref import WeakSet

import grpc

from challenge_client.batches import Batch, Outcome
from challenge_client.calls import Call, ItemT, Page, ResultT
from challenge_client.channels import ChannelOptions, channel_options
from challenge_client.errors import ChallengeError
from challenge_client.event_stream import EventStream
from challenge_client.resumption import Resumption
from challenge_client.retries import Attempts, describe
from challenge_client.statuses import cancelled, error_from_rpc
from challenge_client.submitting import Submitting
from challenge_client.subscription import Subscription
from challenge_client.values import StreamMessage, TradeSubmission
from propfirm.challenge.v1.challenge_pb2_grpc import ChallengeServiceStub

_connections: "WeakSet[Connection]" = WeakSet()
_abandoned: list[Any] = []
"""Channels of a parent process. To let go of them here could wait for threads that a fork does not copy."""


def _begin_anew() -> None:
    """In the child, before anything else runs there."""
    for connection in list(_connections):
        connection._begin_anew()


def _know(connection: "Connection") -> None:
    """From now on the connection is begun anew in every process that is forked."""
    if not _watching_forks.is_set():
        _watching_forks.set()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=_begin_anew)
    _connections.add(connection)


_watching_forks = threading.Event()


class Connection:
    """A channel that is made when it is first needed, and what is done over it. May be used by many threads.

    In a process that was forked it makes a channel of its own: gRPC's threads stay with the parent.
    """

    def __init__(self, target: str, channel: grpc.Channel | None, options: ChannelOptions) -> None:
        self._target = target
        self._given_channel = channel
        self._options = channel_options(options)
        self._is_orphan = False
        self._begin()
        _know(self)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._own_channel: grpc.Channel | None = None
        self._stub: Any = None
        self._subscriptions: WeakSet[Subscription] = WeakSet()

    def close(self) -> None:
        """End all calls, streams and subscriptions. May be called again."""
        with self._lock:
            self._ended.set()
            subscriptions = list(self._subscriptions)
        for subscription in subscriptions:
            subscription.close(cancelled("the client was closed"))
        with self._lock:
            self._stub = None
            channel, self._own_channel = self._own_channel, None
        if channel is not None:
            channel.close()

    def send(self, call: Call[ResultT], attempts: Attempts) -> ResultT:
        """The answer to a call, sent again as long as that may help."""
        while True:
            try:
                return self._send_once(call, attempts)
            except ChallengeError as error:
                delay_s = attempts.delay_s(error, time.monotonic(), _chance())
                describe(error, call.method, call.about, attempts)
                if delay_s is None:
                    raise
            self._pause(delay_s)

    def send_batch(self, batch: Batch) -> list[Outcome]:
        """The outcomes of a batch, whose undecided rest is sent again as long as that may help."""
        while True:
            call = batch.call
            try:
                outcomes = self._send_once(call, batch.attempts)
            except ChallengeError as error:
                delay_s = batch.failed(error, time.monotonic(), _chance())
            else:
                delay_s = batch.answered(outcomes, time.monotonic(), _chance())
            if delay_s is None:
                return batch.outcomes
            self._pause(delay_s)

    def submit_all(self, submissions: Iterable[TradeSubmission], submitting: Submitting) -> Iterator[Outcome]:
        """The outcomes of many submissions as they become known."""
        source = iter(submissions)
        answers: SimpleQueue[tuple[Batch, Call[list[Outcome]], Any]] = SimpleQueue()
        running: set[Any] = set()

        def start(batch: Batch) -> None:
            call, timeout_s = batch.call, batch.attempts.begin(time.monotonic())
            rpc = getattr(self._connected(), call.method).future(call.request, timeout=timeout_s)
            running.add(rpc)
            rpc.add_done_callback(lambda done: answers.put((batch, call, done)))

        def settle(batch: Batch, call: Call[list[Outcome]], rpc: Any) -> None:
            running.discard(rpc)
            _take_answer(submitting, batch, call, rpc)

        try:
            while not submitting.is_done:
                yield from submitting.take()
                while not answers.empty():
                    settle(*answers.get())
                submitting.read_from(source)
                for batch in submitting.due(time.monotonic()):
                    start(batch)
                if submitting.wants:
                    continue
                wait_s = submitting.wait_s(time.monotonic())
                if running:
                    with suppress(Empty):
                        settle(*answers.get(timeout=wait_s))
                elif wait_s is not None:
                    self._pause(wait_s)
        finally:
            for rpc in running:
                rpc.cancel()

    def items(self, call: Call[Page[ItemT]], timeout_s: float, max_attempts: int | None) -> Iterator[ItemT]:
        """The items of a list, page by page."""
        following: Call[Page[ItemT]] | None = call
        while following is not None:
            page = self.send(following, Attempts(timeout_s=timeout_s, max_attempts=max_attempts))
            yield from page.items
            following = page.next

    def stream(self, call: Call[StreamMessage | None]) -> EventStream:
        """A stream, whose call begins with its first message."""
        return EventStream(self._open, call)

    def subscription(self, resumption: Resumption) -> Subscription:
        """A subscription, which ends with this connection."""
        subscription = Subscription(self.stream, resumption)
        with self._lock:
            self._subscriptions.add(subscription)
        return subscription

    def _send_once(self, call: Call[ResultT], attempts: Attempts) -> ResultT:
        method = getattr(self._connected(), call.method)
        try:
            response = method(call.request, timeout=attempts.begin(time.monotonic()))
        except grpc.RpcError as error:
            raise error_from_rpc(error) from error
        except ValueError:
            # What grpc says when another thread has closed the channel just now.
            if self._ended.is_set():
                raise cancelled("the client was closed") from None
            raise
        return call.decode(response)

    def _open(self, call: Call[Any]) -> Any:
        return getattr(self._connected(), call.method)(call.request, timeout=call.timeout_s)

    def _pause(self, seconds: float) -> None:
        if self._ended.wait(seconds):
            raise cancelled("the client was closed")

    def _connected(self) -> Any:
        """The stub, made by the first call of this process."""
        if self._is_orphan:
            raise RuntimeError(
                "this client was given a channel, which does not survive a fork: make a channel and a client in the"
                " new process"
            )
        with self._lock:
            if self._ended.is_set():
                raise RuntimeError("this client is closed")
            if self._stub is None:
                channel = self._given_channel
                if channel is None:
                    channel = self._own_channel = grpc.insecure_channel(self._target, options=self._options)
                self._stub = ChallengeServiceStub(channel)  # type: ignore[no-untyped-call]  # generated
            return self._stub

    def _begin_anew(self) -> None:
        was_closed = self._ended.is_set()
        _abandoned.extend([self._own_channel, self._stub, list(self._subscriptions)])
        self._is_orphan = self._given_channel is not None
        self._begin()
        if was_closed:
            self._ended.set()


def _chance() -> float:
    return random.random()  # noqa: S311 -- no secret


def _take_answer(submitting: Submitting, batch: Batch, call: Call[list[Outcome]], rpc: Any) -> None:
    try:
        outcomes = call.decode(rpc.result())
    except grpc.RpcError as error:
        failure = error_from_rpc(error)
        failure.__cause__ = error
        submitting.failed(batch, failure, time.monotonic(), _chance())
    except grpc.FutureCancelledError:
        submitting.failed(batch, cancelled("the channel was closed during the call"), time.monotonic(), _chance())
    else:
        submitting.answered(batch, outcomes, time.monotonic(), _chance())
