"""Every reason has an error class of its own, built from codes and details alone."""

import copy
import inspect
import pickle
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from google.protobuf import any_pb2
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

import challenge_client
from challenge_client import ChallengeError, ChallengeStatus, ErrorReason, FieldViolation, TransportError, errors
from challenge_client.statuses import DETAILS_KEY, DOMAIN, ERROR_CLASSES, error_from_rejection, error_from_rpc
from propfirm.challenge.v1 import challenge_pb2 as pb

Code = grpc.StatusCode


class FakeRpcError(grpc.RpcError):
    def __init__(self, code, details, metadata):
        self._parts = (code, details, metadata)

    def code(self):
        return self._parts[0]

    def details(self):
        return self._parts[1]

    def trailing_metadata(self):
        return self._parts[2]


def info(reason, metadata=None, domain=DOMAIN):
    return error_details_pb2.ErrorInfo(reason=reason, domain=domain, metadata=metadata or {})


def rpc_error(*details, code=Code.ABORTED, message="for people"):
    status = status_pb2.Status(code=code.value[0], message=message)
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return FakeRpcError(code, message, (("other", "x"), (DETAILS_KEY, status.SerializeToString())))


def test_every_reason_of_the_contract_has_exactly_one_class():
    names = {name.removeprefix("ERROR_REASON_") for name in pb.ErrorReason.keys()[1:]}
    assert set(ERROR_CLASSES) == names == {reason.value for reason in ErrorReason}
    assert len(set(ERROR_CLASSES.values())) == len(names)


def test_every_class_stands_in_the_tree_and_is_exported_and_explained():
    classes = [*ERROR_CLASSES.values(), TransportError]
    for kind in classes:
        assert kind.__name__ in errors.__doc__
        assert kind.__name__ in challenge_client.__all__
        assert inspect.getdoc(kind) != inspect.getdoc(ChallengeError)


@pytest.mark.parametrize("reason", ErrorReason)
def test_a_status_and_a_rejection_of_one_reason_give_the_same_error(reason):
    raised = error_from_rpc(rpc_error(info(reason.value, {"a": "b"})))
    held = error_from_rejection(
        pb.TradeRejection(code=10, reason=f"ERROR_REASON_{reason.value}", message="for people", metadata={"a": "b"})
    )
    for error in (raised, held):
        assert type(error) is ERROR_CLASSES[reason]
        assert (error.reason, error.code, error.message, error.metadata) == (
            reason,
            Code.ABORTED,
            "for people",
            {"a": "b"},
        )
        assert isinstance(error.reason, ErrorReason)


def test_bad_fields_are_listed():
    wire = error_details_pb2.BadRequest.FieldViolation(field="trade.symbol", description="too long")
    raised = error_from_rpc(rpc_error(info("VALIDATION_FAILED"), error_details_pb2.BadRequest(field_violations=[wire])))
    held = error_from_rejection(
        pb.TradeRejection(
            code=3,
            reason=pb.ERROR_REASON_VALIDATION_FAILED,
            field_violations=[pb.FieldViolation(field="trade.symbol", description="too long")],
        )
    )
    assert raised.field_violations == held.field_violations == (FieldViolation("trade.symbol", "too long"),)


def test_retry_info_is_a_timedelta():
    retry = error_details_pb2.RetryInfo(retry_delay=Duration(seconds=1, nanos=250_000_000))
    assert error_from_rpc(rpc_error(info("OVERLOADED"), retry)).retry_after == timedelta(seconds=1.25)
    assert error_from_rpc(rpc_error(info("OVERLOADED"))).retry_after is None


def test_a_reason_of_a_newer_server_is_kept_as_text():
    error = error_from_rpc(rpc_error(info("MARGIN_CALL")))
    assert (type(error), error.reason) == (ChallengeError, "MARGIN_CALL")
    error = error_from_rejection(pb.TradeRejection(code=999, reason=99))
    assert (type(error), error.reason, error.code) == (ChallengeError, "UNKNOWN_99", Code.UNKNOWN)


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        (),
        ((DETAILS_KEY, b"\xff\xff"),),
        (("other", "text"),),
        rpc_error(info("X", domain="other")).trailing_metadata(),
    ],
)
def test_a_status_without_our_details_is_a_transport_error(metadata):
    error = error_from_rpc(FakeRpcError(Code.UNAVAILABLE, None, metadata))
    assert type(error) is TransportError
    assert (error.reason, error.code, error.message) == ("TRANSPORT", Code.UNAVAILABLE, "")


def test_details_that_cannot_be_read_are_a_transport_error():
    packed = any_pb2.Any(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=b"\xff\xff")
    status = status_pb2.Status(details=[packed])
    error = error_from_rpc(FakeRpcError(Code.ABORTED, "x", ((DETAILS_KEY, status.SerializeToString()),)))
    assert type(error) is TransportError


@pytest.mark.parametrize("kind", [*ERROR_CLASSES.values(), ChallengeError, TransportError])
def test_errors_survive_pickle_and_copy_and_show_themselves(kind):
    error = kind(
        "what happened",
        code=Code.ABORTED,
        reason="NEWER" if kind is ChallengeError else None,
        metadata={"a": "b"},
        field_violations=(FieldViolation("f", "d"),),
        retry_after=timedelta(seconds=2),
    )
    for again in (pickle.loads(pickle.dumps(error)), copy.deepcopy(error)):
        assert type(again) is kind
        assert vars(again) == vars(error)
        assert (again.reason, str(again), repr(again)) == (error.reason, str(error), repr(error))
    assert str(error) == f"{error.reason}: what happened" + (f". {kind.advice}" if kind.advice else "")
    assert repr(error).startswith(f"{kind.__name__}('what happened', reason='{error.reason}', code=ABORTED")
    assert "'a': 'b'" in repr(error)


def test_facts_are_read_from_the_metadata():
    assert errors.SequenceMismatchError(metadata={"next_sequence": "4"}).next_sequence == 4
    assert errors.ChallengeTerminalError(metadata={"status": "FAILED"}).status is ChallengeStatus.FAILED
    last = errors.TradeOutOfOrderError(metadata={"last_executed_at": "2026-03-02T12:00:00.000001Z"}).last_executed_at
    assert last == datetime(2026, 3, 2, 12, 0, 0, 1, UTC)
    assert errors.TradeIdReusedError(metadata={"differing_fields": "symbol,realized_pnl"}).differing_fields == (
        "symbol",
        "realized_pnl",
    )
    assert errors.InternalFailureError(metadata={"error_id": "abc"}).error_id == "abc"


@pytest.mark.parametrize("metadata", [{}, {"next_sequence": "?", "status": "?", "last_executed_at": "?"}])
def test_facts_that_are_missing_or_strange_are_none(metadata):
    assert errors.SequenceMismatchError(metadata=metadata).next_sequence is None
    assert errors.ChallengeTerminalError(metadata=metadata).status is None
    assert errors.TradeOutOfOrderError(metadata=metadata).last_executed_at is None
    assert errors.TradeIdReusedError(metadata=metadata).differing_fields == ()
    assert errors.InternalFailureError(metadata=metadata).error_id is None
