"""Where a subscription stands: what it asks for, what it hands over, and how long it waits after a break.

No I/O, no clock, no randomness. The shells (`subscription` and `async_subscription`) take turns with it:

    call ── the stream to open now
    received ── a message came; whether there is something to hand over
    next_event, next_delivery ── hand it over
    finished ── the caller has come back for more
    broken ── the stream ended; how long to wait before the next call, or the error that ends it all

The next message is received, and the next call made, only when all before it has been handed over and the caller has
come back: so the cursor that is safe to store is also the one to resume with, and nothing is lost. What comes again is
known by its position and dropped, so nothing is handed over twice.

Silence is met by a deadline on every call, one and a half heartbeat intervals and a little: a blocked thread cannot be
woken in another way without a second one. A call that lives so long in good health is renewed, at once and unnoticed.
"""

from collections.abc import Iterable

import grpc

from challenge_client import calls
from challenge_client.calls import Call
from challenge_client.errors import ChallengeError, OverloadedError, TransportError
from challenge_client.values import (
    CaughtUp,
    ChallengeEvent,
    Delivery,
    EventBatch,
    EventMessage,
    Heartbeat,
    StreamMessage,
)
from propfirm.challenge.v1 import challenge_pb2 as pb

DEFAULT_HEARTBEAT_S = 30.0
"""What the server does when it is not asked for another interval."""
SILENCE_FACTOR, SILENCE_MARGIN_S = 1.5, 2.0
"""A call may last this many heartbeat intervals and so many seconds more."""
MAX_SILENCE_DOUBLINGS = 3
"""A server that needs long to find the first match is given more time after each call without a message."""
FIRST_DELAY_S, MAX_DELAY_S = 0.1, 10.0
"""The wait after a first break; it doubles up to the second. Each is shortened by up to a half, by chance."""
MAX_RETRY_AFTER_S = 60.0
"""The longest wait that a server may ask for."""
HEALTHY_S = 10.0
"""A call that lived so long and said something was no failure, even if nothing happened meanwhile."""
MIN_CALL_S = 1.0
"""However little patience is left, a call may last so long."""

PASSING = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.ABORTED,
    }
)
"""What a broken connection, a proxy or a server in trouble may say. All other codes would be said again."""

_Stream = Call[StreamMessage | None]


