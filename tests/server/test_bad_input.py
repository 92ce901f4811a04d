"""Whatever a caller sends, what does not fit is refused by the name of its field, and leaves no trace."""

from collections.abc import Callable, Iterator
from typing import Any

import grpc
import psycopg
import pytest

from challenge_engine.embedded import EmbeddedPostgres
from propfirm.challenge.v1 import challenge_pb2 as pb
from propfirm.challenge.v1.challenge_pb2_grpc import ChallengeServiceStub
from tests.conftest import ServerProcess, _fresh_database
from tests.server.bad_requests import BAD_TRADES, CASES, KNOWN, Case
from tests.server.calls import (
    PATIENCE_S,
    SERVICE,
    after,
    batch,
    connected,
    libpq,
    make_challenge,
    new_id,
    read_refusal,
    read_rejection,
    refusal,
    snapshot,
    stream_refusal,
    submission,
    url_text,
)

Fresh = tuple[str, Callable[[], object]]


@pytest.fixture(scope="module", params=["server", "fake"])
def fresh(request: pytest.FixtureRequest, postgres: EmbeddedPostgres) -> Iterator[Fresh]:
    """The address of a server of this module's own, real or fake, and all it has: one challenge, one trade."""
    if request.param == "fake":
        address = request.getfixturevalue("fake_address")
        with connected(address) as stub:
            make_challenge(stub, challenge_id=KNOWN)
            stub.SubmitTrade(submission(KNOWN, "first"), timeout=PATIENCE_S)
            yield address, lambda: _all_that_is_told(stub)
        return
    with _fresh_database(postgres) as url:
        server = ServerProcess("--listen", "127.0.0.1:0", "--log-level", "warning", "--database-url", url_text(url))
        address = server.wait_ready()
        with connected(address) as stub:
            make_challenge(stub, challenge_id=KNOWN)
            stub.SubmitTrade(submission(KNOWN, "first"), timeout=PATIENCE_S)
        with psycopg.connect(libpq(url), autocommit=True) as connection:
            yield address, lambda: snapshot(connection)
        assert server.stop() == 0
        # The role of the tests is a superuser, which is worth one.
        said = [line for line in server.stderr().splitlines() if "could rewrite history" not in line]
        server.close()
        assert said == [], "bad input must not be worth a warning to the operator"


@pytest.fixture
def address(fresh: Fresh) -> Iterator[str]:
    """The server's address; afterwards no row may have changed since the module began."""
    address, everything = fresh
    before = everything()
    yield address
    assert everything() == before


def _all_that_is_told(stub: ChallengeServiceStub) -> list[object]:
    return [
        stub.ListChallenges(pb.ListChallengesRequest(page_size=1000)),
        stub.ListTrades(pb.ListTradesRequest(challenge_id=KNOWN)),
        stub.ListEvents(pb.ListEventsRequest(page_size=1000)),
    ]


@pytest.fixture(scope="module")
def fresh_stub(fresh: Fresh) -> Iterator[ChallengeServiceStub]:
    with connected(fresh[0]) as stub:
        yield stub


def refused(stub: ChallengeServiceStub, method: str, request: Any) -> Any:
    if method == "StreamEvents":
        return stream_refusal(stub, request)
    return refusal(getattr(stub, method), request)


@pytest.mark.parametrize("case", CASES)
def test_a_bad_field_is_named_and_nothing_is_written(
    address: str, fresh_stub: ChallengeServiceStub, case: Case
) -> None:
    method, request, fields = case
    answer = refused(fresh_stub, method, request)
    assert (answer.code, answer.reason, set(answer.fields)) == ("INVALID_ARGUMENT", "VALIDATION_FAILED", fields)
    assert answer.metadata == {}
    for leak in ("Traceback", "psycopg", "google.protobuf", "DecodeError", "ValueError", "\x00"):
        assert leak not in answer.message
    assert len(answer.message) < 2000


