"""The subscription for threads. Its twin is `async_subscription`; what both do is decided in `resumption`."""

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Protocol, Self, TypeVar

from challenge_client.calls import Call
from challenge_client.errors import ChallengeError
from challenge_client.resumption import Resumption
from challenge_client.values import ChallengeEvent, Delivery, StreamMessage

logger = logging.getLogger(__name__)

_ItemT = TypeVar("_ItemT")


class _Stream(Protocol):
    def __next__(self) -> StreamMessage: ...

    def close(self) -> None: ...


class Subscription(Iterator[ChallengeEvent]):
    """The events of one `subscribe` call, each exactly once and in order, whatever happens to the connection.

    Iterating gives events. `deliveries()` gives them with the cursors to store, and tells when the stream is caught up
    or silent. One thread reads; any thread may close it or look at its properties. Use it as a context manager, or
    close it: that ends its call and the iteration.
    """

    def __init__(self, open_stream: Callable[[Call[StreamMessage | None]], _Stream], resumption: Resumption) -> None:
        self._open_stream = open_stream
        self._resumption = resumption
        self._lock = threading.Lock()
        self._stream: _Stream | None = None
        self._ended = threading.Event()
        self._error: ChallengeError | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def cursor(self) -> str | None:
        """Safe to store: stands after all you were given and have finished with, never after more.

        It moves when you ask for what comes next: for an event of several in one message, once the last of them is
        finished. None until the server has told one. Resume with `after_cursor` and the same filter.
        """
        return self._resumption.cursor

    @property
    def position(self) -> int | None:
        """The position up to which you have finished with every matching event; moves with every event.

        None until it is known. Resume with `after_position` and any filter.
        """
        return self._resumption.position

    @property
    def caught_up(self) -> bool:
        """Whether every event recorded before the present connection was made has been given to you."""
        return self._resumption.caught_up

    @property
    def last_error(self) -> ChallengeError | None:
        """What broke the connection; None while there is one that works, or that was never broken."""
        return self._resumption.last_error

    def __next__(self) -> ChallengeEvent:
        return self._next(self._resumption.next_event)

    def deliveries(self) -> Iterator[Delivery]:
        """Iterate over what comes, message by message, each with the cursor that stands after it; see `Delivery`."""
        return _Deliveries(lambda: self._next(self._resumption.next_delivery))

    def close(self, error: ChallengeError | None = None) -> None:
        """End the call and the iteration, which then raises the error if one is given.

        May be called again, and from another thread.
        """
        with self._lock:
            if not self._ended.is_set():
                self._error = error
                self._ended.set()
            stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()

    def _next(self, hand_over: Callable[[], _ItemT | None]) -> _ItemT:
        self._resumption.finished()
        while not self._ended.is_set():
            item = hand_over()
            if item is not None:
                return item
            self._receive()
        error, self._error = self._error, None
        if error is not None:
            raise error
        raise StopIteration

    def _receive(self) -> None:
        """Receive until there is something to hand over, or the end."""
        while not self._ended.is_set():
            message: StreamMessage | None = None
            broken_by: ChallengeError | None = None
            try:
                message = self._next_message()
            except ChallengeError as error:
                broken_by = error
            if message is None:
                self._wait(broken_by)
            elif self._resumption.received(message):
                return

    def _next_message(self) -> StreamMessage | None:
        """The next message of the stream, opened if need be; None when the stream is over."""
        with self._lock:
            if self._ended.is_set():
                return None
            if self._stream is None:
                self._stream = self._open_stream(self._resumption.call(time.monotonic()))
            stream = self._stream
        return next(stream, None)

    def _wait(self, broken_by: ChallengeError | None) -> None:
        """Let go of the stream that ended, and wait as long as is due."""
        with self._lock:
            self._stream = None
        if self._ended.is_set():
            return
        try:
            delay_s = self._resumption.broken(broken_by, time.monotonic(), random.random())  # noqa: S311 -- no secret
        except ChallengeError:
            self.close()
            raise
        if delay_s:
            logger.warning("an event stream broke and is resumed in %.1f s: %s", delay_s, self._resumption.last_error)
            self._ended.wait(delay_s)


class _Deliveries(Iterator[Delivery]):
    """Not a generator, which would be over once an exception has passed through it."""

    def __init__(self, next_delivery: Callable[[], Delivery]) -> None:
        self._next_delivery = next_delivery

    def __next__(self) -> Delivery:
        return self._next_delivery()