class Resumption:
    """The state of one subscription. Times are seconds of any clock that only goes forward.

    `give_up_after_s` bounds the trouble, `ends_at_s` the whole: at that time it is over with DEADLINE_EXCEEDED.
    """

    cursor: str | None
    """Stands after all that the caller has finished with; None before there is one."""
    position: int | None
    """The position of the same; None before it is known."""
    caught_up: bool
    """Whether every event recorded before the present connection was made has been handed over."""
    last_error: ChallengeError | None
    """What broke the stream; None once a message has come again."""

    def __init__(
        self, stream: _Stream, *, give_up_after_s: float | None = None, ends_at_s: float | None = None
    ) -> None:
        request = stream.request
        assert isinstance(request, pb.StreamEventsRequest)
        start = request.WhichOneof("start")
        self._stream = stream
        self._give_up_after_s = give_up_after_s
        self._ends_at_s = ends_at_s
        heartbeat = request.heartbeat_interval
        heartbeat_s = heartbeat.ToTimedelta().total_seconds() if request.HasField("heartbeat_interval") else None
        self._silence_s = SILENCE_FACTOR * (heartbeat_s or DEFAULT_HEARTBEAT_S) + SILENCE_MARGIN_S
        self.cursor = request.after_cursor if start == "after_cursor" else None
        self.position = {"after_position": request.after_position, "from_beginning": 0}.get(start or "")
        self.caught_up = False
        self.last_error = None
        # What was received and is not finished, and how many of its events were handed over, None before any.
        self._delivery: Delivery | None = None
        self._handed_over: int | None = None
        # The call that runs.
        self._called_at_s = self._timeout_s = 0.0
        self._has_spoken = self._is_renewal = False
        # The trouble since the last progress.
        self._failures = self._silent_calls = 0
        self._trouble_since_s: float | None = None

    def call(self, now_s: float) -> _Stream:
        """The stream to open now, with everything before it finished."""
        assert self._delivery is None, "what was received before is not finished"
        timeout_s = self._silence_s * 2 ** min(self._silent_calls, MAX_SILENCE_DOUBLINGS)
        if self._give_up_after_s is not None and self._trouble_since_s is not None:
            left_s = self._trouble_since_s + self._give_up_after_s - now_s
            timeout_s = min(timeout_s, max(left_s, MIN_CALL_S))
        if self._ends_at_s is not None:
            timeout_s = min(timeout_s, max(0.0, self._ends_at_s - now_s))
        self._called_at_s, self._timeout_s = now_s, timeout_s
        self._has_spoken = False
        self.caught_up &= self._is_renewal
        return calls.resumed(self._stream, after_cursor=self.cursor, timeout_s=timeout_s)

    def received(self, message: StreamMessage) -> bool:
        """Take the next message of the stream, with everything before it finished; whether it holds anything new."""
        assert self._delivery is None, "what was received before is not finished"
        self._has_spoken = True
        self._silent_calls = 0
        self.last_error = None
        delivery = self._delivery_of(message)
        if delivery is None:
            return False
        if delivery.position != self.position:
            self._recover()
        self._delivery, self._handed_over = delivery, None
        return True

    def next_event(self) -> ChallengeEvent | None:
        """The next event; None when more must be received."""
        delivery, index = self._delivery, self._handed_over or 0
        if delivery is None:
            return None
        if not delivery.events:
            self._handed_over = 0
            self.finished()
            return None
        self._handed_over = index + 1
        return delivery.events[index]

    def next_delivery(self) -> Delivery | None:
        """All that was received and not handed over yet; None when more must be received."""
        delivery, index = self._delivery, self._handed_over or 0
        if delivery is None:
            return None
        self._handed_over = len(delivery.events)
        if not index:
            return delivery
        return Delivery(
            events=delivery.events[index:],
            cursor=delivery.cursor,
            previous_cursor=delivery.previous_cursor,
            position=delivery.position,
        )

    def finished(self) -> None:
        """The caller has come back, so it is done with what it was given."""
        delivery, count = self._delivery, self._handed_over
        if delivery is None or count is None:
            return
        if count == len(delivery.events):
            self.cursor, self.position = delivery.cursor, delivery.position
            self._delivery = None
        else:
            self.position = delivery.events[count - 1].position

    def broken(self, error: ChallengeError | None, now_s: float, chance: float) -> float:
        """The stream ended, by itself if there is no error: how many seconds to wait before the next call.

        `chance` is a random number from 0 to 1. Raises the error when it will not pass, or when patience has run out.
        """
        if error is None:
            error = TransportError("the server ended the stream", code=grpc.StatusCode.UNAVAILABLE)
        if self._ends_at_s is not None and now_s >= self._ends_at_s:
            raise TransportError("the time to wait has passed", code=grpc.StatusCode.DEADLINE_EXCEEDED) from error
        if error.code not in PASSING and not isinstance(error, OverloadedError):
            raise error
        lasted_s = now_s - self._called_at_s
        timed_out = error.code is grpc.StatusCode.DEADLINE_EXCEEDED
        # The deadline is kept by another clock, which may be a little ahead.
        self._is_renewal = self._has_spoken and timed_out and lasted_s >= 0.9 * self._timeout_s
        if self._is_renewal or (self._has_spoken and lasted_s >= HEALTHY_S):
            self._recover()
        if self._is_renewal:
            return 0.0
        self.caught_up = False
        self.last_error = error
        self._silent_calls += timed_out and not self._has_spoken
        return self._delay_s(error, now_s, chance)

    def _delay_s(self, error: ChallengeError, now_s: float, chance: float) -> float:
        if self._trouble_since_s is None:
            self._trouble_since_s = now_s
        # 2.0 ** 1024 would be an error.
        delay_s = min(FIRST_DELAY_S * 2.0 ** min(self._failures, 32), MAX_DELAY_S) * (1 - chance / 2)
        self._failures += 1
        if error.retry_after is not None:
            delay_s = max(delay_s, min(error.retry_after.total_seconds(), MAX_RETRY_AFTER_S))
        if self._give_up_after_s is not None:
            left_s = self._trouble_since_s + self._give_up_after_s - now_s
            if left_s <= 0:
                raise error
            delay_s = min(delay_s, left_s)
        if self._ends_at_s is not None:
            delay_s = min(delay_s, self._ends_at_s - now_s)
        return delay_s

    def _delivery_of(self, message: StreamMessage) -> Delivery | None:
        """What a message has to say that is new."""
        if isinstance(message, EventMessage | EventBatch):
            events = self._unseen((message.event,) if isinstance(message, EventMessage) else message.events)
            if not events:
                return None
            return self._delivering(message.cursor, events, events[-1].position)
        assert isinstance(message, CaughtUp | Heartbeat)
        if self.position is not None and message.position < self.position:
            return None
        if isinstance(message, CaughtUp):
            repeats = self._is_renewal and self.caught_up and message.position == self.position
            self._is_renewal = False
            self.caught_up = True
            if repeats:
                return None
        return self._delivering(message.cursor, (), message.position)

    def _delivering(self, cursor: str, events: tuple[ChallengeEvent, ...], position: int) -> Delivery:
        return Delivery(events=events, cursor=cursor, previous_cursor=self.cursor, position=position)

    def _unseen(self, events: Iterable[ChallengeEvent]) -> tuple[ChallengeEvent, ...]:
        unseen: list[ChallengeEvent] = []
        reached = self.position
        for event in events:
            if reached is None or event.position > reached:
                unseen.append(event)
                reached = event.position
        return tuple(unseen)

    def _recover(self) -> None:
        self._failures = 0
        self._trouble_since_s = None
