"""What a subscription asks for, gives and waits for, without I/O: tables, and random lives against a plain list."""

from datetime import timedelta

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from challenge_client import (
    CaughtUp,
    CursorMismatchError,
    DatabaseUnavailableError,
    Delivery,
    DrainingError,
    EventBatch,
    EventMessage,
    Heartbeat,
    InternalFailureError,
    OverloadedError,
    TransportError,
    ValidationFailedError,
    calls,
    decoding,
    resumption,
)
from challenge_client.resumption import Resumption
from tests.client import messages

Code = grpc.StatusCode
FILTER = {"challenge_ids": [messages.CHALLENGE_ID], "new_statuses": [], "max_events_per_message": 200}
NO_START = {"after_cursor": None, "after_position": None, "from_beginning": False, "from_now": False}
EVENTS = {position: decoding.event(messages.created(position)) for position in range(1, 41)}


def cursor(position):
    """What the server of these tests gives as a cursor."""
    return f"c{position}"


def event(position):
    return EventMessage(cursor(position), EVENTS[position])


def batch(*positions):
    return EventBatch(cursor(positions[-1]), tuple(EVENTS[position] for position in positions))


def caught_up(position):
    return CaughtUp(cursor(position), position)


def heartbeat(position):
    return Heartbeat(cursor(position), position)


def resuming(*, give_up_after_s=None, heartbeat_s=None, **start):
    interval = None if heartbeat_s is None else timedelta(seconds=heartbeat_s)
    stream = calls.stream_events(**FILTER, **(NO_START | start), heartbeat_interval=interval)
    return Resumption(stream, give_up_after_s=give_up_after_s)


def broken(code=Code.UNAVAILABLE):
    return TransportError("the wire is cut", code=code)


def draining():
    return DrainingError("bye", code=Code.UNAVAILABLE)


def positions(deliveries):
    return [[item.position for item in delivery.events] for delivery in deliveries]


def take(subject, message):
    """Receive a message, hand it over whole, and come back; None when there was nothing to hand over."""
    delivery = subject.next_delivery() if subject.received(message) else None
    subject.finished()
    return delivery


class TestWhatItAsksFor:
    @pytest.mark.parametrize(
        ("start", "which"),
        [
            ({"after_cursor": "c"}, "after_cursor"),
            ({"after_position": 0}, "after_position"),
            ({"from_beginning": True}, "from_beginning"),
            ({"from_now": True}, "from_now"),
        ],
    )
    def test_it_begins_where_it_is_told_until_a_cursor_has_come_and_goes_on_there(self, start, which):
        subject = resuming(**start)
        for _ in range(3):
            request = subject.call(0).request
            assert request.WhichOneof("start") == which
            subject.broken(None, 0, 0)
        subject.call(0)
        take(subject, caught_up(7))
        subject.broken(None, 0, 0)
        resumed = subject.call(0).request
        assert (resumed.WhichOneof("start"), resumed.after_cursor) == ("after_cursor", "c7")
        resumed.ClearField("after_cursor")
        first = resuming(**start).call(0).request
        first.ClearField(which)
        assert resumed == first, "the filter and the rest stay as they were"

    def test_it_asks_for_what_comes_after_the_last_message_of_any_kind(self):
        subject = resuming(from_beginning=True)
        for message, last in ((event(1), 1), (batch(2, 4), 4), (caught_up(5), 5), (heartbeat(9), 9)):
            take(subject, message)
            assert subject.call(0).request.after_cursor == cursor(last)

    def test_a_call_lasts_longer_than_any_silence_of_a_healthy_server(self):
        assert resuming(from_now=True).call(0).timeout_s == 1.5 * 30 + 2
        assert resuming(from_now=True, heartbeat_s=1).call(0).timeout_s == 1.5 + 2

    def test_a_server_that_needs_long_for_its_first_message_gets_more_time_up_to_a_bound(self):
        subject = resuming(from_beginning=True)
        given = []
        for _ in range(6):
            given.append(subject.call(0).timeout_s)
            subject.broken(broken(Code.DEADLINE_EXCEEDED), given[-1], 0)
        assert given == [47, 94, 188, 376, 376, 376]
        take(subject, event(1))
        assert subject.call(0).timeout_s == 47

    def test_little_patience_left_makes_a_short_call(self):
        subject = resuming(from_beginning=True, give_up_after_s=20)
        assert subject.call(0).timeout_s == 47
        subject.broken(broken(), 100, 0)
        assert subject.call(105).timeout_s == 15
        assert subject.call(119.9).timeout_s == 1


