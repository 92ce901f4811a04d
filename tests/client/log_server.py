"""A server with a log of its own that streams as the contract says, and breaks as it is told."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from challenge_client.statuses import DETAILS_KEY, DOMAIN
from propfirm.challenge.v1 import challenge_pb2 as pb
from tests.client import messages

HEALTHY = object()
HANG = object()
END = object()
FOREIGN_CURSOR = "of another log"


@dataclass(frozen=True)
class Break:
    """How one call goes wrong: after so many messages, having begun so many events too early."""

    how: Any = HEALTHY
    """A status code, a reason of the contract, END (without an error), HANG (not another word), or HEALTHY."""
    after: int = 0
    repeats: int = 0


class LogServer:
    """Streams `log`, which `happen` makes longer; `breaks` are used up, one for each call."""

    def __init__(self, *, batches: bool = True) -> None:
        self.log: list[int] = []
        self.breaks: list[Break] = []
        self.requests: list[pb.StreamEventsRequest] = []
        self.address = ""
        self._batches = batches
        self._news = asyncio.Condition()
        self._server = grpc.aio.server()
        self.open_calls = 0

    async def __aenter__(self) -> "LogServer":
        handler = grpc.unary_stream_rpc_method_handler(self._stream)
        service = "propfirm.challenge.v1.ChallengeService"
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(service, {"StreamEvents": handler}),)
        )
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.stop(None)

    async def happen(self, count: int) -> None:
        """So many events more."""
        async with self._news:
            self.log.extend(range(len(self.log) + 1, len(self.log) + count + 1))
            self._news.notify_all()

    async def calls_are(self, made: int, *, open_calls: int | None = None) -> None:
        """Wait until so many calls were made, and so many are open."""
        async with self._news:
            await self._news.wait_for(
                lambda: len(self.requests) >= made and (open_calls is None or self.open_calls == open_calls)
            )

    async def _stream(self, data: bytes, context: Any) -> AsyncIterator[bytes]:
        request = pb.StreamEventsRequest.FromString(data)
        plan = self.breaks.pop(0) if self.breaks else Break()
        await self._count(request, 1)
        try:
            if request.after_cursor == FOREIGN_CURSOR:
                await refuse(context, "CURSOR_MISMATCH")
            sent = 0
            if plan.how is HEALTHY or plan.after:
                async for message in self._messages(request, plan.repeats):
                    yield message.SerializeToString()
                    sent += 1
                    if plan.how is not HEALTHY and sent == plan.after:
                        break
            if plan.how is HANG:
                await asyncio.Event().wait()
            elif plan.how is not END:
                await refuse(context, plan.how)
        finally:
            await asyncio.shield(self._count(None, -1))

    async def _messages(self, request: pb.StreamEventsRequest, repeats: int) -> AsyncIterator[pb.StreamEventsResponse]:
        at = {
            "after_cursor": int(request.after_cursor or 0),
            "after_position": request.after_position,
            "from_beginning": 0,
            "from_now": len(self.log),
        }[request.WhichOneof("start") or ""]
        at = max(at - repeats, 0)
        most = max(request.max_events_per_message, 1) if self._batches else 1
        said = False
        while True:
            following = self.log[at : at + most]
            if following:
                at = following[-1]
                events = [messages.created(position) for position in following]
                several = {"events": pb.EventBatch(events=events)}
                yield messages.message(str(at), **(several if most > 1 else {"event": events[0]}))
            elif not said:
                said = True
                yield messages.message(str(at), caught_up=pb.CaughtUp(position=at))
            else:
                await self._heartbeat(at, request.heartbeat_interval.ToTimedelta().total_seconds() or 30)
                if at == len(self.log):
                    yield messages.message(str(at), heartbeat=pb.Heartbeat(position=at))

    async def _heartbeat(self, at: int, interval_s: float) -> None:
        """Wait for news as long as it may be silent."""
        try:
            async with asyncio.timeout(interval_s), self._news:
                await self._news.wait_for(lambda: len(self.log) > at)
        except TimeoutError:
            return

    async def _count(self, request: pb.StreamEventsRequest | None, change: int) -> None:
        async with self._news:
            if request is not None:
                self.requests.append(request)
            self.open_calls += change
            self._news.notify_all()


async def refuse(context: Any, how: Any) -> None:
    """End the call with a status code, or with a reason of the contract and its details."""
    if isinstance(how, grpc.StatusCode):
        await context.abort(how, "broken")
    code = {"CURSOR_MISMATCH": grpc.StatusCode.INVALID_ARGUMENT}.get(how, grpc.StatusCode.UNAVAILABLE)
    packed = any_pb2.Any()
    packed.Pack(error_details_pb2.ErrorInfo(reason=how, domain=DOMAIN))
    details = status_pb2.Status(code=code.value[0], details=[packed]).SerializeToString()
    await context.abort(code, "broken", ((DETAILS_KEY, details),))
