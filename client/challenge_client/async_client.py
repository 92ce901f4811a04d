"""The client for asyncio. Its twin is `client`; what both do is decided in `calls`."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Self
from weakref import WeakSet

import grpc
import grpc.aio

from challenge_client import calls, inputs
from challenge_client.async_subscription import AsyncSubscription
from challenge_client.calls import Call, ItemT, Page, ResultT
from challenge_client.channels import DEFAULT_TARGET, DEFAULT_TIMEOUT_S, ChannelOptions, channel_options
from challenge_client.enums import ChallengeStatus
from challenge_client.errors import ChallengeError
from challenge_client.inputs import NumberLike
from challenge_client.resumption import Resumption
from challenge_client.statuses import cancelled, error_from_rpc
from challenge_client.values import (
    Challenge,
    ChallengeEvent,
    Decision,
    Limits,
    RecordedTrade,
    StreamMessage,
    Trade,
    TradeSubmission,
)
from propfirm.challenge.v1.challenge_pb2_grpc import ChallengeServiceStub


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
            raise error_from_rpc(error) from error
        except asyncio.CancelledError:
            was_closed = self._closed
            await self.aclose()
            if _task_is_cancelled():
                raise
            if was_closed:
                return grpc.aio.EOF
            raise cancelled("the channel was closed during the stream") from None


class AsyncChallengeClient:
    """Talks to a Challenge Engine from one event loop, that of its first call.

        async with AsyncChallengeClient("challenges.internal:50051") as client:
            challenge = await client.create_challenge(initial_balance="100000")

    It connects with the first call. `timeout_s` is the deadline of a call that names none of its own. `options` are
    gRPC channel options, put over the SDK's. A `channel` of your own is used instead of `target` and `options`, and
    stays yours to close.

    Every method raises `TransportError` when the server cannot be reached or the deadline passes, and besides it the
    other subclasses of `ChallengeError` when the server says no. Arguments that no server could accept are `TypeError`
    (a `float` amount) or `ValueError` (a naive datetime, a ninth decimal place) before anything is sent.
    """

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        *,
        channel: grpc.aio.Channel | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        options: ChannelOptions = (),
    ) -> None:
        self._target = target
        self._given_channel = channel
        self._timeout_s = timeout_s
        self._options = channel_options(options)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._own_channel: grpc.aio.Channel | None = None
        self._stub: Any = None
        # Older releases of grpc.aio overlook streams when they close a channel.
        self._streaming: WeakSet[Any] = WeakSet()
        self._subscriptions: WeakSet[AsyncSubscription] = WeakSet()
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the channel, which ends all calls, streams and subscriptions. May be called again."""
        self._closed = True
        for subscription in list(self._subscriptions):
            await subscription.aclose(cancelled("the client was closed"))
        self._stub = None
        channel, self._own_channel = self._own_channel, None
        if channel is not None:
            for rpc in list(self._streaming):
                rpc.cancel()
            await channel.close()

    async def create_challenge(
        self,
        *,
        initial_balance: NumberLike,
        challenge_id: str | None = None,
        limits: Limits | None = None,
        currency_code: str = "",
        labels: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> Challenge:
        """Make a challenge in status PENDING.

        `initial_balance` is an amount of at least 0.01; `limits` default to 5, 10 and 10 per cent, `currency_code` to
        USD. With a `challenge_id` (a UUID) of your own you may repeat the call: the same content again answers the
        challenge as it is now, with `replayed` set. Without one the SDK makes one.

        Raises `ChallengeExistsError` if the id is taken by other content, `ValidationFailedError` for bad fields.
        """
        call = calls.create_challenge(
            initial_balance=initial_balance,
            challenge_id=challenge_id,
            limits=limits,
            currency_code=currency_code,
            labels=labels,
        )
        return await self._send(call, timeout_s)

    async def submit_trade(
        self,
        challenge_id: str,
        *,
        trade_id: str,
        realized_pnl: NumberLike,
        executed_at: datetime,
        symbol: str = "",
        expected_sequence: int | None = None,
        validate_only: bool = False,
        timeout_s: float | None = None,
    ) -> Decision:
        """Decide one trade and record the decision; see `Trade` for its fields.

        The same trade again answers the recorded decision, with `replayed` set, so a call that failed without an answer
        may simply be repeated. `expected_sequence`, if given, is the sequence the trade must get. `validate_only`
        decides on the state as it is and records nothing.

        Raises `ChallengeNotFoundError`, `ChallengeTerminalError`, `TradeOutOfOrderError`, `TradeInFutureError`,
        `TradeIdReusedError`, `SequenceMismatchError`, `EquityOutOfRangeError` or `ValidationFailedError`; the trade
        then left no trace.
        """
        trade = Trade(trade_id, realized_pnl, executed_at, symbol)
        call = calls.submit_trade(TradeSubmission(challenge_id, trade, expected_sequence, validate_only))
        return await self._send(call, timeout_s)

    async def submit_batch(
        self, submissions: Iterable[TradeSubmission], *, timeout_s: float | None = None
    ) -> list[Decision | ChallengeError]:
        """Decide at most 500 trades, of one challenge or of many, in the order given.

        The answers are in that order too: each is a `Decision`, or the `ChallengeError` that `submit_trade` would have
        raised. It is not raised here, because one refused trade never takes another down. More than 500 submissions
        are a `ValueError`.
        """
        return await self._send(calls.submit_batch(submissions), timeout_s)

    async def get_challenge(
        self, challenge_id: str, *, at_sequence: int | None = None, timeout_s: float | None = None
    ) -> Challenge:
        """Read a challenge as it is now, or as it was right after trade `at_sequence` (0: as created).

        Raises `ChallengeNotFoundError`, or `SequenceNotFoundError` for a trade it does not have.
        """
        return await self._send(calls.get_challenge(challenge_id, at_sequence=at_sequence), timeout_s)

    def list_challenges(
        self,
        *,
        statuses: Iterable[ChallengeStatus] = (),
        labels: Mapping[str, str] | None = None,
        closed_at_from: datetime | None = None,
        closed_at_before: datetime | None = None,
        page_size: int = 0,
    ) -> AsyncIterator[Challenge]:
        """Iterate over challenges, oldest first, fetching pages as they are needed.

        All filters must hold: any of `statuses`, all of `labels`, closed at or after `closed_at_from` and before
        `closed_at_before`. `page_size` is the number of rows of one call, at most 1000; 0 means 100.
        """
        call = calls.list_challenges(
            statuses=statuses,
            labels=labels,
            closed_at_from=closed_at_from,
            closed_at_before=closed_at_before,
            page_size=page_size,
        )
        return self._items(call)

    def list_trades(
        self, challenge_id: str, *, from_sequence: int = 0, to_sequence: int = 0, page_size: int = 0
    ) -> AsyncIterator[RecordedTrade]:
        """Iterate over the accepted trades of a challenge with their decisions, fetching pages as they are needed.

        `from_sequence` and `to_sequence` are both included; 0 means from the first, and to the last. `page_size` is
        the number of rows of one call, at most 1000; 0 means 100. The iteration raises `ChallengeNotFoundError`.
        """
        call = calls.list_trades(
            challenge_id, from_sequence=from_sequence, to_sequence=to_sequence, page_size=page_size
        )
        return self._items(call)

    def list_events(
        self,
        *,
        challenge_id: str | None = None,
        new_statuses: Iterable[ChallengeStatus] = (),
        after_position: int = 0,
        page_size: int = 0,
    ) -> AsyncIterator[ChallengeEvent]:
        """Iterate over recorded events after a position, fetching pages as they are needed.

        `challenge_id` None and no `new_statuses` mean all; CHALLENGE_CREATED counts as PENDING. `page_size` is the
        number of rows of one call, at most 1000; 0 means 100.
        """
        call = calls.list_events(
            challenge_id=challenge_id, new_statuses=new_statuses, after_position=after_position, page_size=page_size
        )
        return self._items(call)

    def stream_events(
        self,
        *,
        challenge_ids: Iterable[str] = (),
        new_statuses: Iterable[ChallengeStatus] = (),
        after_cursor: str | None = None,
        after_position: int | None = None,
        from_beginning: bool = False,
        from_now: bool = False,
        heartbeat_interval: timedelta | None = None,
        max_events_per_message: int = 1,
    ) -> AsyncEventStream:
        """Follow events: first the recorded ones after the start, then new ones as they are committed.

        Exactly one start must be given, else `ValueError`: after the message that carried a cursor (under the same
        filter), after a position (0 is before the first), from the beginning, or from now. The call begins when the
        first message is asked for, and has no deadline; `heartbeat_interval` (1 s to 1 h, 30 s by default) is how long
        it may stay silent. Store a message's `cursor` once it is handled. With `max_events_per_message` of 2 to 500
        events may come as `EventBatch` while you are behind, which is faster.

        The iteration raises `DrainingError` when the server stops, `CursorMismatchError` for a cursor of another log
        or filter, `TransportError` when the connection is lost: open a new stream after the last cursor, or let
        `subscribe` do it.
        """
        call = calls.stream_events(
            challenge_ids=challenge_ids,
            new_statuses=new_statuses,
            after_cursor=after_cursor,
            after_position=after_position,
            from_beginning=from_beginning,
            from_now=from_now,
            heartbeat_interval=heartbeat_interval,
            max_events_per_message=max_events_per_message,
        )
        return AsyncEventStream(self._open, call)

    def subscribe(
        self,
        *,
        challenge_ids: Iterable[str] = (),
        new_statuses: Iterable[ChallengeStatus] = (),
        after_cursor: str | None = None,
        after_position: int | None = None,
        from_beginning: bool = False,
        from_now: bool = False,
        heartbeat_interval: timedelta | None = None,
        max_events_per_message: int = 200,
        give_up_after_s: float | None = None,
    ) -> AsyncSubscription:
        """Follow events through every break: the same as `stream_events`, but it reconnects and resumes by itself.

        Filters and starts are those of `stream_events`. Each event is given once and in order. A lost connection, a
        server that stops, and a peer that says nothing for longer than one and a half heartbeat intervals and 2 s
        lead to a new call after the last message, after a wait of 0.1 s that doubles up to 10 s as long as nothing
        comes of it. `give_up_after_s` seconds after a break without any progress the last error is raised; None means
        never. With `from_now`, "now" is when the server first answers.

        `max_events_per_message` (at most 500) is how many events the server may put into one message while you are
        behind, which is faster; they share a cursor. With 1 every event has its own.

        The iteration raises `CursorMismatchError`, `ValidationFailedError` and whatever else would be said again at
        once. Wrong arguments are `ValueError` or `TypeError` here.
        """
        call = calls.stream_events(
            challenge_ids=challenge_ids,
            new_statuses=new_statuses,
            after_cursor=after_cursor,
            after_position=after_position,
            from_beginning=from_beginning,
            from_now=from_now,
            heartbeat_interval=heartbeat_interval,
            max_events_per_message=max_events_per_message,
        )
        if give_up_after_s is not None:
            give_up_after_s = inputs.seconds(give_up_after_s, "give_up_after_s")
        resumption = Resumption(call, give_up_after_s=give_up_after_s)
        subscription = AsyncSubscription(lambda stream: AsyncEventStream(self._open, stream), resumption)
        self._subscriptions.add(subscription)
        return subscription

    async def _send(self, call: Call[ResultT], timeout_s: float | None = None) -> ResultT:
        method = getattr(self._connected(), call.method)
        try:
            response = await method(call.request, timeout=self._timeout_s if timeout_s is None else timeout_s)
        except grpc.RpcError as error:
            raise error_from_rpc(error) from error
        except asyncio.CancelledError:
            if _task_is_cancelled():
                raise
            raise cancelled("the channel was closed during the call") from None
        return call.decode(response)

    async def _items(self, call: Call[Page[ItemT]]) -> AsyncIterator[ItemT]:
        following: Call[Page[ItemT]] | None = call
        while following is not None:
            page = await self._send(following)
            for item in page.items:
                yield item
            following = page.next

    def _open(self, call: Call[Any]) -> Any:
        rpc = getattr(self._connected(), call.method)(call.request, timeout=call.timeout_s)
        self._streaming.add(rpc)
        return rpc

    def _connected(self) -> Any:
        """The stub, made by the first call on the loop that runs it."""
        if self._closed:
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


def _task_is_cancelled() -> bool:
    """Whether a `CancelledError` is meant for the running task: grpc.aio raises it for a cancelled call, too."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