class TestWhatItHandsOver:
    def test_messages_become_deliveries_that_are_linked_by_their_cursors(self):
        subject = resuming(after_cursor="start")
        given = [take(subject, message) for message in (event(1), batch(3, 4), caught_up(4), heartbeat(6))]
        assert given == [
            Delivery(events=(EVENTS[1],), cursor="c1", previous_cursor="start", position=1),
            Delivery(events=(EVENTS[3], EVENTS[4]), cursor="c4", previous_cursor="c1", position=4),
            Delivery(events=(), cursor="c4", previous_cursor="c4", position=4),
            Delivery(events=(), cursor="c6", previous_cursor="c4", position=6),
        ]

    @pytest.mark.parametrize("again", [event(3), event(4), batch(1, 2, 3), batch(4), caught_up(3), heartbeat(1)])
    def test_what_comes_again_is_dropped_and_moves_nothing_back(self, again):
        subject = resuming(from_beginning=True)
        take(subject, batch(2, 3, 4))
        assert take(subject, again) is None
        assert (subject.cursor, subject.position) == ("c4", 4)
        assert subject.call(0).request.after_cursor == "c4"

    def test_of_a_message_that_comes_again_in_part_the_rest_is_handed_over(self):
        subject = resuming(from_beginning=True)
        take(subject, batch(1, 2, 3))
        delivery = take(subject, batch(2, 3, 3, 5, 4, 6))
        assert positions([delivery]) == [[5, 6]]
        assert (delivery.cursor, delivery.previous_cursor) == ("c6", "c3")

    @pytest.mark.parametrize(("start", "known"), [({"after_position": 5}, 5), ({"from_beginning": True}, 0)])
    def test_where_the_start_names_a_position_nothing_before_it_is_handed_over(self, start, known):
        subject = resuming(**start)
        assert (subject.cursor, subject.position) == (None, known)
        assert positions([take(subject, batch(*range(1, 8)))]) == [list(range(known + 1, 8))]

    def test_the_cursor_of_the_start_is_safe_to_store_at_once(self):
        assert (resuming(after_cursor="x").cursor, resuming(after_cursor="x").position) == ("x", None)
        assert (resuming(from_now=True).cursor, resuming(from_now=True).position) == (None, None)

    def test_cursor_and_position_move_when_the_caller_comes_back_and_not_before(self):
        subject = resuming(from_beginning=True)
        subject.received(event(1))
        assert subject.next_delivery() is not None
        assert (subject.cursor, subject.position) == (None, 0)
        subject.finished()
        assert (subject.cursor, subject.position) == ("c1", 1)

    def test_between_the_events_of_one_message_the_position_moves_and_the_cursor_waits_for_the_last(self):
        subject = resuming(from_beginning=True)
        take(subject, event(1))
        subject.received(batch(2, 3, 5))
        seen = []
        while (item := subject.next_event()) is not None:
            seen.append((item.position, subject.cursor, subject.position))
            subject.finished()
        assert seen == [(2, "c1", 1), (3, "c1", 2), (5, "c1", 3)]
        assert (subject.cursor, subject.position) == ("c5", 5)

    def test_for_a_caller_that_wants_events_alone_the_other_messages_move_the_cursor_by_themselves(self):
        subject = resuming(from_beginning=True)
        for message in (caught_up(3), heartbeat(8)):
            assert subject.received(message)
            assert subject.next_event() is None
            assert (subject.cursor, subject.position) == (message.cursor, message.position)

    def test_a_caller_may_turn_from_events_to_deliveries_within_a_message(self):
        subject = resuming(from_beginning=True)
        subject.received(batch(1, 2, 3))
        assert subject.next_event() == EVENTS[1]
        subject.finished()
        delivery = subject.next_delivery()
        assert (positions([delivery]), delivery.cursor, delivery.previous_cursor) == ([[2, 3]], "c3", None)
        assert (subject.cursor, subject.position) == (None, 1)
        subject.finished()
        assert (subject.cursor, subject.position, subject.next_delivery()) == ("c3", 3, None)

    def test_a_batch_without_events_is_nothing(self):
        subject = resuming(from_beginning=True)
        assert take(subject, EventBatch("c9", ())) is None
        assert subject.call(0).request.WhichOneof("start") == "from_beginning"


