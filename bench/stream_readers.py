"""Subscribers that cost little beside the server: plain sockets that read the frames of event streams."""

import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from bench.http2_loader import (
    ACK,
    DATA,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    FRAME_HEADER_BYTES,
    GOAWAY,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    MAX_WINDOW,
    PING,
    PREFACE,
    RECEIVE_BYTES,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
    header_block,
    message,
)
from bench.trades import SERVICE
from propfirm.challenge.v1 import challenge_pb2 as pb

STREAM_EVENTS = SERVICE + "StreamEvents"
PREFIX_BYTES = 5
WAIT_S = 0.2


class StreamBrokenError(RuntimeError):
    """A stream ended: the figure would be of fewer subscribers than it says."""


@dataclass
class StreamReader:
    """One subscriber on a connection of its own. `is_stalled` ones read nothing once they have asked."""

    address: str
    request: pb.StreamEventsRequest
    is_stalled: bool = False
    received: list[tuple[pb.StreamEventsResponse, float]] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        host, _, port = self.address.rpartition(":")
        self.socket = socket.create_connection((host, int(port)))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        window = DEFAULT_WINDOW if self.is_stalled else MAX_WINDOW
        out = PREFACE + frame(SETTINGS, 0, 0, struct.pack(">HI", INITIAL_WINDOW_SIZE, window))
        if not self.is_stalled:
            out += frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", MAX_WINDOW - DEFAULT_WINDOW))
        out += frame(HEADERS, END_HEADERS, 1, header_block(STREAM_EVENTS, self.address))
        out += frame(DATA, END_STREAM, 1, message(self.request.SerializeToString()))
        self.socket.sendall(out)
        self._frames = bytearray()
        self._messages = bytearray()

    def receive(self, take: Callable[[bytes], object]) -> None:
        """Read what has come, and hand every message over."""
        chunk = self.socket.recv(RECEIVE_BYTES)
        if not chunk:
            raise StreamBrokenError("the server closed the connection")
        self._frames += chunk
        place = 0
        while len(self._frames) - place >= FRAME_HEADER_BYTES:
            length = int.from_bytes(self._frames[place : place + 3], "big")
            end = place + FRAME_HEADER_BYTES + length
            if len(self._frames) < end:
                break
            kind, flags = self._frames[place + 3], self._frames[place + 4]
            payload = self._frames[place + FRAME_HEADER_BYTES : end]
            place = end
            if kind == DATA:
                self._messages += payload
            elif kind == PING and not flags & ACK:
                self.socket.sendall(frame(PING, ACK, 0, bytes(payload)))
            elif kind == SETTINGS and not flags & ACK:
                self.socket.sendall(frame(SETTINGS, ACK, 0, b""))
            if kind in (RST_STREAM, GOAWAY) or (kind in (DATA, HEADERS) and flags & END_STREAM):
                raise StreamBrokenError("the server ended a stream")
        del self._frames[:place]
        place = 0
        while len(self._messages) - place >= PREFIX_BYTES:
            end = place + PREFIX_BYTES + int.from_bytes(self._messages[place + 1 : place + PREFIX_BYTES], "big")
            if len(self._messages) < end:
                break
            take(bytes(self._messages[place + PREFIX_BYTES : end]))
            place = end
        del self._messages[:place]


class Subscribers:
    """Readers in a thread of their own, which note when each message came."""

    def __init__(self, readers: Sequence[StreamReader]) -> None:
        self.readers = readers
        self._ending = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Subscribers":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()
        for reader in self.readers:
            reader.socket.close()
        if self._failure is not None:
            raise self._failure

    def wait_until(self, condition: Callable[[StreamReader], bool], limit_s: float = 60.0) -> None:
        """Return once it is so for each of them."""
        deadline = time.monotonic() + limit_s
        while not all(map(condition, self.readers)):
            if self._failure is not None:
                raise self._failure
            if time.monotonic() > deadline:
                raise StreamBrokenError("the subscribers were not served in time")
            time.sleep(0.01)

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            for reader in self.readers:
                selector.register(reader.socket, selectors.EVENT_READ, reader)
            try:
                while not self._ending.is_set():
                    for key, _ in selector.select(WAIT_S):
                        self._receive(key.data)
            except Exception as error:  # noqa: BLE001 -- raised where the block ends
                self._failure = error

    @staticmethod
    def _receive(reader: StreamReader) -> None:
        now = time.perf_counter()
        reader.receive(lambda data: reader.received.append((pb.StreamEventsResponse.FromString(data), now)))


def is_caught_up(reader: StreamReader) -> bool:
    """Whether it has been told so."""
    return any(told.WhichOneof("message") == "caught_up" for told, _ in reader.received)
