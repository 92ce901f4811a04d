"""A closed-loop gRPC loader that costs little beside the server: prepared HTTP/2 frames on a plain socket.

A gRPC client in Python costs about as much as the server under test, and then half of what is measured is the loader.
Here a request is a prepared body behind two frame headers, and of an answer only the frame headers are read. Every call
carries its own body; a loader that repeats one would measure replays. Calls run in lanes, one after the other, as those
of a gateway for one account do.
"""

import itertools
import selectors
import socket
import struct
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, END_HEADERS, ACK = 0x1, 0x4, 0x1
INITIAL_WINDOW_SIZE = 4
MAX_WINDOW = 2**31 - 1
DEFAULT_WINDOW = 65_535
"""What may be sent on a stream before its receiver asks for more; no body is larger."""
MAX_FRAME = 16_384
RECEIVE_BYTES = 1 << 18
FRAME_HEADER_BYTES = 9
MAX_WAIT_S = 1.0


@dataclass(slots=True)
class Outcome:
    """What a run came to. A call that failed was answered without a message."""

    seconds: float
    answered: int
    failed: int
    latencies_s: list[float] = field(repr=False)


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """An HTTP/2 frame."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _literal(name: bytes, value: bytes) -> bytes:
    """A header that asks for no dynamic table (RFC 7541, 6.2.2); names and values shorter than 127 bytes."""
    return b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value


def header_block(path: str, authority: str) -> bytes:
    """The headers of a gRPC call."""
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


class Lane:
    """Calls that are sent one after the other: each begins when the one before it is answered."""

    def __init__(self, bodies: Sequence[bytes]) -> None:
        self._bodies = iter(bodies)
        self._next = next(self._bodies, None)

    @property
    def body(self) -> bytes | None:
        """The next body to send, None at the end."""
        return self._next

    def advance(self) -> None:
        """Say that the next body is being sent."""
        self._next = next(self._bodies, None)


class Connection:
    """One HTTP/2 connection and the lanes that share it."""

    def __init__(self, address: str, path: str) -> None:
        host, _, port = address.rpartition(":")
        self.socket = socket.create_connection((host, int(port)))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.idle: deque[Lane] = deque()
        self.in_flight: dict[int, tuple[float, Lane]] = {}
        self.with_message: set[int] = set()
        self.answered = 0
        self.failed = 0
        self.latencies_s: list[float] = []
        self._block = header_block(path, address)
        self._next_stream = 1
        self._send_window = DEFAULT_WINDOW
        self._received = bytearray()
        settings = struct.pack(">HI", INITIAL_WINDOW_SIZE, MAX_WINDOW)
        self._out = bytearray(PREFACE + frame(SETTINGS, 0, 0, settings))
        self._out += frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", MAX_WINDOW - DEFAULT_WINDOW))

    @property
    def is_done(self) -> bool:
        """Whether every call of its lanes has been answered."""
        return not self.idle and not self.in_flight

    def begin(self, now: float) -> bool:
        """Begin a call of the lane that has been idle longest; False when none can begin now."""
        if not self.idle or len(self.idle[0].body or b"") > self._send_window:
            return False
        lane = self.idle.popleft()
        body = lane.body
        assert body is not None
        lane.advance()
        self._send_window -= len(body)
        stream = self._next_stream
        self._next_stream += 2
        self._out += frame(HEADERS, END_HEADERS, stream, self._block)
        for place in range(0, len(body), MAX_FRAME):
            flags = END_STREAM if place + MAX_FRAME >= len(body) else 0
            self._out += frame(DATA, flags, stream, body[place : place + MAX_FRAME])
        self.in_flight[stream] = now, lane
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
            self._out += frame(SETTINGS, ACK, 0, b"")
        elif kind == PING and not flags & ACK:
            self._out += frame(PING, ACK, 0, payload)
        elif kind == WINDOW_UPDATE and stream == 0:
            self._send_window += struct.unpack(">I", payload)[0]
        elif kind == GOAWAY:
            raise ConnectionError("the server sent GOAWAY")

    def _end(self, stream: int, now: float) -> None:
        call = self.in_flight.pop(stream, None)
        if call is None:
            return
        began, lane = call
        if lane.body is not None:
            self.idle.append(lane)
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
    lanes: Sequence[Sequence[bytes]],
    *,
    connections: int = 1,
    rate: float | None = None,
    limit_s: float = 120.0,
) -> Outcome:
    """Send every body of every lane once, and wait for the answers. Lanes are spread over the connections.

    With `rate` calls begin evenly at that many a second instead, and latency counts from the moment a call was due, so
    that a stalled server is not flattered. Ends after `limit_s` in any case.
    """
    opened = _opened(address, path, lanes, connections)
    with selectors.DefaultSelector() as selector:
        for connection in opened:
            selector.register(connection.socket, selectors.EVENT_READ, connection)
        began = time.perf_counter()
        paced = _Pace(opened, began, rate) if rate is not None else None
        while not all(connection.is_done for connection in opened):
            now = time.perf_counter()
            if now - began > limit_s:
                break
            timeout = _begin_all(opened, now) if paced is None else paced.begin(now)
            for connection in opened:
                connection.flush()
            for key, _ in selector.select(timeout):
                key.data.receive()
        seconds = time.perf_counter() - began
    for connection in opened:
        connection.socket.close()
    return Outcome(
        seconds,
        sum(connection.answered for connection in opened),
        sum(connection.failed for connection in opened),
        [latency for connection in opened for latency in connection.latencies_s],
    )


def _opened(address: str, path: str, lanes: Sequence[Sequence[bytes]], connections: int) -> list[Connection]:
    opened = [Connection(address, path) for _ in range(connections)]
    for number, bodies in enumerate(lanes):
        if any(len(body) > DEFAULT_WINDOW for body in bodies):
            raise ValueError(f"a body must be at most {DEFAULT_WINDOW} bytes")
        if bodies:
            opened[number % connections].idle.append(Lane(bodies))
    return opened


def _begin_all(opened: Sequence[Connection], now: float) -> float:
    """Begin the next call of every idle lane; returns how long to wait for answers."""
    for connection in opened:
        while connection.begin(now):
            pass
    return MAX_WAIT_S


class _Pace:
    """Begins calls when they are due, on the connections in turn."""

    def __init__(self, opened: Sequence[Connection], began: float, rate: float) -> None:
        self._opened: Iterator[Connection] = itertools.cycle(opened)
        self._count = len(opened)
        self._began = began
        self._interval_s = 1 / rate
        self._begun = 0

    def begin(self, now: float) -> float:
        """Begin what is due; returns how long nothing else will be."""
        while (due := self._began + self._begun * self._interval_s) <= now:
            if not any(next(self._opened).begin(due) for _ in range(self._count)):
                # Every lane waits for an answer. What is due stays due, and its latency grows.
                return MAX_WAIT_S
            self._begun += 1
        return max(0.0, due - time.perf_counter())