class TestCaughtUp:
    def test_it_is_caught_up_from_the_message_that_says_so_until_the_stream_breaks(self):
        subject = resuming(from_beginning=True)
        states = []
        for message in (event(1), heartbeat(1), caught_up(1), event(2), batch(3, 4), heartbeat(4)):
            take(subject, message)
            states.append(subject.caught_up)
        assert states == [False, False, True, True, True, True]
        subject.broken(draining(), 1, 0)
        assert not subject.caught_up
        assert take(subject, caught_up(4)) is not None
        assert subject.caught_up

    def test_a_renewal_goes_unnoticed(self):
        subject = resuming(from_now=True)
        subject.call(0)
        take(subject, caught_up(4))
        assert subject.broken(broken(Code.DEADLINE_EXCEEDED), 47, 0.5) == 0
        assert (subject.caught_up, subject.last_error) == (True, None)
        assert subject.call(47).timeout_s == 47
        assert take(subject, caught_up(4)) is None
        assert take(subject, caught_up(4)) is not None, "what the server says of its own accord is passed on"

    def test_what_happened_during_a_renewal_is_told(self):
        subject = resuming(from_now=True)
        subject.call(0)
        take(subject, caught_up(4))
        subject.broken(broken(Code.DEADLINE_EXCEEDED), 47, 0.5)
        assert take(subject, caught_up(6)).position == 6


class TestHowLongItWaits:
    def test_waits_double_up_to_a_bound_and_are_shortened_by_chance_up_to_a_half(self):
        for chance, factor in ((0.0, 1.0), (0.5, 0.75), (1.0, 0.5)):
            subject = resuming(from_now=True)
            waits = [subject.broken(broken(), 0, chance) for _ in range(9)]
            longest = [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10, 10]
            assert waits == pytest.approx([wait * factor for wait in longest])

    def test_ten_thousand_failures_are_waited_for_like_ten(self):
        subject = resuming(from_now=True)
        assert [subject.broken(broken(), 0, 0) for _ in range(10_000)][-1] == 10

    @pytest.mark.parametrize("message", [event(4), batch(4, 5), caught_up(4), heartbeat(4)])
    def test_a_message_that_gets_on_makes_the_next_wait_short_again(self, message):
        subject = resuming(after_position=3)
        waits = [subject.broken(broken(), 0, 0) for _ in range(5)]
        take(subject, message)
        assert subject.broken(broken(), 0, 0) == waits[0] == 0.1

    @pytest.mark.parametrize("message", [caught_up(3), heartbeat(3), event(3)])
    def test_a_server_that_only_ever_says_the_same_and_breaks_is_no_progress(self, message):
        subject = resuming(after_position=3)
        waits = []
        for now in range(5):
            subject.call(now)
            take(subject, message)
            waits.append(subject.broken(broken(), now, 0))
        assert waits == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6])

    def test_but_a_call_that_stood_for_a_while_is(self):
        subject = resuming(after_position=3)
        for now in (0, 100, 200):
            subject.call(now)
            take(subject, caught_up(3))
            assert subject.broken(broken(), now + resumption.HEALTHY_S, 0) == 0.1

    def test_a_call_without_a_single_message_never_is(self):
        subject = resuming(after_position=3)
        waits = []
        for now in (0, 100, 200):
            subject.call(now)
            waits.append(subject.broken(broken(), now + resumption.HEALTHY_S, 0))
        assert waits == pytest.approx([0.1, 0.2, 0.4])

    def test_a_deadline_that_comes_too_soon_is_a_break_and_no_renewal(self):
        subject = resuming(after_position=3)
        subject.call(0)
        take(subject, event(4))
        assert subject.broken(broken(Code.DEADLINE_EXCEEDED), 5, 0) == 0.1
        assert subject.last_error.code is Code.DEADLINE_EXCEEDED

    @pytest.mark.parametrize(("asked_s", "waited_s"), [(0.01, 0.1), (3, 3), (3600, 60)])
    def test_it_waits_as_long_as_the_server_asks_within_a_bound(self, asked_s, waited_s):
        error = DatabaseUnavailableError("away", code=Code.UNAVAILABLE, retry_after=timedelta(seconds=asked_s))
        assert resuming(from_now=True).broken(error, 0, 0) == waited_s


