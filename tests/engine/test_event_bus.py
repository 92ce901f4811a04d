"""News inside the process: to every handler, in order, whatever a handler does."""

import pytest

from challenge_engine.event_bus import EventBus
from challenge_rules import ChallengeEngine
from tests.engine.harness import make_terms

EVENTS = [ChallengeEngine().create(make_terms())[1] for _ in range(3)]


def test_every_handler_gets_every_event_in_order():
    bus, seen = EventBus(), []
    bus.subscribe(lambda event: seen.append(("first", event)))
    bus.subscribe(lambda event: seen.append(("second", event)))
    for event in EVENTS:
        bus.emit(event)
    assert seen == [(name, event) for event in EVENTS for name in ("first", "second")]


def test_a_handler_that_fails_is_logged_with_its_event_and_blocks_nothing(caplog: pytest.LogCaptureFixture):
    bus, seen = EventBus(), []

    def fail(event):
        raise RuntimeError("broke")

    bus.subscribe(fail)
    bus.subscribe(seen.append)
    for event in EVENTS:
        bus.emit(event)
    assert seen == EVENTS
    assert len(caplog.records) == 3
    assert EVENTS[0].challenge_id in caplog.records[0].getMessage()
    assert caplog.records[0].exc_info is not None


def test_after_unsubscribing_nothing_comes_and_doing_it_twice_is_harmless():
    bus, seen = EventBus(), []
    unsubscribe = bus.subscribe(seen.append)
    bus.emit(EVENTS[0])
    unsubscribe()
    unsubscribe()
    bus.emit(EVENTS[1])
    assert seen == EVENTS[:1]


def test_a_handler_may_unsubscribe_itself_while_it_is_called():
    bus, seen = EventBus(), []

    def once(event):
        seen.append(event)
        unsubscribe()

    unsubscribe = bus.subscribe(once)
    bus.subscribe(seen.append)
    bus.emit(EVENTS[0])
    bus.emit(EVENTS[1])
    assert seen == [EVENTS[0], EVENTS[0], EVENTS[1]]


def test_an_event_without_handlers_is_fine():
    EventBus().emit(EVENTS[0])
