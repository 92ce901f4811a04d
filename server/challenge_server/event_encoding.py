"""Encodes the messages of event streams, each once for all the streams of the process that are told the same.

The pieces of a message are put together as bytes: the encodings of two messages, one after the other, are the
encoding of both merged, and a field that holds a message is a tag, a length and its encoding. So an event, which is the
same for everybody, is encoded once and put behind the cursors of several filters.
"""

from collections.abc import Iterator
from typing import Any

from google.protobuf.message import Message

from challenge_engine.event_log import Cursors, Place, PositionedEvent
from challenge_engine.event_tail import CaughtUp, EventBatch, Heartbeat, Item
from challenge_server import wire
from propfirm.challenge.v1 import challenge_pb2 as pb

MAX_REMEMBERED_BYTES = 4 * 1024 * 1024
LENGTH_DELIMITED = 2
"""The wire type of strings and messages."""


class EventEncoder:
    """Makes the bytes of `StreamEventsResponse`."""

    def __init__(self) -> None:
        self._messages = _Remembered()
        self._events = _Remembered()

    def messages(self, item: Item, cursors: Cursors, events_per_message: int) -> Iterator[bytes]:
        """The messages that tell an item, each with the cursor behind it."""
        match item:
            case EventBatch(events, shared):
                for first in range(0, len(events), events_per_message):
                    some = events[first : first + events_per_message]
                    yield (self._shared if shared else self._told)(some, cursors, events_per_message > 1)
            case CaughtUp(place):
                message = pb.StreamEventsResponse(caught_up=pb.CaughtUp(position=place.position))
                yield _cursor(cursors, place) + message.SerializeToString()
            case Heartbeat(place):
                message = pb.StreamEventsResponse(heartbeat=pb.Heartbeat(position=place.position))
                yield _cursor(cursors, place) + message.SerializeToString()

    def _shared(self, some: tuple[PositionedEvent, ...], cursors: Cursors, several: bool) -> bytes:
        key = (cursors.key, some[0].position, some[-1].position, several)
        known = self._messages.get(key, some[-1])
        if known is None:
            known = self._told(some, cursors, several, remember=True)
            self._messages.put(key, some[-1], known)
        return known

    def _told(
        self, some: tuple[PositionedEvent, ...], cursors: Cursors, several: bool, *, remember: bool = False
    ) -> bytes:
        encode = self._remembered_event if remember else _event
        if several:
            told = _field(_EVENTS, b"".join([_field(_EVENT_OF_BATCH, encode(each)) for each in some]))
        else:
            told = _field(_EVENT, encode(some[0]))
        return _cursor(cursors, some[-1].place) + told

    def _remembered_event(self, positioned: PositionedEvent) -> bytes:
        known = self._events.get(positioned.position, positioned)
        if known is None:
            known = _event(positioned)
            self._events.put(positioned.position, positioned, known)
        return known


class _Remembered:
    """Encodings of what was told last. One counts only for the very object it was made of."""

    def __init__(self) -> None:
        self._encodings: dict[Any, tuple[PositionedEvent, bytes]] = {}
        self._bytes = 0

    def get(self, key: Any, source: PositionedEvent) -> bytes | None:
        known = self._encodings.get(key)
        return known[1] if known is not None and known[0] is source else None

    def put(self, key: Any, source: PositionedEvent, encoding: bytes) -> None:
        replaced = self._encodings.pop(key, None)
        if replaced is not None:
            self._bytes -= len(replaced[1])
        self._encodings[key] = source, encoding
        self._bytes += len(encoding)
        while self._bytes > MAX_REMEMBERED_BYTES:
            _, oldest = self._encodings.pop(next(iter(self._encodings)))
            self._bytes -= len(oldest)


def _event(positioned: PositionedEvent) -> bytes:
    return wire.event_to(positioned).SerializeToString()


def _cursor(cursors: Cursors, place: Place) -> bytes:
    return _field(_CURSOR, cursors.at(place).encode())


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def _field(tag: bytes, encoded: bytes) -> bytes:
    return tag + _varint(len(encoded)) + encoded


def _tag(message: type[Message], field: str) -> bytes:
    return _varint(message.DESCRIPTOR.fields_by_name[field].number << 3 | LENGTH_DELIMITED)


_CURSOR = _tag(pb.StreamEventsResponse, "cursor")
_EVENT = _tag(pb.StreamEventsResponse, "event")
_EVENTS = _tag(pb.StreamEventsResponse, "events")
_EVENT_OF_BATCH = _tag(pb.EventBatch, "events")
