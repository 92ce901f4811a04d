"""StreamEvents: every event once and in order, from any start, live, resumable, and out of the way of a stop."""

import asyncio
import contextlib
import itertools
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, cast

import grpc
import psycopg
import pytest
from google.protobuf.duration_pb2 import Duration
from grpc_health.v1 import health_pb2, health_pb2_grpc
from sqlalchemy.engine import URL

from bench.stream_readers import StreamReader
from challenge_engine.event_log import BEGINNING, LogEnd
from challenge_engine.event_tail import Heartbeat
from challenge_server.application import STOP_GRACE_S, Application
from challenge_server.handlers import CallCount, generic_handler
from challenge_server.servicer import ChallengeServicer
from challenge_server.settings import Address, ServeSettings
from propfirm.challenge.v1 import challenge_pb2 as pb
from propfirm.challenge.v1.challenge_pb2_grpc import ChallengeServiceStub
from tests.conftest import ServerProcess
from tests.server.calls import (
    PATIENCE_S,
    after,
    batch,
    connected,
    event_as_model,
    eventually,
    libpq,
    make_challenge,
    new_id,
    read_refusal,
    stream_refusal,
    submission,
    url_text,
)
from tests.server.conftest import either

PENDING, ACTIVE = pb.CHALLENGE_STATUS_PENDING, pb.CHALLENGE_STATUS_ACTIVE
FAILED, FUNDED = pb.CHALLENGE_STATUS_FAILED, pb.CHALLENGE_STATUS_FUNDED


class Streams:
    """Opens streams, and ends those that are left."""

    def __init__(self, stub: ChallengeServiceStub) -> None:
        self._stub = stub
        self._open: list[Any] = []

    def __call__(self, stub: ChallengeServiceStub | None = None, **request: Any) -> Any:
        call = (stub or self._stub).StreamEvents(pb.StreamEventsRequest(**request), timeout=PATIENCE_S)
        self._open.append(call)
        return call

    def close(self) -> None:
        for call in self._open:
            call.cancel()


@pytest.fixture(params=["server", "fake"])
def stub(request: pytest.FixtureRequest) -> ChallengeServiceStub:
    """The shared server, and the fake one, which has to do the same."""
    return either(request)


@pytest.fixture
def follow(stub: ChallengeServiceStub) -> Iterator[Streams]:
    streams = Streams(stub)
    yield streams
    streams.close()


@pytest.fixture(autouse=True)
def settled(session_database_url: URL) -> None:
    """What earlier tests did has its place in the log, so that it is not news to the streams of this one."""
    with psycopg.connect(libpq(session_database_url), autocommit=True) as connection:
        eventually(lambda: connection.execute("SELECT NOT EXISTS (SELECT FROM event_outbox)").fetchone() == (True,))


def live_one(stub: ChallengeServiceStub) -> str:
    """A challenge that goes from PENDING over ACTIVE to FUNDED: three events."""
    challenge_id = make_challenge(stub)
    batch(stub, submission(challenge_id, "1"), submission(challenge_id, "2", "9999", after(1)))
    return challenge_id


def placed(stub: ChallengeServiceStub, challenge_id: str, count: int) -> list[pb.ChallengeEvent]:
    """The events of a challenge, once so many have their position."""
    request = pb.ListEventsRequest(challenge_id=challenge_id)
    eventually(lambda: len(stub.ListEvents(request, timeout=PATIENCE_S).events) >= count)
    return list(stub.ListEvents(request, timeout=PATIENCE_S).events)


def read_events(stream: Any, count: int) -> list[pb.ChallengeEvent]:
    """The next events of a stream, whatever else it says between them."""
    events: list[pb.ChallengeEvent] = []
    while len(events) < count:
        message = next(stream)
        assert message.cursor
        if message.WhichOneof("message") == "event":
            events.append(message.event)
    return events


def until_caught_up(stream: Any) -> list[pb.StreamEventsResponse]:
    """The messages up to and including caught_up."""
    messages = []
    for message in stream:
        messages.append(message)
        if message.WhichOneof("message") == "caught_up":
            break
    return messages


def kinds(messages: list[pb.StreamEventsResponse]) -> list[str | None]:
    return [message.WhichOneof("message") for message in messages]