class TestWhatItRaises:
    @pytest.mark.parametrize(
        "error",
        [
            None,
            *[broken(code) for code in sorted(resumption.PASSING, key=lambda code: code.name)],
            draining(),
            DatabaseUnavailableError("away", code=Code.UNAVAILABLE),
            OverloadedError("full", code=Code.RESOURCE_EXHAUSTED),
            InternalFailureError("oh", code=Code.INTERNAL),
        ],
        ids=repr,
    )
    def test_what_may_pass_is_waited_for_and_shown(self, error):
        subject = resuming(from_now=True)
        assert subject.broken(error, 0, 0) == 0.1
        assert subject.last_error is error if error else isinstance(subject.last_error, TransportError)
        take(subject, caught_up(1))
        assert subject.last_error is None

    @pytest.mark.parametrize(
        "error",
        [
            CursorMismatchError("no", code=Code.INVALID_ARGUMENT),
            ValidationFailedError("no", code=Code.INVALID_ARGUMENT),
            *[broken(code) for code in Code if code not in resumption.PASSING],
        ],
        ids=repr,
    )
    def test_what_would_be_said_again_is_raised(self, error):
        with pytest.raises(type(error)) as raised:
            resuming(from_now=True).broken(error, 0, 0)
        assert raised.value is error

    def test_the_codes_that_are_never_retried(self):
        never = {Code.INVALID_ARGUMENT, Code.UNIMPLEMENTED, Code.PERMISSION_DENIED, Code.UNAUTHENTICATED}
        assert not never & resumption.PASSING

    def test_patience_counts_from_the_first_break_and_ends_with_the_last_error(self):
        subject = resuming(from_now=True, give_up_after_s=10)
        assert subject.broken(broken(), 1000, 0) == 0.1
        assert subject.broken(broken(), 1009.95, 0) == pytest.approx(0.05), "the last call is made when patience ends"
        last = draining()
        with pytest.raises(DrainingError) as raised:
            subject.broken(last, 1010, 0)
        assert raised.value is last

    def test_progress_gives_new_patience(self):
        subject = resuming(from_now=True, give_up_after_s=10)
        subject.broken(broken(), 1000, 0)
        subject.call(1009)
        take(subject, caught_up(3))
        assert subject.broken(broken(), 1011, 0) == 0.1

    def test_no_patience_at_all_raises_the_first_break(self):
        with pytest.raises(TransportError):
            resuming(from_now=True, give_up_after_s=0).broken(broken(), 0, 0)

    def test_a_short_call_of_the_last_patience_that_went_well_is_the_end_of_the_trouble(self):
        subject = resuming(after_position=3, give_up_after_s=5)
        subject.broken(broken(), 0, 0)
        assert subject.call(4.5).timeout_s == 1
        take(subject, caught_up(3))
        assert subject.broken(broken(Code.DEADLINE_EXCEEDED), 5.5, 0) == 0
        assert subject.call(5.5).timeout_s == 47


BREAKS = [None, draining(), broken(), broken(Code.INTERNAL), broken(Code.DEADLINE_EXCEEDED), broken(Code.CANCELLED)]
STEPS = st.one_of(
    st.tuples(st.just("send"), st.integers(1, 5)),
    st.tuples(st.just("send"), st.integers(1, 5)),
    st.tuples(st.just("send_alone"), st.none()),
    st.tuples(st.just("heartbeat"), st.none()),
    st.tuples(st.just("happen"), st.integers(1, 4)),
    st.tuples(st.just("break"), st.sampled_from(BREAKS)),
    st.tuples(st.just("repeat"), st.integers(1, 6)),
    st.tuples(st.just("crash"), st.booleans()),
)


