"""What an event looks like on a broker: a body in JSON or protobuf, and headers that tell most without opening it.

Version 1 of both is described in docs/relay.md, and the JSON in docs/challenge-event.schema.json.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import orjson
from google.protobuf.json_format import MessageToDict

from challenge_engine.event_log import PositionedEvent
from challenge_server import wire

SCHEMA_VERSION = 1
"""Grows when a reader of the version before would misread; new fields alone do not change it."""


class PayloadFormat(StrEnum):
    """How a body is written."""

    JSON = "json"
    PROTOBUF = "protobuf"


CONTENT_TYPES = {PayloadFormat.JSON: "application/json", PayloadFormat.PROTOBUF: "application/x-protobuf"}


@dataclass(frozen=True, slots=True)
class Message:
    """One event for a broker. Its id is its position: the same event has the same id however often it is sent."""

    position: int
    challenge_id: str
    event_type: str
    new_status: str
    content_type: str
    headers: dict[str, str]
    body: bytes

    @property
    def message_id(self) -> str:
        """By which a receiver knows an event that it has seen."""
        return str(self.position)


Encoder = Callable[[str, PositionedEvent], Message]
"""Makes the message of an event of a log, which is named by its id."""


def encoder(payload_format: PayloadFormat) -> Encoder:
    """What makes messages of a format."""
    write = json_body if payload_format is PayloadFormat.JSON else protobuf_body
    content_type = CONTENT_TYPES[payload_format]

    def encode(log_id: str, positioned: PositionedEvent) -> Message:
        event = positioned.stored
        return Message(
            position=positioned.position,
            challenge_id=event.challenge_id,
            event_type=event.event_type,
            new_status=event.new_status,
            content_type=content_type,
            headers={
                "message-id": str(positioned.position),
                "log-id": log_id,
                "challenge-id": event.challenge_id,
                "challenge-sequence": str(event.challenge_sequence),
                "event-type": event.event_type,
                "new-status": event.new_status,
                "content-type": content_type,
                "schema-version": str(SCHEMA_VERSION),
            },
            body=write(positioned),
        )

    return encode


def protobuf_body(positioned: PositionedEvent) -> bytes:
    """The bytes of propfirm.challenge.v1.ChallengeEvent."""
    return wire.event_to(positioned).SerializeToString()


def json_body(positioned: PositionedEvent) -> bytes:
    """The JSON mapping of the same message, by the contract's field names and with every field, and its version."""
    event = MessageToDict(
        wire.event_to(positioned), preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return orjson.dumps({"schema_version": SCHEMA_VERSION, **event})


def waves(messages: Iterable[Message]) -> list[Sequence[Message]]:
    """The messages in portions that hold each challenge at most once, in order.

    A broker may refuse one message and take the next. When a portion is only sent once the one before has been taken
    whole, that never changes the order of a challenge. It costs little, since a challenge has few events.
    """
    portions: list[list[Message]] = []
    sent: dict[str, int] = {}
    for message in messages:
        number = sent[message.challenge_id] = sent.get(message.challenge_id, -1) + 1
        if number == len(portions):
            portions.append([])
        portions[number].append(message)
    return list(portions)
