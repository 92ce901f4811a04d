"""Binds the servicer to grpc.aio: decoding that cannot leak, and errors as statuses."""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from challenge_engine.internal_errors import log_internal
from challenge_rules import ChallengeError
from challenge_rules.errors import FieldViolation, ValidationError
from challenge_server.servicer import ChallengeServicer
from challenge_server.statuses import abort
from propfirm.challenge.v1 import challenge_pb2 as pb

SERVICE = pb.DESCRIPTOR.services_by_name["ChallengeService"]


@dataclass(slots=True)
class CallCount:
    """How many calls have begun since the server started."""

    begun: int = 0


def generic_handler(servicer: ChallengeServicer, calls: CallCount) -> grpc.GenericRpcHandler:
    """A handler for every method of the contract, made from its descriptor.

    Bytes are decoded and encoded inside the handlers: what grpc.aio's own (de)serialisers raise, it tells the caller.
    """
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
    for method in SERVICE.methods:
        implementation = getattr(servicer, method.name)
        decode = _decoder(GetMessageClass(method.input_type), method.input_type.name)
        if method.server_streaming:
            handlers[method.name] = grpc.unary_stream_rpc_method_handler(_streaming(implementation, decode, calls))
        else:
            handlers[method.name] = grpc.unary_unary_rpc_method_handler(_unary(implementation, decode, calls))
    return grpc.method_handlers_generic_handler(SERVICE.full_name, handlers)


Decoder = Callable[[bytes], Message]


def _decoder(message_class: type[Message], name: str) -> Decoder:
    def decode(data: bytes) -> Message:
        try:
            return message_class.FromString(data)
        except DecodeError:
            raise ValidationError([FieldViolation("request", f"the bytes are not a {name}")]) from None

    return decode


def _unary(
    implementation: Callable[[Any], Awaitable[Message]], decode: Decoder, calls: CallCount
) -> Callable[..., Any]:
    async def handle(data: bytes, context: "grpc.aio.ServicerContext[Any, Any]") -> bytes:
        calls.begun += 1
        try:
            answer = await implementation(decode(data))
            return answer.SerializeToString()
        except ChallengeError as error:
            refused = error
        except Exception:  # noqa: BLE001 -- logged with its error_id, and answered as INTERNAL
            refused = log_internal("answering a call")
        return await abort(context, refused)

    return handle


def _streaming(
    implementation: Callable[[Any], AsyncGenerator[bytes]], decode: Decoder, calls: CallCount
) -> Callable[..., Any]:
    async def handle(data: bytes, context: "grpc.aio.ServicerContext[Any, Any]") -> AsyncIterator[bytes]:
        calls.begun += 1
        try:
            async with aclosing(implementation(decode(data))) as messages:
                async for message in messages:
                    yield message
        except ChallengeError as error:
            refused = error
        except Exception:  # noqa: BLE001 -- logged with its error_id, and answered as INTERNAL
            refused = log_internal("answering a stream")
        else:
            return
        await abort(context, refused)

    return handle
