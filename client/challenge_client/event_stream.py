"""One call that streams events, for threads. Its twin is `async_event_stream`."""

import os
import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self

import grpc

from challenge_client.calls import Call
from challenge_client.statuses import error_from_rpc
from challenge_client.values import StreamMessage


class EventStream(Iterator[StreamMessage]):
    """The messages of one `stream_events` call.

    Closing it ends the call, and so does dropping it: a loop over `client.stream_events(…)` that is left early ends the
    call by itself. To keep the stream in a variable, use it as a context manager.
    """

    def __init__(self, open_rpc: Callable[[Call[Any]], Any], call: Call[StreamMessage | None]) -> None:
        self._open_rpc = open_rpc
        self._call = call
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._rpc: Any = None
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if os.getpid() == self._pid:  # the call of a parent process is not this one's to end
            self.close()

    def __next__(self) -> StreamMessage:
        with self._lock:
            if self._closed:
                raise StopIteration
            if self._rpc is None:
                self._rpc = self._open_rpc(self._call)
        while True:
            try:
                response = next(self._rpc)
            except StopIteration:
                self.close()
                raise
            except grpc.RpcError as error:
                if self._closed:
                    raise StopIteration from None
                self.close()
                failure = error_from_rpc(error)
                failure.note(self._call.method, self._call.about, 1)
                raise failure from error
            message = self._call.decode(response)
            if message is not None:
                return message

    def close(self) -> None:
        """End the call; the iteration is then over. May be called again, and from another thread."""
        with self._lock:
            self._closed = True
        if self._rpc is not None:
            self._rpc.cancel()
