"""The client for threads, generated from `async_client` by `make twins`: change that one."""

import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from types import TracebackType
from typing import Self

import grpc

from challenge_client import calls, inputs
from challenge_client.batches import Batch
from challenge_client.calls import Call, ItemT, Page, ResultT
from challenge_client.channels import DEFAULT_TARGET, DEFAULT_TIMEOUT_S, ChannelOptions
from challenge_client.connection import Connection
from challenge_client.enums import ChallengeStatus
from challenge_client.errors import ChallengeError
from challenge_client.event_stream import EventStream
from challenge_client.inputs import NumberLike
from challenge_client.resumption import Resumption
from challenge_client.retries import Attempts
from challenge_client.submitting import DEFAULT_CALLS, DEFAULT_CHUNK_SIZE, Submitting
from challenge_client.subscription import Subscription
from challenge_client.values import (
    Challenge,
    ChallengeEvent,
    Decision,
    Limits,
    RecordedTrade,
    Trade,
    TradeSubmission,
)

LAST_LOOK_S = 1.0
"""However little of the time is left, the closed challenge may be read for so long."""


class ChallengeClient:
    """Talks to a Challenge Engine. May be used by many threads at once.

        with ChallengeClient("challenges.internal:50051") as client:
            challenge = client.create_challenge(initial_balance="100000")

    It connects with the first call. `timeout_s` is the deadline of a call that names none of its own. Within it a call
    is sent again, after a short wait, when the server is away or busy or another writer was in the way; that is safe,
    for a repetition is answered by what was recorded the first time. `max_attempts` bounds how often it is sent; 1
    means never again, None as often as the deadline allows. `options` are gRPC channel options, put over the SDK's. A
    `channel` of your own is used instead of `target` and `options`, and stays yours to close.

    Every method raises `TransportError` when the server cannot be reached or the deadline passes, and besides it the
    other subclasses of `ChallengeError` when the server says no. Arguments that no server could accept are `TypeError`
    (a `float` amount) or `ValueError` (a naive datetime, a ninth decimal place) before anything is sent.
    """

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        *,
        channel: grpc.Channel | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        max_attempts: int | None = None,
        options: ChannelOptions = (),
    ) -> None:
        self._connection = Connection(target, channel, options)
        self._timeout_s = inputs.seconds(timeout_s, "timeout_s")
        self._max_attempts = inputs.attempts(max_attempts, "max_attempts")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the channel, which ends all calls, streams and subscriptions. May be called again."""
        self._connection.close()

    def create_challenge(
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
        return self._send(call, timeout_s)

    def submit_trade(
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
        return self._send(call, timeout_s)

    def submit_batch(
        self, submissions: Iterable[TradeSubmission], *, timeout_s: float | None = None
    ) -> list[Decision | ChallengeError]:
        """Decide at most 500 trades, of one challenge or of many, in the order given.

        The answers are in that order too: each is a `Decision`, or the `ChallengeError` that `submit_trade` would have
        raised. It is not raised here, because one refused trade never takes another down. More than 500 submissions
        are a `ValueError`. Trades that could not be executed for the moment are sent again, as in `submit_trades`.
        """
        batch = Batch(calls.submit_batch(submissions).submissions, self._attempts(timeout_s))
        return self._connection.send_batch(batch)

    def submit_trades(
        self,
        submissions: Iterable[TradeSubmission],
        *,
        chunk_size: int = DEFAULT_CHUNK_SIZE,
        max_calls: int = DEFAULT_CALLS,
        timeout_s: float | None = None,
    ) -> Iterator[Decision | ChallengeError]:
        """Decide any number of trades, in calls of `chunk_size`, at most `max_calls` at a time; results as they come.

        The trades of one challenge are decided, and their results given, in the order of `submissions`, for no
        challenge is ever in two calls at once; between challenges any order is possible. A result is a `Decision`, or
        the `ChallengeError` that `submit_trade` would have raised; its `request` is the submission. `submissions` is
        read as calls become free, and may be endless. `chunk_size` is 1 to 500, `max_calls` 1 to 100. An iterable is
        read in one go until a chunk is full: while it waits for something itself, nothing else happens here. Live
        fills are better sent one by one by `submit_trade`; docs/sdk.md says more.

        What passes is sent again within `timeout_s` of its call, and is then answered by what was recorded the first
        time. When a trade could not be executed nevertheless, nothing after it in its challenge is sent: that is
        answered by `PredecessorFailedError` with 0 `attempts`, and the other challenges go on. An error of the iterable
        is raised once everything before it has its result. Leaving the iteration early cancels the calls under way,
        whose trades may or may not be recorded: to know, send them again.
        """
        submitting = Submitting(
            chunk_size=chunk_size,
            max_calls=max_calls,
            timeout_s=self._timeout_s if timeout_s is None else inputs.seconds(timeout_s, "timeout_s"),
            max_attempts=self._max_attempts,
        )
        return self._connection.submit_all(submissions, submitting)

    def get_challenge(
        self, challenge_id: str, *, at_sequence: int | None = None, timeout_s: float | None = None
    ) -> Challenge:
        """Read a challenge as it is now, or as it was right after trade `at_sequence` (0: as created).

        Raises `ChallengeNotFoundError`, or `SequenceNotFoundError` for a trade it does not have.
        """
        return self._send(calls.get_challenge(challenge_id, at_sequence=at_sequence), timeout_s)

    def list_challenges(
        self,
        *,
        statuses: Iterable[ChallengeStatus] = (),
        labels: Mapping[str, str] | None = None,
        closed_at_from: datetime | None = None,
        closed_at_before: datetime | None = None,
        page_size: int = 0,
    ) -> Iterator[Challenge]:
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
    ) -> Iterator[RecordedTrade]:
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
    ) -> Iterator[ChallengeEvent]:
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
    ) -> EventStream:
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
        return self._connection.stream(call)

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
    ) -> Subscription:
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
        return self._connection.subscription(Resumption(call, give_up_after_s=give_up_after_s))

    def wait_until_closed(self, challenge_id: str, *, timeout_s: float | None = None) -> Challenge:
        """Wait until a challenge has FAILED or is FUNDED, through every break, and answer it.

        Without `timeout_s` it waits for ever, once it has had a first look, which has the client's deadline. Raises
        `ChallengeNotFoundError`, and `TransportError` with the code DEADLINE_EXCEEDED when the time has passed and the
        challenge is still open.
        """
        began_s = time.monotonic()
        challenge = self.get_challenge(challenge_id, timeout_s=timeout_s)
        if challenge.status.is_terminal:
            return challenge
        call = calls.closing_of(challenge_id)
        ends_at_s = None if timeout_s is None else began_s + timeout_s
        with self._connection.subscription(Resumption(call, ends_at_s=ends_at_s)) as closing:
            for _ in closing:
                break
        left_s = None if ends_at_s is None else max(LAST_LOOK_S, ends_at_s - time.monotonic())
        return self.get_challenge(challenge_id, timeout_s=left_s)

    def _send(self, call: Call[ResultT], timeout_s: float | None) -> ResultT:
        return self._connection.send(call, self._attempts(timeout_s))

    def _items(self, call: Call[Page[ItemT]]) -> Iterator[ItemT]:
        return self._connection.items(call, self._timeout_s, self._max_attempts)

    def _attempts(self, timeout_s: float | None) -> Attempts:
        given_s = self._timeout_s if timeout_s is None else inputs.seconds(timeout_s, "timeout_s")
        return Attempts(timeout_s=given_s, max_attempts=self._max_attempts)
