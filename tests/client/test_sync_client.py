"""The sync client against a scripted server, without any network."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import grpc_testing
import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc._cython import cygrpc

from challenge_client import (
    CaughtUp,
    ChallengeClient,
    DrainingError,
    EventMessage,
    SequenceMismatchError,
    SequenceNotFoundError,
    TransportError,
    WriteConflictError,
)
from challenge_client.channels import DEFAULT_OPTIONS, MAX_RECEIVE_BYTES, PING_INTERVAL_MS, channel_options
from challenge_client.statuses import DETAILS_KEY, DOMAIN
from propfirm.challenge.v1 import challenge_pb2 as pb
from tests.client import messages

SERVICE = pb.DESCRIPTOR.services_by_name["ChallengeService"]
METHODS = SERVICE.methods_by_name


def details(reason):
    packed = any_pb2.Any()
    packed.Pack(error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN))
    return ((DETAILS_KEY, status_pb2.Status(details=[packed]).SerializeToString()),)


@pytest.fixture
def channel():
    return grpc_testing.channel([SERVICE], grpc_testing.strict_real_time())


@pytest.fixture
def client(channel):
    with ChallengeClient(channel=channel) as connected:
        yield connected


@pytest.fixture
def thread():
    with ThreadPoolExecutor(1) as pool:
        yield pool


def answer(channel, method, response):
    _, request, rpc = channel.take_unary_unary(METHODS[method])
    rpc.terminate(response, (), grpc.StatusCode.OK, "")
    return request


def test_create_challenge_sends_the_request_and_marks_a_replay(channel, client, thread):
    future = thread.submit(client.create_challenge, initial_balance="100000", labels={"desk": "b"})
    request = answer(
        channel, "CreateChallenge", pb.CreateChallengeResponse(challenge=messages.challenge(), replayed=True)
    )
    assert (request.initial_balance, dict(request.labels), len(request.challenge_id)) == ("100000", {"desk": "b"}, 36)
    assert future.result().replayed is True


def test_pages_are_fetched_one_by_one_as_they_are_needed(channel, client, thread):
    items = client.list_events(page_size=2)
    first = thread.submit(next, items)
    request = answer(
        channel,
        "ListEvents",
        pb.ListEventsResponse(events=[messages.created(1), messages.created(2)], next_page_token="t"),
    )
    assert (request.page_size, request.page_token) == (2, "")
    assert first.result().position == 1
    assert next(items).position == 2
    rest = thread.submit(list, items)
    request = answer(channel, "ListEvents", pb.ListEventsResponse(events=[messages.created(3)]))
    assert (request.page_size, request.page_token) == (2, "t")
    assert [event.position for event in rest.result()] == [3]


def test_a_page_may_be_empty_and_not_the_last(channel, client, thread):
    items = thread.submit(list, client.list_trades("id"))
    answer(channel, "ListTrades", pb.ListTradesResponse(next_page_token="t"))
    answer(channel, "ListTrades", pb.ListTradesResponse())
    assert items.result() == []


def test_a_bad_argument_of_a_list_is_found_before_the_first_item_is_asked_for(client):
    with pytest.raises(TypeError, match="statuses"):
        client.list_challenges(statuses="FAILED")


def refuse(channel, method, reason, code):
    _, request, rpc = channel.take_unary_unary(METHODS[method])
    rpc.terminate(None, details(reason), code, "no")
    return request


def test_an_error_is_typed_says_what_was_sent_and_keeps_its_cause(channel, client, thread):
    future = thread.submit(client.get_challenge, "id", at_sequence=7)
    refuse(channel, "GetChallenge", "SEQUENCE_NOT_FOUND", grpc.StatusCode.NOT_FOUND)
    with pytest.raises(SequenceNotFoundError, match="no") as raised:
        future.result()
    error = raised.value
    assert isinstance(error.__cause__, grpc.RpcError)
    assert (error.code, error.method, error.attempts) == (grpc.StatusCode.NOT_FOUND, "GetChallenge", 1)
    assert error.request == {"challenge_id": "id", "at_sequence": "7"}


def test_what_passes_is_sent_again_as_it_was(channel, client, thread):
    """A challenge without an id of the caller's is made once, for its id is minted before the first attempt."""
    future = thread.submit(client.create_challenge, initial_balance="100000")
    sent = [
        refuse(channel, "CreateChallenge", "DATABASE_UNAVAILABLE", grpc.StatusCode.UNAVAILABLE),
        refuse(channel, "CreateChallenge", "OUTCOME_UNKNOWN", grpc.StatusCode.UNAVAILABLE),
        refuse(channel, "CreateChallenge", "OVERLOADED", grpc.StatusCode.RESOURCE_EXHAUSTED),
        answer(channel, "CreateChallenge", pb.CreateChallengeResponse(challenge=messages.challenge())),
    ]
    assert future.result().challenge_id
    assert all(request == sent[0] and request.challenge_id for request in sent)


