"""How the clients reach a server."""

from collections.abc import Iterable
from typing import Any

DEFAULT_TARGET = "127.0.0.1:50051"
DEFAULT_TIMEOUT_S = 30.0
PING_INTERVAL_MS = 10_000
PING_TIMEOUT_MS = 5_000
FIRST_RECONNECT_MS = 100
MAX_RECONNECT_MS = 5_000
MAX_RECEIVE_BYTES = 64 * 1024 * 1024
"""A page of 1000 challenges with 32 long labels each does not fit gRPC's default of 4 MiB."""

ChannelOptions = Iterable[tuple[str, Any]]
"""Options of a gRPC channel."""

DEFAULT_OPTIONS: dict[str, Any] = {
    # A dead peer is found within 15 s, also by a stream that waits for events and by a channel without calls.
    "grpc.keepalive_time_ms": PING_INTERVAL_MS,
    "grpc.keepalive_timeout_ms": PING_TIMEOUT_MS,
    "grpc.keepalive_permit_without_calls": 1,
    "grpc.http2.max_pings_without_data": 0,
    # A server that is back is found soon: gRPC by itself would let up to two minutes pass between its attempts.
    "grpc.initial_reconnect_backoff_ms": FIRST_RECONNECT_MS,
    "grpc.max_reconnect_backoff_ms": MAX_RECONNECT_MS,
    "grpc.max_receive_message_length": MAX_RECEIVE_BYTES,
}


def channel_options(options: ChannelOptions) -> list[tuple[str, Any]]:
    """The defaults with the caller's options over them."""
    return list({**DEFAULT_OPTIONS, **dict(options)}.items())
