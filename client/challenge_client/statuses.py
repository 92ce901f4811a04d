"""From gRPC statuses and rejections of a batch to the SDK's errors. Reads codes and details, never message texts."""

from collections.abc import Iterable
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from challenge_client import errors
from challenge_client.errors import ChallengeError, TransportError
from challenge_rules.errors import ErrorReason, FieldViolation
from propfirm.challenge.v1 import challenge_pb2 as pb

DOMAIN = "challenge.propfirm"
DETAILS_KEY = "grpc-status-details-bin"
REASON_PREFIX = "ERROR_REASON_"

ERROR_CLASSES: dict[str, type[ChallengeError]] = {
    kind.reason: kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, ChallengeError) and isinstance(kind.reason, ErrorReason)
}
_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


def error_from_rpc(error: grpc.RpcError) -> ChallengeError:
    """The typed error for what grpc or grpc.aio raised; `TransportError` when the service itself did not answer."""
    code, message = error.code(), error.details() or ""
    status = _status_in(error.trailing_metadata() or ())
    info, violations, retry_info = (
        _detail(status, kind)
        for kind in (error_details_pb2.ErrorInfo, error_details_pb2.BadRequest, error_details_pb2.RetryInfo)
    )
    if info is None or info.domain != DOMAIN:
        return TransportError(message, code=code)
    return _typed(
        info.reason,
        message,
        code=code,
        metadata=dict(info.metadata),
        field_violations=() if violations is None else _violations(violations.field_violations),
        retry_after=None if retry_info is None else retry_info.retry_delay.ToTimedelta(),
    )


def error_from_rejection(rejection: pb.TradeRejection) -> ChallengeError:
    """The typed error for one refused trade of a batch: the one that `submit_trade` would have raised."""
    return _typed(
        _reason_name(rejection.reason),
        rejection.message,
        code=_CODES.get(rejection.code, grpc.StatusCode.UNKNOWN),
        metadata=dict(rejection.metadata),
        field_violations=_violations(rejection.field_violations),
    )


def cancelled(message: str) -> TransportError:
    """The error for a call that was cancelled from this side while somebody waited for it."""
    return TransportError(message, code=grpc.StatusCode.CANCELLED)


def _typed(reason: str, message: str, **facts: Any) -> ChallengeError:
    kind = ERROR_CLASSES.get(reason)
    return ChallengeError(message, reason=reason, **facts) if kind is None else kind(message, **facts)


def _reason_name(number: int) -> str:
    """The reason's name; `UNKNOWN_<number>` for one that only a newer server knows."""
    try:
        return pb.ErrorReason.Name(number).removeprefix(REASON_PREFIX)
    except ValueError:
        return f"UNKNOWN_{number}"


def _status_in(metadata: Iterable[Any]) -> status_pb2.Status:
    """The google.rpc.Status among trailing metadata; an empty one when there is none."""
    for key, value in metadata:
        if key == DETAILS_KEY and isinstance(value, bytes):
            try:
                return status_pb2.Status.FromString(value)
            except DecodeError:
                break
    return status_pb2.Status()


def _detail(status: status_pb2.Status, kind: Any) -> Any:
    for packed in status.details:
        if packed.Is(kind.DESCRIPTOR):
            detail = kind()
            try:
                packed.Unpack(detail)
            except DecodeError:
                return None
            return detail
    return None


def _violations(messages: Iterable[Any]) -> tuple[FieldViolation, ...]:
    return tuple(FieldViolation(message.field, message.description) for message in messages)
