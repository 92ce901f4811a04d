"""What an event looks like on a broker: bodies that other languages can read, and headers that tell most of it."""

import copy
import json
from pathlib import Path

import jsonschema
import pytest
from google.protobuf.json_format import Parse
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.engine import URL

from challenge_engine.event_log import ALL_EVENTS, PositionedEvent
from challenge_server import wire
from challenge_server.relay.messages import SCHEMA_VERSION, Message, PayloadFormat, encoder, waves
from propfirm.challenge.v1 import challenge_pb2 as pb
from tests.engine.harness import running_engine, submission

LOG = "0d6f1c1e-8f7c-4a57-9d0e-6f1f5a0e7c11"


@pytest.fixture
async def events(database_url: URL) -> tuple[PositionedEvent, ...]:
    """Of three lives: failed, funded, and created only, with labels."""
    async with running_engine(database_url) as engine:
        await engine.create(labels=(("plan", "10k é"), ("desk", "")), currency_code="EUR")
        failed, funded = await engine.create("12345.678"), await engine.create()
        await engine.trading.submit(submission(failed, "t-1", "-1234.56789012"))
        await engine.trading.submit(submission(funded, "t-1", "0.5"))
        await engine.trading.submit(submission(funded, "t-2", "20000", 1.5))
        await engine.positions.assign_all()
        found = (await engine.log.read(ALL_EVENTS, after=0, limit=100)).events
    assert len(found) == 7
    return found


@pytest.fixture
def schema(project_root: Path) -> jsonschema.Draft202012Validator:
    described = json.loads((project_root / "docs/challenge-event.schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(described)
    return jsonschema.Draft202012Validator(described)


def bodies(events, payload_format: PayloadFormat) -> list[bytes]:
    return [encoder(payload_format)(LOG, event).body for event in events]


def test_json_bodies_are_what_the_schema_says(events, schema):
    for body in bodies(events, PayloadFormat.JSON):
        schema.validate(json.loads(body))


def test_the_schema_knows_every_field_and_value_of_the_contract(schema):
    described = schema.schema
    properties = described["properties"]
    assert set(properties) == {"schema_version", *pb.ChallengeEvent.DESCRIPTOR.fields_by_name}
    evaluation, terms = properties["evaluations"]["items"]["properties"], properties["terms"]["properties"]
    assert set(evaluation) == set(pb.RuleEvaluation.DESCRIPTOR.fields_by_name)
    assert set(terms) == set(pb.ChallengeTerms.DESCRIPTOR.fields_by_name)
    assert properties["event_type"]["enum"] == pb.EventType.keys()[1:]
    assert described["$defs"]["status"]["enum"] == pb.ChallengeStatus.keys()
    assert described["$defs"]["rule"]["enum"] == pb.Rule.keys()
    assert properties["schema_version"]["const"] == SCHEMA_VERSION


def test_the_schema_refuses_what_is_not_an_event(events, schema):
    created, *_, changed = (json.loads(body) for body in bodies(events, PayloadFormat.JSON))
    spoilt = []
    for event in (created, changed):
        for field in event:
            without = copy.deepcopy(event)
            del without[field]
            spoilt.append(without)
        spoilt += [
            {**event, "position": int(event["position"])},
            {**event, "position": "0"},
            {**event, "equity": "1e5"},
            {**event, "schema_version": 2},
            {**event, "challenge_id": event["challenge_id"].upper().replace("0", "A")},
            {**event, "new_status": "FAILED"},
            {**event, "occurred_at": event["occurred_at"].replace("Z", "+00:00")},
        ]
    spoilt += [{**changed, "terms": created["terms"]}, {**created, "evaluations": changed["evaluations"]}]
    assert [event for event in spoilt if schema.is_valid(event)] == []
    assert schema.is_valid({**changed, "a_field_of_a_later_release": 1})


def test_both_formats_are_the_message_of_the_contract(events):
    for event, as_json, as_bytes in zip(
        events, bodies(events, PayloadFormat.JSON), bodies(events, PayloadFormat.PROTOBUF), strict=True
    ):
        expected = wire.event_to(event)
        assert expected.ByteSize()
        assert pb.ChallengeEvent.FromString(as_bytes) == expected
        assert Parse(as_json, pb.ChallengeEvent(), ignore_unknown_fields=True) == expected


@pytest.mark.parametrize(
    ("payload_format", "content_type"),
    [(PayloadFormat.JSON, "application/json"), (PayloadFormat.PROTOBUF, "application/x-protobuf")],
)
def test_headers_tell_what_is_needed_to_route_and_to_recognise(events, payload_format, content_type):
    event = next(one for one in events if one.event.new_status == "FAILED")
    message = encoder(payload_format)(LOG, event)
    assert message.headers == {
        "message-id": str(event.position),
        "log-id": LOG,
        "challenge-id": event.event.challenge_id,
        "challenge-sequence": "3",
        "event-type": "CHALLENGE_STATUS_CHANGED",
        "new-status": "FAILED",
        "content-type": content_type,
        "schema-version": "1",
    }
    assert (message.message_id, message.content_type) == (str(event.position), content_type)


@given(st.lists(st.integers(0, 4), max_size=40))
def test_waves_hold_a_challenge_once_and_keep_its_order(challenges):
    messages = [Message(number, str(which), "", "", "", {}, b"") for number, which in enumerate(challenges)]
    portions = waves(messages)
    for portion in portions:
        assert len({message.challenge_id for message in portion}) == len(portion) > 0
    told = [message for portion in portions for message in portion]
    assert sorted(told, key=lambda message: message.position) == messages
    for which in set(challenges):
        own = [message.position for message in told if message.challenge_id == str(which)]
        assert own == sorted(own)
    assert len(portions) == max((challenges.count(which) for which in challenges), default=0)