def test_from_the_beginning_every_event_comes_in_order_and_then_caught_up(
    stub: ChallengeServiceStub, follow: Streams
) -> None:
    challenge_id = live_one(stub)
    recorded = placed(stub, challenge_id, 3)
    messages = until_caught_up(follow(challenge_ids=[challenge_id], from_beginning={}))
    assert kinds(messages) == ["event"] * 3 + ["caught_up"]
    assert [message.event for message in messages[:3]] == recorded
    assert messages[-1].caught_up.position >= recorded[-1].position
    assert [event.challenge_sequence for event in recorded] == [1, 2, 3]
    assert [event.new_status for event in recorded] == [PENDING, ACTIVE, FUNDED]


def test_without_a_filter_positions_have_no_gap(stub: ChallengeServiceStub, follow: Streams) -> None:
    last = placed(stub, live_one(stub), 3)[-1].position
    messages = until_caught_up(follow(from_beginning={}))
    positions = [message.event.position for message in messages[:-1]]
    assert positions == list(range(1, len(positions) + 1))
    assert positions[-1] >= last


def test_events_tell_what_happened(stub: ChallengeServiceStub, follow: Streams) -> None:
    labels = {"desk": "7"}
    made = stub.CreateChallenge(
        pb.CreateChallengeRequest(initial_balance="1000.50", labels=labels, currency_code="EUR"), timeout=PATIENCE_S
    ).challenge
    stream = follow(challenge_ids=[made.challenge_id], from_beginning={})
    (created,) = read_events(stream, 1)
    assert (created.event_type, created.old_status, created.new_status) == (pb.EVENT_TYPE_CHALLENGE_CREATED, 0, PENDING)
    assert (created.reason, created.trade_id, created.trade_sequence, created.equity) == (0, "", 0, "1000.5")
    assert (created.terms.initial_balance, created.terms.limits, created.terms.currency_code) == (
        "1000.5", made.limits, "EUR",
    )  # fmt: skip
    assert dict(created.terms.labels) == labels
    assert created.occurred_at == created.terms.created_at == made.created_at
    decision = stub.SubmitTrade(submission(made.challenge_id, "big", "-500"), timeout=PATIENCE_S).decision
    active, failed = read_events(stream, 2)
    assert (event_as_model(active)["old_status"], event_as_model(active)["new_status"]) == ("PENDING", "ACTIVE")
    assert (event_as_model(failed)["old_status"], event_as_model(failed)["new_status"]) == ("ACTIVE", "FAILED")
    assert (active.reason, failed.reason) == (0, pb.RULE_MAX_DAILY_DRAWDOWN)
    for event in (active, failed):
        assert (event.trade_id, event.trade_sequence, event.equity) == ("big", 1, "500.5")
        assert list(event.evaluations) == list(decision.evaluations)
        assert event.occurred_at == decision.executed_at
        assert event.recorded_at == decision.recorded_at
        assert not event.HasField("terms")


def test_from_now_says_caught_up_with_a_cursor_at_once_and_then_only_what_is_new(
    stub: ChallengeServiceStub, follow: Streams
) -> None:
    placed(stub, live_one(stub), 3)
    stream = follow(from_now={})
    first = next(stream)
    assert (first.WhichOneof("message"), bool(first.cursor)) == ("caught_up", True)
    new = live_one(stub)
    (event,) = read_events(stream, 1)
    assert event.challenge_id == new
    assert event.position == first.caught_up.position + 1
    again = follow(after_cursor=first.cursor)
    assert read_events(again, 1) == [event]


def test_from_now_says_caught_up_first_also_while_events_are_coming_in(
    stub: ChallengeServiceStub, follow: Streams
) -> None:
    """The cursor to come back with is told at once; what gets its place in the log meanwhile comes after it."""
    for _ in range(20):
        make_challenge(stub)
        assert next(follow(from_now={})).WhichOneof("message") == "caught_up"