METHODS = [method.name for method in pb.DESCRIPTOR.services_by_name["ChallengeService"].methods]
UNDECODABLE = {
    "noise": b"\xff\xff\xff\xff",
    "cut off": b"\x0a\xff",
    "wire type 7": b"\x0f",
    "field 0": b"\x00\x00",
    "text": b"not a protobuf at all",
    "JSON": b'{"challenge_id": ""}',
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("data", UNDECODABLE.values(), ids=UNDECODABLE)
def test_bytes_that_are_no_message_are_refused(address: str, method: str, data: bytes) -> None:
    assert send_bytes(address, method, data) == ("INVALID_ARGUMENT", "VALIDATION_FAILED", ("request",))


@pytest.mark.parametrize(
    "method", ["CreateChallenge", "SubmitTrade", "GetChallenge", "ListTrades", "ListEvents", "StreamEvents"]
)
def test_a_string_that_is_not_utf8_is_refused(address: str, method: str) -> None:
    assert send_bytes(address, method, b"\x0a\x02\xc3\x28") == ("INVALID_ARGUMENT", "VALIDATION_FAILED", ("request",))


def test_half_of_a_surrogate_pair_is_refused(address: str) -> None:
    """CESU-8, which some languages send by mistake."""
    answer = send_bytes(address, "GetChallenge", b"\x0a\x03\xed\xa0\x80")
    assert answer == ("INVALID_ARGUMENT", "VALIDATION_FAILED", ("request",))


def send_bytes(address: str, method: str, data: bytes) -> tuple[str, str, tuple[str, ...]]:
    with grpc.insecure_channel(address) as channel:
        path = f"/{SERVICE}/{method}"
        call: Any = channel.unary_unary(path)
        if method == "StreamEvents":
            streaming = channel.unary_stream(path)
            call = lambda data, timeout: next(streaming(data, timeout=timeout))  # noqa: E731 -- the same call for all
        with pytest.raises(grpc.RpcError) as caught:
            call(data, timeout=PATIENCE_S)
    answer = read_refusal(caught.value)
    return answer.code, answer.reason, answer.fields


def test_a_thousand_bad_fields_are_still_invalid_argument(address: str, fresh_stub: ChallengeServiceStub) -> None:
    """However much is wrong, the details must fit what clients take as trailing metadata."""
    request = pb.StreamEventsRequest(challenge_ids=["not a UUID"] * 1000, from_beginning={})
    answer = stream_refusal(fresh_stub, request)
    assert (answer.code, answer.reason) == ("INVALID_ARGUMENT", "VALIDATION_FAILED")
    assert answer.fields[0] == "challenge_ids[0]"


def test_thousands_of_unknown_statuses_are_still_invalid_argument(
    address: str, fresh_stub: ChallengeServiceStub
) -> None:
    answer = refusal(fresh_stub.ListEvents, pb.ListEventsRequest(new_statuses=[77] * 5000))
    assert (answer.code, answer.reason) == ("INVALID_ARGUMENT", "VALIDATION_FAILED")
    assert answer.fields[0] == "new_statuses[0]"


def test_many_bad_labels_are_still_invalid_argument(address: str, fresh_stub: ChallengeServiceStub) -> None:
    labels = {f"{n:02}" + "\U0001f600" * 62: "\n" for n in range(500)}
    answer = refusal(fresh_stub.CreateChallenge, pb.CreateChallengeRequest(initial_balance="1", labels=labels))
    assert (answer.code, answer.reason) == ("INVALID_ARGUMENT", "VALIDATION_FAILED")


def test_a_message_of_5_mib_is_refused_by_the_transport(address: str, fresh_stub: ChallengeServiceStub) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        fresh_stub.SubmitTrade(submission(KNOWN, "x" * 5 * 1024 * 1024), timeout=PATIENCE_S)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("method", ["ListChallenges", "ListTrades", "ListEvents"])
def test_a_page_token_of_another_list_or_filter_is_refused(stub: ChallengeServiceStub, method: str) -> None:
    challenge_id = make_challenge(stub)
    for number in range(3):
        make_challenge(stub, labels={"made_for": challenge_id})
        stub.SubmitTrade(submission(challenge_id, str(number), executed_at=after(number)), timeout=PATIENCE_S)
    requests = {
        "ListChallenges": lambda token, other: pb.ListChallengesRequest(
            page_size=1, page_token=token, labels={"made_for": other or challenge_id}
        ),
        "ListTrades": lambda token, other: pb.ListTradesRequest(
            page_size=1, page_token=token, challenge_id=challenge_id, from_sequence=1 if other else 0
        ),
        "ListEvents": lambda token, other: pb.ListEventsRequest(
            page_size=1, page_token=token, new_statuses=[pb.CHALLENGE_STATUS_PENDING] if other else []
        ),
    }
    tokens = {
        name: getattr(stub, name)(make("", None), timeout=PATIENCE_S).next_page_token for name, make in requests.items()
    }
    assert all(tokens.values())
    make = requests[method]
    assert refusal(getattr(stub, method), make(tokens[method], new_id())).fields == ("page_token",)
    for name, token in tokens.items():
        if name != method:
            assert refusal(getattr(stub, method), make(token, None)).fields == ("page_token",)


def test_in_a_batch_each_bad_trade_is_one_rejection_and_the_good_ones_are_decided(stub: ChallengeServiceStub) -> None:
    challenge_id = make_challenge(stub)
    trades = []
    for number, (fields, _) in enumerate(BAD_TRADES.values()):
        good = {"challenge_id": challenge_id, "trade_id": f"bad {number}", "executed_at": after(number)}
        trades.append(submission(**good | fields))
        trades.append(submission(challenge_id, f"good {number}", "0.5", after(number)))
    results = batch(stub, *trades)
    assert len(results) == len(trades)
    for number, (name, (_, fields)) in enumerate(BAD_TRADES.items()):
        answer = read_rejection(results[2 * number])
        assert (answer.code, answer.reason) == ("INVALID_ARGUMENT", "VALIDATION_FAILED"), name
        assert set(answer.fields) == {f"trades[{2 * number}].{field}" for field in fields}, name
        decision = results[2 * number + 1].decision
        assert (decision.trade_id, decision.sequence) == (f"good {number}", number + 1)


def test_a_batch_of_nothing_but_bad_trades_changes_no_row(address: str, fresh_stub: ChallengeServiceStub) -> None:
    trades = [submission(**{"challenge_id": KNOWN} | fields) for fields, _ in BAD_TRADES.values()]
    empty = pb.SubmitTradeRequest()
    results = batch(fresh_stub, *trades, empty)
    assert {read_rejection(result).reason for result in results} == {"VALIDATION_FAILED"}
    last = len(trades)
    assert set(read_rejection(results[last]).fields) == {f"trades[{last}].challenge_id", f"trades[{last}].trade"}


def test_an_empty_batch_answers_empty(address: str, fresh_stub: ChallengeServiceStub) -> None:
    assert batch(fresh_stub) == []
