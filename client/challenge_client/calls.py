"""Every call of the service as a value: the method, its request, and how to read the answer. No I/O.

The clients differ only in how they send these: one waits, the other awaits.
"""

import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, Generic, TypeVar

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from challenge_client import decoding, encoding, inputs
from challenge_client.enums import ChallengeStatus
from challenge_client.errors import ChallengeError
from challenge_client.inputs import NumberLike
from challenge_client.values import (
    Challenge,
    ChallengeEvent,
    Decision,
    Limits,
    RecordedTrade,
    StreamMessage,
    TradeSubmission,
)
from propfirm.challenge.v1 import challenge_pb2 as pb

MAX_BATCH = 500
"""The most trades that one batch call may hold."""

ResultT = TypeVar("ResultT")
ItemT = TypeVar("ItemT")


@dataclass(frozen=True, slots=True)
class Call(Generic[ResultT]):
    """One call: the method's name in the contract, its request, and what turns a response into the result.

    `timeout_s` is the deadline of a stream; None for one without. The clients give the other calls theirs.
    """

    method: str
    request: Message
    decode: Callable[[Any], ResultT]
    timeout_s: float | None = None
    submissions: tuple[TradeSubmission, ...] = ()

    @property
    def about(self) -> Any:
        """What is asked for, for those who have to explain an error; see `ChallengeError.request`."""
        if self.method == "SubmitTrade":
            return self.submissions[0]
        return self.submissions or MessageToDict(self.request, preserving_proto_field_name=True)


@dataclass(frozen=True, slots=True)
class Page(Generic[ItemT]):
    """Some items of a list, and the call for the next page; None when this is the last one."""

    items: Sequence[ItemT]
    next: "Call[Page[ItemT]] | None"


def create_challenge(
    *,
    initial_balance: NumberLike,
    challenge_id: str | None,
    limits: Limits | None,
    currency_code: str,
    labels: Mapping[str, str] | None,
) -> Call[Challenge]:
    """Make a challenge. The id is minted here, so that the call may be sent again."""
    request = pb.CreateChallengeRequest(
        challenge_id=inputs.given_text(challenge_id, "challenge_id") or str(uuid.uuid4()),
        initial_balance=encoding.number(inputs.amount(initial_balance, "initial_balance")),
        limits=encoding.limits(limits),
        currency_code=inputs.text(currency_code, "currency_code"),
        labels=inputs.labels(labels),
    )
    return Call("CreateChallenge", request, lambda r: decoding.challenge(r.challenge, replayed=r.replayed))


def submit_trade(submission: TradeSubmission) -> Call[Decision]:
    """Decide one trade."""
    return Call(
        "SubmitTrade",
        encoding.submission(submission),
        lambda response: decoding.decision(response.decision),
        submissions=(submission,),
    )


def submit_batch(submissions: Iterable[TradeSubmission]) -> Call[list[Decision | ChallengeError]]:
    """Decide many trades. Reads no more of an endless iterable than it must to refuse it."""
    batch = list(islice(submissions, MAX_BATCH + 1))
    if len(batch) > MAX_BATCH:
        raise ValueError(f"a batch holds at most {MAX_BATCH} submissions; send more in several calls")
    request = pb.BatchSubmitTradesRequest(trades=[encoding.submission(item) for item in batch])
    return Call(
        "BatchSubmitTrades",
        request,
        lambda response: [decoding.trade_result(r) for r in response.results],
        submissions=tuple(batch),
    )


def get_challenge(challenge_id: str, *, at_sequence: int | None) -> Call[Challenge]:
    """Read one challenge."""
    request = pb.GetChallengeRequest(
        challenge_id=inputs.text(challenge_id, "challenge_id"),
        at_sequence=None if at_sequence is None else inputs.whole(at_sequence, "at_sequence"),
    )
    return Call("GetChallenge", request, lambda response: decoding.challenge(response.challenge))


def list_challenges(
    *,
    statuses: Iterable[ChallengeStatus],
    labels: Mapping[str, str] | None,
    closed_at_from: datetime | None,
    closed_at_before: datetime | None,
    page_size: int,
) -> Call[Page[Challenge]]:
    """The first page of challenges."""
    request = pb.ListChallengesRequest(
        statuses=encoding.statuses(statuses, "statuses"),
        labels=inputs.labels(labels),
        closed_at_from=encoding.optional_timestamp(closed_at_from, "closed_at_from"),
        closed_at_before=encoding.optional_timestamp(closed_at_before, "closed_at_before"),
        page_size=inputs.whole(page_size, "page_size", inputs.INT32_MAX),
    )
    return _page("ListChallenges", request, lambda response: [decoding.challenge(c) for c in response.challenges])