def test_every_cursor_resumes_exactly_behind_its_message(stub: ChallengeServiceStub, follow: Streams) -> None:
    ids = [live_one(stub) for _ in range(3)]
    for challenge_id in ids:
        placed(stub, challenge_id, 3)
    messages = until_caught_up(follow(challenge_ids=ids, from_beginning={}))
    assert len(messages) == 10
    for number, message in enumerate(messages, 1):
        rest = until_caught_up(follow(challenge_ids=ids, after_cursor=message.cursor))
        assert [item.event for item in rest[:-1]] == [item.event for item in messages[number:-1]]


def test_every_position_resumes_exactly_behind_it(stub: ChallengeServiceStub, follow: Streams) -> None:
    challenge_id = live_one(stub)
    recorded = placed(stub, challenge_id, 3)
    for number, event in enumerate(recorded, 1):
        rest = until_caught_up(follow(challenge_ids=[challenge_id], after_position=event.position))
        assert [item.event for item in rest[:-1]] == recorded[number:]
    whole = until_caught_up(follow(challenge_ids=[challenge_id], after_position=0))
    assert [item.event for item in whole[:-1]] == recorded


def test_a_position_beyond_the_end_is_refused_and_the_last_is_not(stub: ChallengeServiceStub, follow: Streams) -> None:
    last = next(follow(from_now={})).caught_up.position
    answer = stream_refusal(stub, pb.StreamEventsRequest(after_position=last + 1000))
    assert (answer.reason, answer.fields) == ("VALIDATION_FAILED", ("after_position",))
    assert next(follow(after_position=last)).WhichOneof("message") in ("caught_up", "event")


@pytest.mark.parametrize(
    ("statuses", "seen"),
    [
        ([], [PENDING, ACTIVE, FUNDED]),
        ([PENDING], [PENDING]),
        ([ACTIVE], [ACTIVE]),
        ([FUNDED, PENDING, FUNDED], [PENDING, FUNDED]),
        ([FAILED], []),
    ],
)
def test_only_the_statuses_asked_for_are_sent_and_created_counts_as_pending(
    stub: ChallengeServiceStub, follow: Streams, statuses: list[Any], seen: list[Any]
) -> None:
    challenge_id = live_one(stub)
    placed(stub, challenge_id, 3)
    messages = until_caught_up(follow(challenge_ids=[challenge_id], new_statuses=statuses, from_beginning={}))
    assert [message.event.new_status for message in messages[:-1]] == seen


def test_a_challenge_may_be_followed_before_it_exists(stub: ChallengeServiceStub, follow: Streams) -> None:
    challenge_id = new_id()
    stream = follow(challenge_ids=[challenge_id.upper()], from_now={})
    until_caught_up(stream)
    live_one(stub)
    make_challenge(stub, challenge_id=challenge_id)
    (event,) = read_events(stream, 1)
    assert event.challenge_id == challenge_id


@pytest.mark.parametrize("stub", ["server"], indirect=True)
def test_live_events_come_from_another_connection_and_to_every_stream(
    stub: ChallengeServiceStub, follow: Streams, server_address: str
) -> None:
    streams = [follow(from_now={}) for _ in range(20)]
    for stream in streams:
        assert next(stream).WhichOneof("message") == "caught_up"
    with connected(server_address) as other:
        challenge_id = live_one(other)
    for stream in streams:
        assert [event.challenge_id for event in read_events(stream, 3)] == [challenge_id] * 3


@pytest.mark.parametrize("stub", ["server"], indirect=True)
def test_live_events_come_from_another_process_on_the_same_database(
    stub: ChallengeServiceStub, follow: Streams, start_server: Callable[..., ServerProcess], session_database_url: URL
) -> None:
    other = start_server("--database-url", url_text(session_database_url), "--log-level", "error")
    with connected(other.address) as there:
        here_stream, there_stream = follow(from_now={}), follow(there, from_now={})
        here_first, there_first = next(here_stream), next(there_stream)
        challenge_id = live_one(there)
        for stream in (here_stream, there_stream):
            assert [event.challenge_id for event in read_events(stream, 3)] == [challenge_id] * 3
        # A cursor is bound to the log, not to the process that gave it.
        for asked, cursor in ((there, here_first.cursor), (stub, there_first.cursor)):
            assert read_events(follow(asked, after_cursor=cursor), 3)[-1].challenge_id == challenge_id
        there_stream.cancel()
    assert other.stop() == 0


