"""The one table that turns the errors of the rules into gRPC statuses, and their details on the wire."""

import grpc
from google.protobuf import any_pb2
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

from challenge_rules import ChallengeError, ErrorReason
from challenge_rules.errors import OverloadedError, ValidationError
from propfirm.challenge.v1 import challenge_pb2 as pb

DOMAIN = "challenge.propfirm"
DETAILS_KEY = "grpc-status-details-bin"

CODES: dict[ErrorReason, grpc.StatusCode] = {
    ErrorReason.VALIDATION_FAILED: grpc.StatusCode.INVALID_ARGUMENT,
    ErrorReason.CHALLENGE_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    ErrorReason.SEQUENCE_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    ErrorReason.CHALLENGE_EXISTS: grpc.StatusCode.ALREADY_EXISTS,
    ErrorReason.TRADE_ID_REUSED: grpc.StatusCode.ALREADY_EXISTS,
    ErrorReason.CHALLENGE_TERMINAL: grpc.StatusCode.FAILED_PRECONDITION,
    ErrorReason.TRADE_OUT_OF_ORDER: grpc.StatusCode.FAILED_PRECONDITION,
    ErrorReason.TRADE_IN_FUTURE: grpc.StatusCode.INVALID_ARGUMENT,
    ErrorReason.EQUITY_OUT_OF_RANGE: grpc.StatusCode.OUT_OF_RANGE,
    ErrorReason.SEQUENCE_MISMATCH: grpc.StatusCode.ABORTED,
    ErrorReason.PREDECESSOR_FAILED: grpc.StatusCode.ABORTED,
    ErrorReason.WRITE_CONFLICT: grpc.StatusCode.ABORTED,
    ErrorReason.OVERLOADED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    ErrorReason.DATABASE_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    ErrorReason.DRAINING: grpc.StatusCode.UNAVAILABLE,
    ErrorReason.OUTCOME_UNKNOWN: grpc.StatusCode.UNAVAILABLE,
    ErrorReason.CURSOR_MISMATCH: grpc.StatusCode.INVALID_ARGUMENT,
    ErrorReason.CHALLENGE_ARCHIVED: grpc.StatusCode.FAILED_PRECONDITION,
    ErrorReason.INTERNAL: grpc.StatusCode.INTERNAL,
}


def code_number(error: ChallengeError) -> int:
    """The google.rpc code of an error."""
    number: int = CODES[error.reason].value[0]
    return number


def to_status(error: ChallengeError) -> status_pb2.Status:
    """An error as google.rpc.Status with its standard details."""
    status = status_pb2.Status(code=code_number(error), message=error.message)
    details = [error_details_pb2.ErrorInfo(reason=error.reason.value, domain=DOMAIN, metadata=error.metadata)]
    if isinstance(error, ValidationError):
        details.append(
            error_details_pb2.BadRequest(
                field_violations=[
                    error_details_pb2.BadRequest.FieldViolation(field=v.field, description=v.description)
                    for v in error.violations
                ]
            )
        )
    if isinstance(error, OverloadedError):
        details.append(error_details_pb2.RetryInfo(retry_delay=_duration(error.retry_after_s)))
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration


def to_rejection(error: ChallengeError) -> pb.TradeRejection:
    """An error as the answer to one trade of a batch."""
    violations = error.violations if isinstance(error, ValidationError) else ()
    return pb.TradeRejection(
        code=code_number(error),
        reason=f"ERROR_REASON_{error.reason.value}",
        message=error.message,
        metadata=error.metadata,
        field_violations=[pb.FieldViolation(field=v.field, description=v.description) for v in violations],
    )