def test_it_is_sent_as_often_as_the_client_was_told(channel, thread):
    with ChallengeClient(channel=channel, max_attempts=2) as client:
        future = thread.submit(client.get_challenge, "id")
        for _ in range(2):
            refuse(channel, "GetChallenge", "WRITE_CONFLICT", grpc.StatusCode.ABORTED)
        with pytest.raises(WriteConflictError, match=r"no \(after 2 attempts\)\. Nothing was written") as raised:
            future.result()
        assert raised.value.attempts == 2


def test_a_wrong_expected_sequence_is_never_sent_again(channel, client, thread):
    future = thread.submit(client.get_challenge, "id")
    refuse(channel, "GetChallenge", "SEQUENCE_MISMATCH", grpc.StatusCode.ABORTED)
    with pytest.raises(SequenceMismatchError) as raised:
        future.result()
    assert raised.value.attempts == 1


def test_a_status_without_details_is_a_transport_error(channel, client, thread):
    future = thread.submit(client.get_challenge, "id")
    _, _, rpc = channel.take_unary_unary(METHODS["GetChallenge"])
    rpc.terminate(None, (), grpc.StatusCode.DEADLINE_EXCEEDED, "too late")
    with pytest.raises(TransportError) as raised:
        future.result()
    assert raised.value.code is grpc.StatusCode.DEADLINE_EXCEEDED


def test_a_stream_gives_messages_skips_unknown_ones_and_raises_how_it_ended(channel, client, thread):
    stream = client.stream_events(from_beginning=True)
    first = thread.submit(next, stream)
    _, request, rpc = channel.take_unary_stream(METHODS["StreamEvents"])
    assert request.WhichOneof("start") == "from_beginning"
    rpc.send_response(messages.message("newer"))
    rpc.send_response(messages.message("a", event=messages.created(1)))
    rpc.send_response(messages.message("b", caught_up=pb.CaughtUp(position=1)))
    assert isinstance(first.result(), EventMessage)
    assert next(stream) == CaughtUp("b", 1)
    rpc.terminate(details("DRAINING"), grpc.StatusCode.UNAVAILABLE, "bye")
    with pytest.raises(DrainingError):
        next(stream)
    assert list(stream) == []


def test_closing_a_stream_cancels_the_call_and_ends_the_iteration(channel, client, thread):
    with client.stream_events(from_now=True) as stream:
        first = thread.submit(next, stream)
        _, _, rpc = channel.take_unary_stream(METHODS["StreamEvents"])
        rpc.send_response(messages.message("b", caught_up=pb.CaughtUp(position=1)))
        assert first.result() == CaughtUp("b", 1)
    assert rpc.cancelled() is None
    assert list(stream) == []


def test_a_stream_closed_by_another_thread_ends_without_an_error(channel, client, thread):
    stream = client.stream_events(from_now=True)
    rest = thread.submit(list, stream)
    channel.take_unary_stream(METHODS["StreamEvents"])
    stream.close()
    assert rest.result() == []


def test_a_stream_that_was_closed_before_it_began_never_begins(client):
    stream = client.stream_events(from_now=True)
    stream.close()
    assert list(stream) == []


def test_a_closed_client_refuses_calls_and_can_be_closed_again(channel):
    client = ChallengeClient(channel=channel)
    client.close()
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        client.get_challenge("id")


def test_the_callers_options_go_over_the_sdks():
    options = dict(channel_options([("grpc.keepalive_time_ms", 20_000), ("x", 1)]))
    assert options["grpc.keepalive_time_ms"] == 20_000
    assert options["x"] == 1
    options = dict(channel_options(()))
    assert options["grpc.keepalive_time_ms"] == PING_INTERVAL_MS == 10_000
    assert options["grpc.keepalive_permit_without_calls"] == 1
    assert options["grpc.max_receive_message_length"] == MAX_RECEIVE_BYTES


@pytest.mark.parametrize("name", DEFAULT_OPTIONS)
def test_every_option_of_the_channel_is_one_that_grpc_knows(name):
    """A misspelt one would be ignored without a word."""
    assert f"{name}\0".encode() in Path(cygrpc.__file__).read_bytes()
