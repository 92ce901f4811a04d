"""The fake server: `FakeService` behind gRPC on loopback, with faults on demand."""

import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, NoReturn, Self

import grpc
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from challenge_client.async_client import AsyncChallengeClient
from challenge_client.client import ChallengeClient
from challenge_client.testing.memory import Memory
from challenge_client.testing.service import FakeService
from challenge_rules import ChallengeError
from challenge_rules import errors as rule_errors
from challenge_rules.errors import ErrorReason, FieldViolation, ValidationError
from challenge_rules.timestamps import from_datetime
from challenge_wire.statuses import CODES, DETAILS_KEY, to_status
from propfirm.challenge.v1 import challenge_pb2 as pb

logger = logging.getLogger(__name__)

MAX_THREADS = 100
"""As many calls and streams may be open at once."""
STOP_S = 2.0
FAULT_RETRY_AFTER_S = 0.01

_SERVICE = pb.DESCRIPTOR.services_by_name["ChallengeService"]
_FAULTS: dict[ErrorReason, Callable[[], ChallengeError]] = {
    kind.reason: kind
    for kind in vars(rule_errors).values()
    if isinstance(kind, type) and issubclass(kind, ChallengeError) and hasattr(kind, "reason")
}


class FakeChallengeServer:
    """A Challenge Engine in this process, in memory, on a port of its own on 127.0.0.1. Use it in a `with` block.

    `now` is the clock: an aware datetime whenever it is called; None takes the system's. `max_clock_skew` is how far
    ahead of it a trade may be executed.
    """

    def __init__(
        self, *, now: Callable[[], datetime] | None = None, max_clock_skew: timedelta = timedelta(seconds=5)
    ) -> None:
        if now is not None and (not callable(now) or now().utcoffset() is None):
            raise TypeError("now must be a function that returns an aware datetime")
        clock = (lambda: time.time_ns() // 1000) if now is None else (lambda: from_datetime(now()))
        memory = Memory(clock, max_clock_skew // timedelta(microseconds=1))
        self._service = FakeService(memory, new_id=lambda: str(uuid.uuid4()))
        self._changed = memory.changed
        self._lock = threading.Lock()
        self._faults: dict[str, deque[tuple[ErrorReason, bool]]] = {}
        self._calls: dict[str, int] = {}
        self._server: grpc.Server | None = None
        self.address = ""
        """HOST:PORT, once it runs."""

    def __enter__(self) -> Self:
        self._server = grpc.server(ThreadPoolExecutor(MAX_THREADS, "fake-challenge-server"))
        handlers = {method.name: self._handler(method) for method in _SERVICE.methods}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE.full_name, handlers),))
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop: streams end with DRAINING. May be called again."""
        server, self._server = self._server, None
        if server is not None:
            self._service.drain()
            server.stop(STOP_S).wait()

    def client(self, **options: Any) -> ChallengeClient:
        """A client of this server, with the options of `ChallengeClient`; yours to close."""
        return ChallengeClient(self.address, **options)

    def async_client(self, **options: Any) -> AsyncChallengeClient:
        """A client for asyncio of this server, with the options of `AsyncChallengeClient`; yours to close."""
        return AsyncChallengeClient(self.address, **options)

    def fail_next(self, method: str, reason: ErrorReason | str, *, times: int = 1, after_commit: bool = False) -> None:
        """Let the next calls of a method, such as "SubmitTrade", fail for a reason of the contract.

        Methods have the contract's names: `submit_trades` and `submit_batch` come as "BatchSubmitTrades".
        With `after_commit` the call is carried out first and its answer lost, as when a connection breaks at the wrong
        moment. Faults of one method come in the order in which they were asked for.
        """
        _check_method(method)
        if reason not in set(ErrorReason):
            raise ValueError(f"reason must be one of {', '.join(ErrorReason)}; got {str(reason)!r}")
        wanted = ErrorReason(reason)
        with self._lock:
            self._faults.setdefault(method, deque()).extend([(wanted, after_commit)] * times)

    def fail_no_more(self) -> None:
        """Forget the faults that have not come yet."""
        with self._lock:
            self._faults.clear()

    def calls(self, method: str) -> int:
        """How many calls of a method have come in, the failed ones included."""
        _check_method(method)
        with self._lock:
            return self._calls.get(method, 0)

    def _handler(self, method: Any) -> Any:
        if method.server_streaming:
            return grpc.unary_stream_rpc_method_handler(self._streaming(method))
        return grpc.unary_unary_rpc_method_handler(self._unary(method))

    def _unary(self, method: Any) -> Callable[[bytes, Any], bytes]:
        answer, request_class = getattr(self._service, method.name), GetMessageClass(method.input_type)

        def handle(data: bytes, context: Any) -> bytes:
            try:
                fault = self._called(method.name)
                if fault is not None and not fault[1]:
                    raise _fault(fault[0])
                response: Message = answer(_decoded(data, request_class))
                if fault is not None:
                    raise _fault(fault[0])
                return response.SerializeToString()
            except ChallengeError as error:
                refused = error
            except Exception:  # noqa: BLE001 -- logged with its error_id, and answered as INTERNAL
                refused = _unforeseen()
            _abort(context, refused)

        return handle

    def _streaming(self, method: Any) -> Callable[[bytes, Any], Iterator[bytes]]:
        answer, request_class = getattr(self._service, method.name), GetMessageClass(method.input_type)

        def handle(data: bytes, context: Any) -> Iterator[bytes]:
            try:
                fault = self._called(method.name)
                if fault is not None:
                    raise _fault(fault[0])
                context.add_callback(self._wake_streams)
                for response in answer(_decoded(data, request_class), context.is_active):
                    yield response.SerializeToString()
            except ChallengeError as error:
                refused = error
            except Exception:  # noqa: BLE001 -- logged with its error_id, and answered as INTERNAL
                refused = _unforeseen()
            else:
                return
            _abort(context, refused)

        return handle

    def _called(self, method: str) -> tuple[ErrorReason, bool] | None:
        """Count a call; the fault it shall have, if any."""
        with self._lock:
            self._calls[method] = self._calls.get(method, 0) + 1
            faults = self._faults.get(method)
            return faults.popleft() if faults else None

    def _wake_streams(self) -> None:
        with self._changed:
            self._changed.notify_all()


def _check_method(method: str) -> None:
    if method not in _SERVICE.methods_by_name:
        raise ValueError(f"method must be one of {', '.join(_SERVICE.methods_by_name)}; got {method!r}")


def _decoded(data: bytes, request_class: type[Message]) -> Message:
    try:
        return request_class.FromString(data)
    except DecodeError:
        name = request_class.DESCRIPTOR.name
        raise ValidationError([FieldViolation("request", f"the bytes are not a {name}")]) from None


def _unforeseen() -> ChallengeError:
    """The answer to a bug of the fake itself; what went wrong is logged, and no caller is told."""
    error_id = str(uuid.uuid4())
    logger.exception("answering a call failed; error_id %s", error_id)
    return rule_errors.InternalError(error_id)


def _fault(reason: ErrorReason) -> ChallengeError:
    if reason is ErrorReason.VALIDATION_FAILED:
        return ValidationError([FieldViolation("request", "was asked to fail")])
    if reason is ErrorReason.OVERLOADED:
        return rule_errors.OverloadedError(FAULT_RETRY_AFTER_S)
    if reason is ErrorReason.INTERNAL:
        return rule_errors.InternalError("asked-for")
    return _FAULTS[reason]()


def _abort(context: Any, error: ChallengeError) -> NoReturn:
    context.set_trailing_metadata(((DETAILS_KEY, to_status(error).SerializeToString()),))
    context.abort(CODES[error.reason], error.message)
    raise AssertionError("abort always raises")
