"""Encodes the messages of event streams, each event once for all the streams of the process."""

from collections.abc import Callable, Iterator

from challenge_engine.event_log import Place, PositionedEvent
from challenge_engine.event_tail import MAX_KEPT, CaughtUp, EventBatch, Heartbeat, Item
from challenge_server import wire
from propfirm.challenge.v1 import challenge_pb2 as pb


class EventEncoder:
    """Makes the bytes of `StreamEventsResponse`.

    The encodings of two messages, one after the other, are the encoding of both merged: so a cursor, which is different
    for each filter, is put before the bytes of an event, which are the same for all.
    """

    def __init__(self) -> None:
        self._encoded: dict[int, tuple[PositionedEvent, bytes]] = {}

    def messages(self, item: Item, cursor: Callable[[Place], str], events_per_message: int) -> Iterator[bytes]:
        """The messages that tell an item, each with the cursor behind it."""
        match item:
            case EventBatch(events):
                for first in range(0, len(events), events_per_message):
                    some = events[first : first + events_per_message]
                    told = self._one(some[0]) if events_per_message == 1 else _several(some)
                    yield _with_cursor(cursor(some[-1].place)) + told
            case CaughtUp(place):
                message = pb.StreamEventsResponse(caught_up=pb.CaughtUp(position=place.position))
                yield _with_cursor(cursor(place)) + message.SerializeToString()
            case Heartbeat(place):
                message = pb.StreamEventsResponse(heartbeat=pb.Heartbeat(position=place.position))
                yield _with_cursor(cursor(place)) + message.SerializeToString()

    def _one(self, positioned: PositionedEvent) -> bytes:
        known = self._encoded.get(positioned.position)
        if known is not None and known[0] is positioned:
            return known[1]
        encoded = pb.StreamEventsResponse(event=wire.event_to(positioned)).SerializeToString()
        if len(self._encoded) >= MAX_KEPT:
            del self._encoded[next(iter(self._encoded))]
        self._encoded[positioned.position] = positioned, encoded
        return encoded


def _several(events: tuple[PositionedEvent, ...]) -> bytes:
    message = pb.StreamEventsResponse()
    add = message.events.events.add
    for positioned in events:
        wire.fill_event(add(), positioned)
    return message.SerializeToString()


def _with_cursor(cursor: str) -> bytes:
    return pb.StreamEventsResponse(cursor=cursor).SerializeToString()