def test_a_cursor_of_another_filter_is_a_mismatch_but_its_position_resumes_under_any(
    stub: ChallengeServiceStub, follow: Streams
) -> None:
    one, two = live_one(stub), live_one(stub)
    placed(stub, one, 3)
    recorded = placed(stub, two, 3)
    message = until_caught_up(follow(challenge_ids=[one, two], new_statuses=[PENDING, FUNDED], from_beginning={}))[0]
    for other in (
        {},
        {"challenge_ids": [one, two]},
        {"challenge_ids": [one], "new_statuses": [PENDING, FUNDED]},
        {"challenge_ids": [one, two], "new_statuses": [PENDING]},
        {"challenge_ids": [one, two, new_id()], "new_statuses": [PENDING, FUNDED]},
    ):
        answer = stream_refusal(stub, pb.StreamEventsRequest(after_cursor=message.cursor, **other))
        assert (answer.code, answer.reason) == ("INVALID_ARGUMENT", "CURSOR_MISMATCH")
    for same in (
        {"challenge_ids": [two.upper(), one, one], "new_statuses": [FUNDED, PENDING]},
        {"challenge_ids": [one, two], "new_statuses": [PENDING, FUNDED, PENDING]},
    ):
        assert next(follow(after_cursor=message.cursor, **same)).WhichOneof("message") == "event"
    resumed = until_caught_up(follow(challenge_ids=[two], after_position=message.event.position))
    assert [item.event for item in resumed[:-1]] == recorded


@pytest.mark.parametrize("stub", ["server"], indirect=True)
def test_a_cursor_of_another_log_or_a_page_token_is_a_mismatch(
    stub: ChallengeServiceStub, follow: Streams, start_server: Callable[..., ServerProcess], database_url: URL
) -> None:
    placed(stub, live_one(stub), 3)
    page = stub.ListEvents(pb.ListEventsRequest(page_size=1), timeout=PATIENCE_S)
    assert stream_refusal(stub, pb.StreamEventsRequest(after_cursor=page.next_page_token)).reason == "CURSOR_MISMATCH"
    cursor = next(follow(from_beginning={})).cursor
    with psycopg.connect(libpq(database_url)) as connection:
        # The databases of the tests are copies of one, so they have the identity of its log until it gets another.
        connection.execute("UPDATE event_log SET log_id = gen_random_uuid()")
    other = start_server("--database-url", url_text(database_url), "--log-level", "error")
    with connected(other.address) as elsewhere:
        placed(elsewhere, live_one(elsewhere), 3)
        assert stream_refusal(elsewhere, pb.StreamEventsRequest(after_cursor=cursor)).reason == "CURSOR_MISMATCH"


def test_a_silent_stream_sends_heartbeats_whose_cursors_resume(stub: ChallengeServiceStub, follow: Streams) -> None:
    challenge_id = make_challenge(stub)
    (created,) = placed(stub, challenge_id, 1)
    stream = follow(
        challenge_ids=[challenge_id], after_position=created.position, heartbeat_interval=Duration(seconds=1)
    )
    assert next(stream).WhichOneof("message") == "caught_up"
    began = time.monotonic()
    # What does not match is no reason to break the silence, but it is behind the heartbeat's position.
    other = placed(stub, live_one(stub), 3)
    heartbeat = next(stream)
    assert heartbeat.WhichOneof("message") == "heartbeat"
    assert time.monotonic() - began < 10
    assert heartbeat.heartbeat.position >= other[-1].position
    stub.SubmitTrade(submission(challenge_id), timeout=PATIENCE_S)
    (event,) = read_events(stream, 1)
    resumed = follow(challenge_ids=[challenge_id], after_cursor=heartbeat.cursor)
    assert next(resumed).event == event


@pytest.mark.parametrize("stub", ["server"], indirect=True)
def test_a_reader_gets_every_event_once_while_many_write(
    stub: ChallengeServiceStub, follow: Streams, server_address: str
) -> None:
    ids = [new_id() for _ in range(30)]
    stream = follow(challenge_ids=ids, from_now={})
    until_caught_up(stream)
    with connected(server_address) as other:
        made = [
            other.CreateChallenge.future(pb.CreateChallengeRequest(challenge_id=ident, initial_balance="100000"))
            for ident in ids
        ]
        for call in made:
            call.result(PATIENCE_S)
        calls = [other.SubmitTrade.future(submission(ident, "1", "-6000")) for ident in ids]
        events = read_events(stream, 3 * len(ids))
        for call in calls:
            call.result(PATIENCE_S)
    positions = [event.position for event in events]
    assert positions == sorted(set(positions))
    for ident in ids:
        assert [e.challenge_sequence for e in events if e.challenge_id == ident] == [1, 2, 3]


