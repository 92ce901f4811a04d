"""A closed-loop gRPC loader that costs little beside the server: prepared HTTP/2 frames on a plain socket.

A gRPC client in Python costs about as much as the server under test, and then half of what is measured is the loader.
Here a request is a prepared body behind two frame headers, and of an answer only the frame headers are read. Every call
carries its own body; a loader that repeats one would measure replays.
"""

import selectors
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, END_HEADERS, ACK = 0x1, 0x4, 0x1
INITIAL_WINDOW_SIZE = 4
MAX_WINDOW = 2**31 - 1
DEFAULT_WINDOW = 65_535
RECEIVE_BYTES = 1 << 18
FRAME_HEADER_BYTES = 9


@dataclass(slots=True)
class Outcome:
    """What a run came to. A call that failed was answered without a message."""

    seconds: float
    answered: int
    failed: int
    latencies_s: list[float] = field(repr=False)


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _literal(name: bytes, value: bytes) -> bytes:
    """A header that asks for no dynamic table (RFC 7541, 6.2.2); names and values shorter than 127 bytes."""
    return b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value


def _header_block(path: str, authority: str) -> bytes:
    return b"".join(
        _literal(name, value)
        for name, value in (
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", path.encode()),
            (b":authority", authority.encode()),
            (b"content-type", b"application/grpc"),
            (b"te", b"trailers"),
        )
    )


class Connection:
    """One HTTP/2 connection with at most `window` calls in flight."""

    def __init__(self, address: str, path: str, window: int) -> None:
        host, _, port = address.rpartition(":")
        self.socket = socket.create_connection((host, int(port)))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.window = window
        self.in_flight: dict[int, float] = {}
        self.with_message: set[int] = set()
        self.answered = 0
        self.failed = 0
        self.latencies_s: list[float] = []
        self._block = _header_block(path, address)
        self._next_stream = 1
        self._send_window = DEFAULT_WINDOW
        self._received = bytearray()
        settings = struct.pack(">HI", INITIAL_WINDOW_SIZE, MAX_WINDOW)
        self._out = bytearray(PREFACE + _frame(SETTINGS, 0, 0, settings))
        self._out += _frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", MAX_WINDOW - DEFAULT_WINDOW))
        self._waiting: bytes | None = None

    def fill(self, bodies: Iterator[bytes], *, now: float, paced: int | None = None) -> bool:
        """Begin calls up to the window, or `paced` more; False when there are no more bodies."""
        while len(self.in_flight) < self.window and (paced is None or paced > 0):
            body = self._waiting if self._waiting is not None else next(bodies, None)
            self._waiting = None
            if body is None:
                return False
            if len(body) > self._send_window:
                self._waiting = body
                return True
            self._send_window -= len(body)
            stream = self._next_stream
            self._next_stream += 2
            self._out += _frame(HEADERS, END_HEADERS, stream, self._block)
            self._out += _frame(DATA, END_STREAM, stream, body)
            self.in_flight[stream] = now
            if paced is not None:
                paced -= 1
        return True

    def flush(self) -> None:
        """Send what is to be sent; blocks while the server does not take it."""
        if self._out:
            self.socket.sendall(self._out)
            self._out.clear()

    def receive(self) -> None:
        """Read what has come."""
        chunk = self.socket.recv(RECEIVE_BYTES)
        if not chunk:
            raise ConnectionError("the server closed the connection")
        received = self._received
        received += chunk
        now = time.perf_counter()
        place = 0
        while len(received) - place >= FRAME_HEADER_BYTES:
            length = int.from_bytes(received[place : place + 3], "big")
            end = place + FRAME_HEADER_BYTES + length
            if len(received) < end:
                break
            kind, flags = received[place + 3], received[place + 4]
            stream = int.from_bytes(received[place + 5 : place + 9], "big")
            self._handle(kind, flags, stream, bytes(received[place + 9 : end]) if kind > HEADERS else b"", now)
            place = end
        del received[:place]

    def _handle(self, kind: int, flags: int, stream: int, payload: bytes, now: float) -> None:
        if kind == DATA:
            self.with_message.add(stream)
        if kind in (DATA, HEADERS):
            if flags & END_STREAM:
                self._end(stream, now)
        elif kind == RST_STREAM:
            self.with_message.discard(stream)
            self._end(stream, now)
        elif kind == SETTINGS and not flags & ACK:
            self._out += _frame(SETTINGS, ACK, 0, b"")
        elif kind == PING and not flags & ACK:
            self._out += _frame(PING, ACK, 0, payload)
        elif kind == WINDOW_UPDATE and stream == 0:
            self._send_window += struct.unpack(">I", payload)[0]
        elif kind == GOAWAY:
            raise ConnectionError("the server sent GOAWAY")

    def _end(self, stream: int, now: float) -> None:
        began = self.in_flight.pop(stream, None)
        if began is None:
            return
        self.answered += 1
        self.latencies_s.append(now - began)
        if stream in self.with_message:
            self.with_message.remove(stream)
        else:
            self.failed += 1


def message(body: bytes) -> bytes:
    """A protobuf message with gRPC's prefix: not compressed, and its length."""
    return b"\x00" + struct.pack(">I", len(body)) + body


def run(
    address: str,
    path: str,
    bodies: Sequence[bytes],
    *,
    connections: int = 1,
    window: int = 1,
    rate: float | None = None,
    limit_s: float = 60.0,
) -> Outcome:
    """Send every body once, `window` calls in flight on each connection, and wait for the answers.

    With `rate` calls begin evenly at that many a second instead, and latency counts from the moment a call was due, so
    that a stalled server is not flattered. Ends after `limit_s` in any case.
    """
    opened = [Connection(address, path, window) for _ in range(connections)]
    selector = selectors.DefaultSelector()
    for connection in opened:
        selector.register(connection.socket, selectors.EVENT_READ, connection)
    source = iter(bodies)
    began = time.perf_counter()
    more = True
    begun = 0
    while more or any(connection.in_flight for connection in opened):
        now = time.perf_counter()
        if now - began > limit_s:
            break
        if rate is None:
            for connection in opened:
                more = connection.fill(source, now=now) and more
                connection.flush()
            timeout = 1.0
        else:
            while more and began + begun / rate <= now:
                connection = opened[begun % connections]
                more = connection.fill(source, now=began + begun / rate, paced=1)
                begun += 1
            for connection in opened:
                connection.flush()
            timeout = max(0.0, began + begun / rate - time.perf_counter()) if more else 1.0
        for key, _ in selector.select(timeout):
            key.data.receive()
    seconds = time.perf_counter() - began
    selector.close()
    for connection in opened:
        connection.socket.close()
    return Outcome(
        seconds,
        sum(connection.answered for connection in opened),
        sum(connection.failed for connection in opened),
        [latency for connection in opened for latency in connection.latencies_s],
    )