def list_trades(
    challenge_id: str, *, from_sequence: int, to_sequence: int, page_size: int
) -> Call[Page[RecordedTrade]]:
    """The first page of a challenge's trades."""
    request = pb.ListTradesRequest(
        challenge_id=inputs.text(challenge_id, "challenge_id"),
        from_sequence=inputs.whole(from_sequence, "from_sequence"),
        to_sequence=inputs.whole(to_sequence, "to_sequence"),
        page_size=inputs.whole(page_size, "page_size", inputs.INT32_MAX),
    )
    return _page("ListTrades", request, lambda response: [decoding.recorded_trade(t) for t in response.trades])


def list_events(
    *, challenge_id: str | None, new_statuses: Iterable[ChallengeStatus], after_position: int, page_size: int
) -> Call[Page[ChallengeEvent]]:
    """The first page of events."""
    request = pb.ListEventsRequest(
        challenge_id=inputs.given_text(challenge_id, "challenge_id") or "",
        new_statuses=encoding.statuses(new_statuses, "new_statuses"),
        after_position=inputs.whole(after_position, "after_position"),
        page_size=inputs.whole(page_size, "page_size", inputs.INT32_MAX),
    )
    return _page("ListEvents", request, lambda response: [decoding.event(e) for e in response.events])


def stream_events(
    *,
    challenge_ids: Iterable[str],
    new_statuses: Iterable[ChallengeStatus],
    after_cursor: str | None,
    after_position: int | None,
    from_beginning: bool,
    from_now: bool,
    heartbeat_interval: timedelta | None,
    max_events_per_message: int,
) -> Call[StreamMessage | None]:
    """Follow events; `decode` reads one message, None being one to skip."""
    starts = {
        "after_cursor": after_cursor is not None,
        "after_position": after_position is not None,
        "from_beginning": from_beginning,
        "from_now": from_now,
    }
    given = [name for name, is_given in starts.items() if is_given]
    if len(given) != 1:
        raise ValueError(f"exactly one of {', '.join(starts)} must be given, got {' and '.join(given) or 'none'}")
    request = pb.StreamEventsRequest(
        challenge_ids=[inputs.text(item, "a challenge_id") for item in inputs.several(challenge_ids, "challenge_ids")],
        new_statuses=encoding.statuses(new_statuses, "new_statuses"),
        after_cursor=inputs.given_text(after_cursor, "after_cursor"),
        after_position=None if after_position is None else inputs.whole(after_position, "after_position"),
        from_beginning=pb.StreamEventsRequest.FromBeginning() if from_beginning else None,
        from_now=pb.StreamEventsRequest.FromNow() if from_now else None,
        heartbeat_interval=None
        if heartbeat_interval is None
        else encoding.duration(heartbeat_interval, "heartbeat_interval"),
        max_events_per_message=inputs.whole(max_events_per_message, "max_events_per_message", inputs.INT32_MAX),
    )
    return Call("StreamEvents", request, decoding.stream_message)


def closing_of(challenge_id: str) -> Call[StreamMessage | None]:
    """Follow one challenge until it has ended."""
    return stream_events(
        challenge_ids=[challenge_id],
        new_statuses=[ChallengeStatus.FAILED, ChallengeStatus.FUNDED],
        after_cursor=None,
        after_position=None,
        from_beginning=True,
        from_now=False,
        heartbeat_interval=None,
        max_events_per_message=1,
    )


def resumed(
    stream: Call[StreamMessage | None], *, after_cursor: str | None, timeout_s: float
) -> Call[StreamMessage | None]:
    """The same stream again after a cursor, or from its own start when there is none yet."""
    assert isinstance(stream.request, pb.StreamEventsRequest)
    request = pb.StreamEventsRequest()
    request.CopyFrom(stream.request)
    if after_cursor is not None:
        request.after_cursor = after_cursor
    return replace(stream, request=request, timeout_s=timeout_s)


def _page(method: str, request: Any, items: Callable[[Any], Sequence[ItemT]]) -> Call[Page[ItemT]]:
    """A call for one page, whose answer holds the call for the next: the same request with the next token."""

    def decode(response: Any) -> Page[ItemT]:
        if not response.next_page_token:
            return Page(items(response), None)
        following = type(request)()
        following.CopyFrom(request)
        following.page_token = response.next_page_token
        return Page(items(response), _page(method, following, items))

    return Call(method, request, decode)
