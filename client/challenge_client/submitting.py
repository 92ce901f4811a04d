"""The way of any number of submissions to their outcomes: in chunks, a few calls at a time. No I/O, no clock.

The shells (`connection` and `async_connection`) take turns with it:

    read_from ── read as many submissions as are wanted, or one by one: wants, add, end
    due ── the calls to make now
    answered, failed ── what came of one
    take ── the outcomes that are known by now

No challenge is ever in two calls at once, so its trades are decided in the order in which they were given, also when a
call has to be repeated. What is held in memory is bounded: as many submissions wait as fit into all the calls.
"""

import heapq
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import count

from challenge_client import encoding
from challenge_client.batches import Batch, Outcome, challenge_key, not_sent
from challenge_client.calls import MAX_BATCH
from challenge_client.errors import ChallengeError
from challenge_client.retries import Attempts, is_undecided
from challenge_client.values import TradeSubmission

DEFAULT_CHUNK_SIZE = 100
DEFAULT_CALLS = 8
MAX_CALLS = 100
"""As many calls as a server lets one connection have at a time, by the custom of HTTP/2."""


class Submitting:
    """The state of one `submit_trades`. Times are seconds of any clock that only goes forward."""

    def __init__(self, *, chunk_size: int, max_calls: int, timeout_s: float, max_attempts: int | None) -> None:
        for name, value, most in (("chunk_size", chunk_size, MAX_BATCH), ("max_calls", max_calls, MAX_CALLS)):
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"{name} must be an int, got {type(value).__name__}")
            if not 1 <= value <= most:
                raise ValueError(f"{name} must be 1 to {most}, got {value}")
        self._chunk_size = chunk_size
        self._max_calls = max_calls
        self._timeout_s = timeout_s
        self._max_attempts = max_attempts
        self._waiting: dict[str, deque[TradeSubmission]] = {}
        self._waiting_count = self._sendable_count = 0
        self._under_way: dict[Batch, set[str]] = {}
        self._busy: set[str] = set()
        self._given_up: set[str] = set()
        self._again: list[tuple[float, int, Batch]] = []
        self._numbers = count()
        self._known: deque[Outcome] = deque()
        self._has_ended = False
        self._ended_by: Exception | None = None

    @property
    def wants(self) -> bool:
        """Whether another submission should be read. Not while one waits to be sent again: to read may take long."""
        return (
            not self._has_ended
            and not self._known
            and not self._again
            and len(self._under_way) < self._max_calls
            and self._sendable_count < self._chunk_size
            and self._waiting_count < self._chunk_size * self._max_calls
        )

    @property
    def can_send(self) -> bool:
        """Whether there is something to send, and a call free for it."""
        return self._sendable_count > 0 and len(self._under_way) < self._max_calls

    @property
    def is_done(self) -> bool:
        """Whether every submission has its outcome and all have been taken. Raises what ended the submissions."""
        if not self._has_ended or self._waiting_count or self._under_way or self._known:
            return False
        if self._ended_by is not None:
            raise self._ended_by
        return True

    def read_from(self, source: Iterator[TradeSubmission]) -> None:
        """Read as many submissions as are wanted. What the iterator raises is kept for the end."""
        while self.wants:
            try:
                self.add(next(source))
            except StopIteration:
                self.end()
            except Exception as error:  # noqa: BLE001 -- raised once those before it have their outcomes
                self.end(error)

    def add(self, submission: TradeSubmission) -> None:
        """Another submission."""
        if not isinstance(submission, TradeSubmission):
            raise TypeError(f"a submission must be a TradeSubmission, got {type(submission).__name__}")
        encoding.submission(submission)  # what cannot be sent is refused here, where it ends no call under way
        key = challenge_key(submission)
        if key in self._given_up:
            self._known.append(not_sent(submission))
            return
        self._waiting.setdefault(key, deque()).append(submission)
        self._waiting_count += 1
        self._sendable_count += key not in self._busy

    def end(self, error: Exception | None = None) -> None:
        """There are no more submissions. An error is raised once those before it have their outcomes."""
        self._has_ended = True
        self._ended_by = error

    def due(self, now_s: float) -> Iterator[Batch]:
        """The batches to send now: those whose wait is over, and new ones as long as calls are free."""
        while self._again and self._again[0][0] <= now_s:
            yield heapq.heappop(self._again)[2]
        while self.can_send:
            yield self._new_batch()

    def wait_s(self, now_s: float) -> float | None:
        """How long until a batch has to be sent again; None when none has to be."""
        return max(0.0, self._again[0][0] - now_s) if self._again else None

    def answered(self, batch: Batch, outcomes: Sequence[Outcome], now_s: float, chance: float) -> None:
        """The server answered a batch."""
        self._go_on(batch, batch.answered(outcomes, now_s, chance), now_s)

    def failed(self, batch: Batch, error: ChallengeError, now_s: float, chance: float) -> None:
        """The call of a batch failed."""
        try:
            delay_s = batch.failed(error, now_s, chance)
        except ChallengeError:
            batch.settle_all(error)
            delay_s = None
        self._go_on(batch, delay_s, now_s)

    def take(self) -> Iterator[Outcome]:
        """The outcomes known by now, each once; of one challenge in the order of its submissions."""
        while self._known:
            yield self._known.popleft()

    def _new_batch(self) -> Batch:
        """From the challenges that have waited longest and are in no call."""
        chosen: list[TradeSubmission] = []
        keys: set[str] = set()
        for key in [key for key in self._waiting if key not in self._busy]:
            waiting = self._waiting[key]
            keys.add(key)
            # Whatever of the challenge does not fit has to wait for this call.
            self._sendable_count -= len(waiting)
            while waiting and len(chosen) < self._chunk_size:
                chosen.append(waiting.popleft())
            if not waiting:
                del self._waiting[key]
            if len(chosen) == self._chunk_size:
                break
        self._waiting_count -= len(chosen)
        self._busy |= keys
        batch = Batch(chosen, Attempts(timeout_s=self._timeout_s, max_attempts=self._max_attempts))
        self._under_way[batch] = keys
        return batch

    def _go_on(self, batch: Batch, delay_s: float | None, now_s: float) -> None:
        if delay_s is None:
            self._settle(batch, batch.outcomes)
        else:
            heapq.heappush(self._again, (now_s + delay_s, next(self._numbers), batch))

    def _settle(self, batch: Batch, outcomes: Sequence[Outcome]) -> None:
        self._known.extend(outcomes)
        keys = self._under_way.pop(batch)
        self._busy -= keys
        self._given_up.update(
            challenge_key(submission)
            for submission, outcome in zip(batch.submissions, outcomes, strict=True)
            if isinstance(outcome, ChallengeError) and is_undecided(outcome)
        )
        for key in keys & self._waiting.keys():
            if key in self._given_up:
                dropped = self._waiting.pop(key)
                self._waiting_count -= len(dropped)
                self._known.extend(map(not_sent, dropped))
            else:
                self._sendable_count += len(self._waiting[key])