async def test_a_client_that_cancels_or_leaves_ends_the_stream_on_the_server() -> None:
    ended: asyncio.Queue[str] = asyncio.Queue()

    class EndlessLog:
        """Stands in for the log and its tail: sends heartbeats for ever, and tells when it is left."""

        @contextlib.asynccontextmanager
        async def starting(self) -> AsyncIterator[None]:
            yield

        async def end(self) -> LogEnd:
            return LogEnd("log", BEGINNING)

        async def follow(self, *_: object, **__: object) -> AsyncIterator[Heartbeat]:
            try:
                yield Heartbeat(BEGINNING)
                await asyncio.Event().wait()
            finally:
                ended.put_nowait("ended")

    nothing = cast("Any", None)
    endless = cast("Any", EndlessLog())
    servicer = ChallengeServicer(nothing, nothing, endless, endless, clock=lambda: 0)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((generic_handler(servicer, CallCount()),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        for leave in ("cancel", "close", "deadline"):
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                timeout = 0.3 if leave == "deadline" else None
                call = ChallengeServiceStub(channel).StreamEvents(
                    pb.StreamEventsRequest(from_beginning={}), timeout=timeout
                )
                assert (await call.read()).WhichOneof("message") == "heartbeat"
                if leave == "cancel":
                    call.cancel()
                if leave != "close":
                    assert await asyncio.wait_for(ended.get(), PATIENCE_S) == "ended"
            if leave == "close":
                assert await asyncio.wait_for(ended.get(), PATIENCE_S) == "ended"
    finally:
        await server.stop(None)


def test_on_a_stop_streams_end_with_a_heartbeat_and_draining_and_do_not_hold_it_up(
    start_server: Callable[..., ServerProcess], database_url: URL
) -> None:
    server = start_server("--database-url", url_text(database_url), "--log-level", "error")
    with connected(server.address) as stub:
        challenge_id = live_one(stub)
        recorded = placed(stub, challenge_id, 3)
        hour = Duration(seconds=3600)
        starts: list[dict[str, Any]] = [{"from_beginning": {}}, {"from_now": {}}, {"new_statuses": [FAILED]}]
        streams = [
            stub.StreamEvents(pb.StreamEventsRequest(**{"from_beginning": {}, "heartbeat_interval": hour} | start))
            if "from_now" not in start
            else stub.StreamEvents(pb.StreamEventsRequest(heartbeat_interval=hour, **start))
            for start in starts
        ]
        for stream in streams:
            until_caught_up(stream)
        began = time.monotonic()
        assert server.stop(signal.SIGTERM) == 0
        assert time.monotonic() - began < 10
        for stream in streams:
            last = next(stream)
            assert last.WhichOneof("message") == "heartbeat"
            assert last.heartbeat.position == recorded[-1].position
            assert last.cursor
            with pytest.raises(grpc.RpcError) as caught:
                next(stream)
            answer = read_refusal(caught.value)
            assert (answer.code, answer.reason) == ("UNAVAILABLE", "DRAINING")


@pytest.mark.parametrize("most", [2, 7, 500, 2**31 - 1])
def test_several_events_come_in_one_message_to_who_asks_for_it(
    stub: ChallengeServiceStub, follow: Streams, most: int
) -> None:
    """The same events as one by one, and the cursor behind the last of a message resumes behind it."""
    placed(stub, live_one(stub), 3)
    single = until_caught_up(follow(from_beginning={}))[:-1]
    assert len(single) >= 3
    messages = until_caught_up(follow(from_beginning={}, max_events_per_message=most))[:-1]
    assert {message.WhichOneof("message") for message in messages} == {"events"}
    sizes = [len(message.events.events) for message in messages]
    assert min(sizes) >= 1
    assert max(sizes) <= min(most, 500)
    together = [event for message in messages for event in message.events.events]
    assert together[: len(single)] == [message.event for message in single]
    cursors = {message.event.position: message.cursor for message in single}
    for message in messages:
        last = message.events.events[-1].position
        assert message.cursor == cursors.get(last, message.cursor)
    resumed = next(follow(after_cursor=messages[0].cursor))
    if len(together) > sizes[0]:
        assert resumed.event == together[sizes[0]]


@pytest.mark.parametrize("most", [0, 1])
def test_without_asking_each_event_comes_by_itself(stub: ChallengeServiceStub, follow: Streams, most: int) -> None:
    placed(stub, live_one(stub), 3)
    messages = until_caught_up(follow(from_beginning={}, max_events_per_message=most))[:-1]
    assert {message.WhichOneof("message") for message in messages} == {"event"}


def test_a_negative_number_of_events_per_message_is_refused(stub: ChallengeServiceStub) -> None:
    answer = stream_refusal(stub, pb.StreamEventsRequest(from_beginning={}, max_events_per_message=-1))
    assert (answer.code, answer.reason) == ("INVALID_ARGUMENT", "VALIDATION_FAILED")
    assert "max_events_per_message" in str(answer)


def test_a_reader_that_is_slow_loses_nothing(stub: ChallengeServiceStub, follow: Streams) -> None:
    """It lets far more pile up than fits between server and client, and then reads it all."""
    labels = {f"{n:02}": "x" * 255 for n in range(32)}
    ids = [new_id() for _ in range(40)]
    stream = follow(challenge_ids=ids, from_now={})
    until_caught_up(stream)
    for ident in ids:
        make_challenge(stub, challenge_id=ident, labels=labels)
    placed(stub, ids[-1], 1)
    assert [event.challenge_id for event in itertools.islice(read_events(stream, 40), 40)] == ids


@contextlib.contextmanager
def stalled_readers(stub: ChallengeServiceStub, address: str, count: int = 5) -> Iterator[list[StreamReader]]:
    """Subscribers that read nothing, on a log that is larger than what lies between the server and them."""
    labels = {f"key{number}": "x" * 255 for number in range(32)}
    for _ in range(40):
        stub.CreateChallenge(pb.CreateChallengeRequest(initial_balance="100000", labels=labels))
    request = pb.StreamEventsRequest(from_beginning={})
    readers = [StreamReader(address, request, is_stalled=True) for _ in range(count)]
    try:
        for reader in readers:
            # As much as the window of HTTP/2 lets through.
            eventually(lambda: len(reader.socket.recv(1_000_000, socket.MSG_PEEK)) > 60_000)  # noqa: B023
        yield readers
    finally:
        for reader in readers:
            reader.socket.close()


def test_readers_that_stall_and_watchers_of_health_do_not_hold_up_a_stop(
    start_server: Callable[..., ServerProcess], database_url: URL
) -> None:
    server = start_server("--database-url", url_text(database_url), "--log-level", "error")
    with (
        connected(server.address) as stub,
        stalled_readers(stub, server.address),
        grpc.insecure_channel(server.address) as channel,
    ):
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        began = time.monotonic()
        assert server.stop(signal.SIGTERM) == 0
        assert time.monotonic() - began < STOP_GRACE_S / 2


async def test_readers_that_leave_while_they_stall_leave_nothing_behind(database_url: URL) -> None:
    application = Application(database_url, ServeSettings(listen=Address("127.0.0.1", 0)))
    address = f"127.0.0.1:{await application.start()}"
    tail = application._tail
    try:

        def streams() -> int:
            running = (task.get_coro() for task in asyncio.all_tasks(loop))
            return sum("_rpc_coro" in getattr(coroutine, "__qualname__", "") for coroutine in running)

        def stall_and_leave() -> None:
            with connected(address) as stub, stalled_readers(stub, address):
                assert streams() == 5
                # Nobody is at the end, for whom the tail would have to read.
                assert not tail.is_live

        loop = asyncio.get_running_loop()
        await asyncio.to_thread(stall_and_leave)
        await asyncio.to_thread(eventually, lambda: not streams())
        assert tail._turns._free == 1
    finally:
        await application.stop()