class Log:
    """The log as a list of positions, with a server's stream over it that says again what it likes to."""

    def __init__(self, matching):
        self.matching = matching
        self.end = 0
        self.at = 0

    def open(self, request):
        start = request.WhichOneof("start")
        self.at = {
            "from_beginning": 0,
            "from_now": self.end,
            "after_position": request.after_position,
            "after_cursor": int(request.after_cursor[1:] or 0),
        }[start]

    def up_to_end(self, after):
        return [p for p in range(after + 1, self.end + 1) if p in self.matching]

    def next_message(self, count, *, alone):
        following = self.up_to_end(self.at)[:count]
        if not following:
            self.at = self.end
            return caught_up(self.end)
        self.at = following[-1]
        return event(following[0]) if alone else batch(*following)


class Life:
    """A caller and its subscription on a log; `starts` is the position it begins after."""

    def __init__(self, log, *, by_delivery):
        self.log = log
        self.by_delivery = by_delivery
        self.stored = None
        self.handled = []
        self.now = 0.0
        self.start()

    def start(self):
        start = {"from_beginning": True} if self.stored is None else {"after_cursor": self.stored}
        self.subject = resuming(**start)
        self.given = []
        self.began_after = int((self.stored or "c0")[1:])
        self.log.open(self.subject.call(self.now).request)

    def take(self, message, *, crashes=None):
        """What the shells do with a message; the caller may crash before or after it has committed."""
        subject = self.subject
        if not subject.received(message):
            return
        if self.by_delivery:
            delivery = subject.next_delivery()
            assert delivery.previous_cursor == self.stored
            self.given += [item.position for item in delivery.events]
            if crashes is not False:
                self.handled += [item.position for item in delivery.events]
                self.stored = delivery.cursor
            self.check()
            subject.finished()
            self.check()
        else:
            while (item := subject.next_event()) is not None:
                self.given.append(item.position)
                self.check()
                if crashes is not False:
                    self.handled.append(item.position)
                subject.finished()
                self.check()
                # Stored in another transaction than the handling: the cursor may lag, and must never lead.
                self.stored = subject.cursor if crashes is None else self.stored
                if crashes is not None:
                    break
        if crashes is not None:
            self.start()

    def check(self):
        """Everything up to the cursor has been given, and what was given is right, in order and once."""
        expected = self.log.up_to_end(self.began_after)
        assert self.given == expected[: len(self.given)]
        for reached in (int((self.subject.cursor or "c0")[1:]), self.subject.position or 0):
            assert {p for p in expected if p <= reached} <= set(self.given)

    def break_off(self, error):
        self.now += 1
        assert 0 <= self.subject.broken(error, self.now, 0.5) <= resumption.MAX_DELAY_S
        self.log.open(self.subject.call(self.now).request)


@given(
    matching=st.sets(st.integers(1, 40)),
    steps=st.lists(STEPS, max_size=60),
    by_delivery=st.booleans(),
    started_late=st.integers(0, 5),
)
def test_a_random_life_is_given_every_event_once_and_in_order(matching, steps, by_delivery, started_late):
    log = Log(matching)
    log.end = started_late
    life = Life(log, by_delivery=by_delivery)
    for step, value in steps:
        match step:
            case "happen":
                log.end = min(log.end + value, 40)
            case "send":
                life.take(log.next_message(value, alone=False))
            case "send_alone":
                life.take(log.next_message(1, alone=True))
            case "heartbeat" if not log.up_to_end(log.at):
                log.at = log.end
                life.take(heartbeat(log.end))
            case "break":
                life.break_off(value)
            case "repeat":
                # What lies before a cursor it was started with it cannot know.
                log.at = max(log.at - value, life.began_after)
            case "crash":
                life.take(log.next_message(3, alone=False), crashes=value)
    while log.at < log.end or not life.subject.caught_up:
        life.take(log.next_message(3, alone=False))
    assert life.given == log.up_to_end(life.began_after)
    everything = log.up_to_end(0)
    if by_delivery:
        assert life.handled == everything, "handler and cursor in one transaction: exactly once"
    else:
        assert sorted(set(life.handled)) == everything, "a cursor stored afterwards: at least once"
