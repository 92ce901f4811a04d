"""Both clients against the real server: one suite, run twice."""

import asyncio
import socket
import uuid
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import grpc
import pytest

import challenge_client as sdk
from challenge_client import ChallengeStatus, Decision, EventType, Limits, Rule, Trade, TradeSubmission

PENDING, ACTIVE, FAILED, FUNDED = ChallengeStatus
MORNING = datetime(2026, 3, 2, 9, 30, 0, 1, tzinfo=UTC)
PATIENCE_S = 20.0
BIG = "x" * 5_000_000
"""Longer than the 4 MiB a server takes."""


@pytest.fixture(scope="module", params=["server", "fake"])
def server_address(request):
    """The shared server, and the fake one, which has to do the same."""
    return request.getfixturevalue({"server": "real_server_address", "fake": "fake_address"}[request.param])


def at(minutes: float) -> datetime:
    return MORNING + timedelta(minutes=minutes)


def submission(challenge_id: str, number: int, pnl: object, **options: object) -> TradeSubmission:
    return TradeSubmission(challenge_id, Trade(f"t{number}", pnl, at(number)), **options)


async def new_challenge(client, **terms):
    return await client.create_challenge(**({"initial_balance": 100_000} | terms))


async def trade(client, challenge_id, number, pnl, **options):
    return await client.submit_trade(
        challenge_id, trade_id=f"t{number}", realized_pnl=pnl, executed_at=at(number), **options
    )


async def listed(items):
    return [item async for item in items]


async def messages_of(stream, *, until):
    """The messages of a stream up to the first for which `until` holds."""
    found = []
    async with asyncio.timeout(PATIENCE_S), stream:
        async for message in stream:
            found.append(message)
            if until(message):
                break
    return found


async def events_of(client, challenge_id, count):
    """The events of a challenge once there are `count`; they are numbered a moment after the answer."""
    stream = client.stream_events(challenge_ids=[challenge_id], from_beginning=True)
    found = await messages_of(
        stream, until=lambda m: isinstance(m, sdk.EventMessage) and m.event.challenge_sequence == count
    )
    return [message for message in found if isinstance(message, sdk.EventMessage)]


def is_caught_up(message) -> bool:
    return isinstance(message, sdk.CaughtUp)


class TestLife:
    async def test_a_new_challenge_is_pending_with_its_terms_filled_in(self, client):
        before = datetime.now(UTC)
        challenge = await client.create_challenge(initial_balance="50000.50", labels={"desk": "büro"})
        assert challenge.status is PENDING
        assert challenge.limits == Limits(5, 10, 10)
        assert challenge.initial_balance == challenge.equity == challenge.peak_equity == Decimal("50000.5")
        assert (challenge.currency_code, challenge.labels) == ("USD", {"desk": "büro"})
        assert (challenge.last_sequence, challenge.version, challenge.rules_version) == (0, 1, 1)
        assert (challenge.trading_day, challenge.activated_at, challenge.closed_at) == (None, None, None)
        assert before - timedelta(seconds=5) < challenge.created_at < datetime.now(UTC) + timedelta(seconds=5)
        assert challenge.replayed is False

    async def test_a_challenge_lives_to_funded(self, client):
        challenge = await new_challenge(client)
        first = await trade(client, challenge.challenge_id, 1, "4000.25", symbol="ES")
        assert (first.sequence, first.previous_status, first.status, first.reason) == (1, PENDING, ACTIVE, None)
        assert first.equity == first.peak_equity == Decimal("104000.25")
        assert [e.rule for e in first.evaluations] == list(Rule)
        assert first.evaluations[2].headroom == Decimal("5999.75")
        assert first.executed_at == at(1)
        last = await trade(client, challenge.challenge_id, 2, "5999.75", expected_sequence=2)
        assert (last.previous_status, last.status, last.reason) == (ACTIVE, FUNDED, Rule.PROFIT_TARGET)
        now = await client.get_challenge(challenge.challenge_id)
        assert (now.status, now.status_reason, now.version) == (FUNDED, Rule.PROFIT_TARGET, 3)
        assert (now.activated_at, now.closed_at, now.last_executed_at) == (at(1), at(2), at(2))
        assert now.trading_day == MORNING.date()
        assert now.evaluations == last.evaluations

    async def test_a_challenge_fails_one_step_beyond_its_daily_limit(self, client):
        challenge = await new_challenge(client, limits=Limits(max_daily_drawdown_pct="2.5"))
        held = await trade(client, challenge.challenge_id, 1, -2500)
        assert (held.status, held.evaluations[0].headroom) == (ACTIVE, 0)
        failed = await trade(client, challenge.challenge_id, 2, Decimal("-0.00000001"))
        assert (failed.status, failed.reason) == (FAILED, Rule.MAX_DAILY_DRAWDOWN)
        assert failed.equity == Decimal("97499.99999999")

    async def test_the_state_after_each_trade_can_be_read_again(self, client):
        challenge = await new_challenge(client)
        for number in (1, 2):
            await trade(client, challenge.challenge_id, number, 100)
        equities = [
            (await client.get_challenge(challenge.challenge_id, at_sequence=sequence)).equity for sequence in range(3)
        ]
        assert equities == [100_000, 100_100, 100_200]

    async def test_what_is_only_validated_leaves_no_trace(self, client):
        challenge = await new_challenge(client)
        decision = await trade(client, challenge.challenge_id, 1, -6000, validate_only=True)
        assert (decision.status, decision.recorded_at) == (FAILED, None)
        assert (await client.get_challenge(challenge.challenge_id)).status is PENDING


class TestReplay:
    async def test_the_same_challenge_again_is_answered_as_it_is_now(self, client):
        challenge_id = str(uuid.uuid4())
        made = await new_challenge(client, challenge_id=challenge_id.upper())
        assert (made.challenge_id, made.replayed) == (challenge_id, False)
        await trade(client, challenge_id, 1, 5)
        again = await new_challenge(client, challenge_id=challenge_id, limits=Limits(), currency_code="USD")
        assert (again.replayed, again.status, again.equity) == (True, ACTIVE, 100_005)

    async def test_the_same_trade_again_is_answered_by_its_decision_also_after_the_end(self, client):
        challenge = await new_challenge(client)
        first = await trade(client, challenge.challenge_id, 1, "1.50")
        await trade(client, challenge.challenge_id, 2, 20_000)
        again = await trade(client, challenge.challenge_id, 1, Decimal("1.5"), expected_sequence=99)
        assert again.replayed
        assert again == _replayed(first)


def _replayed(decision: Decision) -> Decision:
    from dataclasses import replace

    return replace(decision, replayed=True)


class TestBatch:
    async def test_each_item_of_a_batch_is_answered_in_its_place(self, client):
        one = (await new_challenge(client)).challenge_id
        two = (await new_challenge(client)).challenge_id
        answers = await client.submit_batch(
            [
                submission(one, 1, 100),
                submission(two, 1, -5001),
                submission(one, 2, 100, expected_sequence=7),
                submission(one, 2, -100),
                submission(one, 1, 100),
                submission(one, 1, 200),
                submission(two, 2, 1),
                submission(str(uuid.uuid4()), 1, 1),
                submission("no id", 1, 1),
                submission(one, 3, 20_000, validate_only=True),
            ]
        )
        assert [type(answer) for answer in answers] == [
            Decision,
            Decision,
            sdk.SequenceMismatchError,
            Decision,
            Decision,
            sdk.TradeIdReusedError,
            sdk.ChallengeTerminalError,
            sdk.ChallengeNotFoundError,
            sdk.ValidationFailedError,
            Decision,
        ]
        assert [a.status for a in answers if isinstance(a, Decision)] == [ACTIVE, FAILED, ACTIVE, ACTIVE, FUNDED]
        assert answers[4] == _replayed(answers[0])
        assert answers[2].next_sequence == 2
        assert answers[5].differing_fields == ("realized_pnl",)
        assert answers[6].status is FAILED
        assert answers[8].field_violations[0].field == "trades[8].challenge_id"
        assert answers[9].recorded_at is None

    async def test_a_rejection_of_a_batch_is_the_error_of_a_single_call(self, client):
        challenge_id = (await new_challenge(client)).challenge_id
        wrong = submission(challenge_id, 1, 1, expected_sequence=7)
        (held,) = await client.submit_batch([wrong])
        with pytest.raises(sdk.SequenceMismatchError) as raised:
            await trade(client, challenge_id, 1, 1, expected_sequence=7)
        assert (vars(held), repr(held)) == (vars(raised.value), repr(raised.value))

    async def test_none_is_answered_by_none(self, client):
        assert await client.submit_batch([]) == []

    async def test_500_trades_fit_one_batch(self, client):
        challenge_id = (await new_challenge(client)).challenge_id
        answers = await client.submit_batch(submission(challenge_id, number, "0.01") for number in range(500))
        assert [answer.sequence for answer in answers] == list(range(1, 501))
        assert answers[-1].equity == 100_005

    async def test_501_are_a_value_error_before_anything_is_sent(self, client):
        with pytest.raises(ValueError, match="at most 500"):
            await client.submit_batch([submission(str(uuid.uuid4()), 1, 1)] * 501)


class TestLists:
    async def test_challenges_are_listed_over_pages_oldest_first(self, client):
        labels = {"run": str(uuid.uuid4())}
        made = [(await new_challenge(client, labels=labels)).challenge_id for _ in range(5)]
        for size in (0, 1, 2, 5):
            found = await listed(client.list_challenges(labels=labels, page_size=size))
            assert [challenge.challenge_id for challenge in found] == made

    async def test_challenges_are_filtered_by_status_and_by_their_end(self, client):
        labels = {"run": str(uuid.uuid4())}
        made = [(await new_challenge(client, labels=labels)).challenge_id for _ in range(4)]
        for number, pnl in enumerate([20_000, -20_000, 1]):
            await trade(client, made[number], number, pnl)

        async def found(**filters):
            items = await listed(client.list_challenges(labels=labels, page_size=1, **filters))
            return [made.index(challenge.challenge_id) for challenge in items]

        assert await found(statuses=[FUNDED, FAILED]) == [0, 1]
        assert await found(statuses=(PENDING,)) == [3]
        assert await found(closed_at_from=at(1)) == [1]
        assert await found(closed_at_before=at(1)) == [0]
        assert await found(closed_at_from=at(0), closed_at_before=at(2), statuses=[FUNDED]) == [0]

    async def test_trades_are_listed_over_pages_by_sequence(self, client):
        challenge_id = (await new_challenge(client)).challenge_id
        decisions = [await trade(client, challenge_id, number, "-1.25", symbol="ES") for number in range(5)]
        for size in (0, 1, 2, 5):
            found = await listed(client.list_trades(challenge_id, page_size=size))
            assert [recorded.decision for recorded in found] == decisions
            assert [recorded.trade for recorded in found] == [
                Trade(f"t{number}", "-1.25", at(number), "ES") for number in range(5)
            ]
        found = await listed(client.list_trades(challenge_id, from_sequence=2, to_sequence=4, page_size=2))
        assert [recorded.decision.sequence for recorded in found] == [2, 3, 4]

    async def test_events_are_listed_over_pages_by_position(self, client):
        terms = {"limits": Limits("4.5"), "currency_code": "EUR", "labels": {"a": "b"}}
        challenge = await new_challenge(client, **terms)
        failed = await trade(client, challenge.challenge_id, 1, -20_000)
        events = [message.event for message in await events_of(client, challenge.challenge_id, 3)]
        for size in (0, 1, 2):
            found = await listed(client.list_events(challenge_id=challenge.challenge_id, page_size=size))
            assert found == events
        created, activated, ended = events
        assert (created.event_type, created.old_status, created.new_status) == (
            EventType.CHALLENGE_CREATED,
            None,
            PENDING,
        )
        assert (created.terms.limits, created.terms.currency_code, created.terms.labels) == tuple(terms.values())
        assert created.occurred_at == created.terms.created_at == challenge.created_at
        assert (activated.old_status, activated.new_status, activated.reason) == (PENDING, ACTIVE, None)
        assert (ended.old_status, ended.new_status, ended.reason) == (ACTIVE, FAILED, Rule.MAX_DAILY_DRAWDOWN)
        assert (ended.trade_id, ended.trade_sequence, ended.occurred_at) == ("t1", 1, at(1))
        assert (ended.equity, ended.evaluations) == (failed.equity, failed.evaluations)
        assert ended.terms is None

    async def test_events_are_filtered_by_status_and_position(self, client):
        challenge_id = (await new_challenge(client)).challenge_id
        await trade(client, challenge_id, 1, 20_000)
        created, activated, ended = [m.event for m in await events_of(client, challenge_id, 3)]
        assert await listed(client.list_events(challenge_id=challenge_id, new_statuses=[PENDING, FUNDED])) == [
            created,
            ended,
        ]
        assert await listed(client.list_events(challenge_id=challenge_id, after_position=created.position)) == [
            activated,
            ended,
        ]

    async def test_a_list_may_be_left_early(self, client):
        challenge_id = (await new_challenge(client)).challenge_id
        await client.submit_batch([submission(challenge_id, number, 1) for number in range(3)])
        async with aclosing(client.list_trades(challenge_id, page_size=1)) as items:
            async for recorded in items:
                assert recorded.decision.sequence == 1
                break


class TestStream:
    async def test_from_the_beginning_it_sends_what_was_recorded_and_then_catches_up(self, client):
        challenge_id = (await new_challenge(client)).challenge_id
        await trade(client, challenge_id, 1, 20_000)
        await events_of(client, challenge_id, 3)
        stream = client.stream_events(challenge_ids=[challenge_id], from_beginning=True)
        *events, caught_up = await messages_of(stream, until=is_caught_up)
        assert [message.event.new_status for message in events] == [PENDING, ACTIVE, FUNDED]
        assert caught_up.position >= events[-1].event.position

    async def test_from_now_it_sends_only_what_happens_after_it_caught_up(self, client):
        challenge_id = (await new_challenge(client)).challenge_id
        await events_of(client, challenge_id, 1)
        async with (
            asyncio.timeout(PATIENCE_S),
            client.stream_events(challenge_ids=[challenge_id], from_now=True) as stream,
        ):
            assert is_caught_up(await anext(stream))
            await trade(client, challenge_id, 1, 1)
            message = await anext(stream)
            while not isinstance(message, sdk.EventMessage):
                message = await anext(stream)
            assert message.event.new_status is ACTIVE

    async def test_after_a_cursor_it_goes_on_without_a_gap_or_a_repetition(self, client):
        challenge_id = (await new_challenge(client)).challenge_id
        await trade(client, challenge_id, 1, 20_000)
        first, *rest = await events_of(client, challenge_id, 3)
        stream = client.stream_events(challenge_ids=[challenge_id], after_cursor=first.cursor)
        *events, _ = await messages_of(stream, until=is_caught_up)
        assert events == rest

    async def test_after_a_position_it_goes_on_under_another_filter(self, client):
        challenge_id = (await new_challenge(client)).challenge_id
        await trade(client, challenge_id, 1, 20_000)
        first, *_ = await events_of(client, challenge_id, 3)
        stream = client.stream_events(
            challenge_ids=[challenge_id], new_statuses=[FUNDED], after_position=first.event.position
        )
        event, _ = await messages_of(stream, until=is_caught_up)
        assert event.event.new_status is FUNDED

    async def test_silence_is_filled_with_heartbeats(self, client):
        stream = client.stream_events(
            challenge_ids=[str(uuid.uuid4())], from_now=True, heartbeat_interval=timedelta(seconds=1)
        )
        found = await messages_of(stream, until=lambda message: isinstance(message, sdk.Heartbeat))
        assert found[-1].position >= found[0].position

    async def test_a_cursor_of_another_filter_is_refused(self, client):
        challenge_id = (await new_challenge(client)).challenge_id
        (message,) = await events_of(client, challenge_id, 1)
        for cursor, filters in ((message.cursor, {}), ("nonsense", {"challenge_ids": [challenge_id]})):
            stream = client.stream_events(after_cursor=cursor, **filters)
            with pytest.raises(sdk.CursorMismatchError):
                await anext(stream)
            assert await listed(stream) == []

    async def test_a_server_that_stops_ends_it_with_a_heartbeat_and_draining(
        self, make_client, start_server, database_url
    ):
        server = start_server("--database-url", database_url.render_as_string(hide_password=False))
        async with asyncio.timeout(PATIENCE_S), make_client(server.address) as client:
            stream = client.stream_events(from_now=True)
            assert is_caught_up(await anext(stream))
            server.process.terminate()
            assert isinstance(await anext(stream), sdk.Heartbeat)
            with pytest.raises(sdk.DrainingError) as raised:
                await anext(stream)
            assert raised.value.code is grpc.StatusCode.UNAVAILABLE


class TestErrors:
    @pytest.fixture
    async def challenge_id(self, client):
        return (await new_challenge(client)).challenge_id

    async def test_an_unknown_challenge_is_not_found(self, client):
        unknown = str(uuid.uuid4())
        with pytest.raises(sdk.ChallengeNotFoundError) as raised:
            await client.get_challenge(unknown)
        assert (raised.value.reason, raised.value.code) == ("CHALLENGE_NOT_FOUND", grpc.StatusCode.NOT_FOUND)
        assert isinstance(raised.value.__cause__, grpc.RpcError)
        with pytest.raises(sdk.ChallengeNotFoundError):
            await trade(client, unknown, 1, 1)
        with pytest.raises(sdk.ChallengeNotFoundError):
            await listed(client.list_trades(unknown))

    async def test_a_trade_that_is_not_there_is_not_found(self, client, challenge_id):
        with pytest.raises(sdk.SequenceNotFoundError):
            await client.get_challenge(challenge_id, at_sequence=1)

    async def test_an_id_of_a_challenge_with_other_content_is_taken(self, client, challenge_id):
        with pytest.raises(sdk.ChallengeExistsError) as raised:
            await new_challenge(client, challenge_id=challenge_id, initial_balance=1, labels={"a": "b"})
        assert set(raised.value.differing_fields) == {"initial_balance", "labels"}
        assert raised.value.code is grpc.StatusCode.ALREADY_EXISTS

    async def test_an_id_of_a_trade_with_other_content_is_taken(self, client, challenge_id):
        await trade(client, challenge_id, 1, 1)
        with pytest.raises(sdk.TradeIdReusedError) as raised:
            await trade(client, challenge_id, 1, 2, symbol="ES")
        assert set(raised.value.differing_fields) == {"realized_pnl", "symbol"}

    async def test_an_ended_challenge_takes_no_more_trades(self, client, challenge_id):
        await trade(client, challenge_id, 1, 20_000)
        with pytest.raises(sdk.ChallengeTerminalError) as raised:
            await trade(client, challenge_id, 2, 1)
        assert raised.value.status is FUNDED
        assert raised.value.code is grpc.StatusCode.FAILED_PRECONDITION

    async def test_a_trade_not_after_the_last_one_is_out_of_order(self, client, challenge_id):
        await trade(client, challenge_id, 2, 1)
        with pytest.raises(sdk.TradeOutOfOrderError) as raised:
            await trade(client, challenge_id, 1, 1)
        assert raised.value.last_executed_at == at(2)

    async def test_a_trade_of_tomorrow_is_in_the_future(self, client, challenge_id):
        tomorrow = datetime.now(UTC) + timedelta(days=1)
        with pytest.raises(sdk.TradeInFutureError):
            await client.submit_trade(challenge_id, trade_id="t", realized_pnl=1, executed_at=tomorrow)

    async def test_an_equity_beyond_16_digits_is_out_of_range(self, client):
        challenge = await new_challenge(client, initial_balance=9_999_999_999_999_999)
        with pytest.raises(sdk.EquityOutOfRangeError):
            await trade(client, challenge.challenge_id, 1, 1)

    async def test_another_sequence_than_the_expected_one_is_a_mismatch(self, client, challenge_id):
        with pytest.raises(sdk.SequenceMismatchError) as raised:
            await trade(client, challenge_id, 1, 1, expected_sequence=5)
        assert raised.value.next_sequence == 1

    async def test_every_bad_field_is_named(self, client):
        with pytest.raises(sdk.ValidationFailedError) as raised:
            await client.create_challenge(
                initial_balance=0, challenge_id="7", limits=Limits(100), currency_code="XXQ", labels={"": ""}
            )
        assert [violation.field for violation in raised.value.field_violations] == [
            "challenge_id",
            "initial_balance",
            "limits.max_daily_drawdown_pct",
            "currency_code",
            "labels['']",
        ]

    async def test_a_bad_trade_names_its_fields(self, client, challenge_id):
        with pytest.raises(sdk.ValidationFailedError) as raised:
            await client.submit_trade(challenge_id, trade_id="", realized_pnl=1, executed_at=at(1), symbol="é")
        assert [violation.field for violation in raised.value.field_violations] == ["trade.trade_id", "trade.symbol"]

    async def test_a_status_the_server_does_not_know_is_refused_by_it(self, client):
        with pytest.raises(sdk.ValidationFailedError) as raised:
            await listed(client.list_challenges(statuses=[ChallengeStatus.unknown(9)]))
        assert raised.value.field_violations[0].field == "statuses[0]"

    async def test_a_negative_page_size_is_refused_by_the_server(self, client):
        with pytest.raises(sdk.ValidationFailedError):
            await listed(client.list_events(page_size=-1))

    async def test_a_heartbeat_that_is_too_fast_is_refused_by_the_server(self, client):
        stream = client.stream_events(from_now=True, heartbeat_interval=timedelta(milliseconds=1))
        with pytest.raises(sdk.ValidationFailedError) as raised:
            await anext(stream)
        assert raised.value.field_violations[0].field == "heartbeat_interval"

    async def test_a_deadline_that_passes_without_an_answer_is_a_transport_error(self, make_client):
        """By the call's time-out and by the client's, against a listener that never says a word."""
        with socket.create_server(("127.0.0.1", 0)) as silent:
            async with make_client(f"127.0.0.1:{silent.getsockname()[1]}", timeout_s=0.2) as client:
                with pytest.raises(sdk.TransportError) as raised:
                    await client.get_challenge(str(uuid.uuid4()), timeout_s=0.1)
                assert raised.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
                with pytest.raises(sdk.TransportError) as raised:
                    await listed(client.list_events())
                assert raised.value.code is grpc.StatusCode.DEADLINE_EXCEEDED

    async def test_a_message_that_is_too_large_is_a_transport_error(self, client):
        with pytest.raises(sdk.TransportError) as raised:
            await client.create_challenge(initial_balance=1, labels={"a": BIG})
        assert raised.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED

    async def test_a_server_that_is_away_is_a_transport_error(self, make_client):
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            async with make_client(f"127.0.0.1:{unused.getsockname()[1]}", timeout_s=0.5) as client:
                with pytest.raises(sdk.TransportError) as raised:
                    await client.get_challenge(str(uuid.uuid4()))
                assert raised.value.code is grpc.StatusCode.UNAVAILABLE
                assert raised.value.attempts > 1
                with pytest.raises(sdk.TransportError):
                    await anext(client.stream_events(from_now=True))

    async def test_a_wrong_argument_never_leaves_the_process(self, make_client):
        async with make_client("127.0.0.1:1") as client:
            with pytest.raises(TypeError, match="initial_balance must not be a float"):
                await client.create_challenge(initial_balance=100_000.0)
            with pytest.raises(ValueError, match="executed_at must be an aware datetime"):
                await client.submit_trade("id", trade_id="1", realized_pnl=1, executed_at=at(1).replace(tzinfo=None))
            with pytest.raises(ValueError, match="exactly one of"):
                client.stream_events()
            with pytest.raises(TypeError, match="new_statuses"):
                client.list_events(new_statuses=FAILED)

    async def test_a_closed_client_refuses_calls(self, make_client, server_address):
        client = make_client(server_address)
        async with client:
            await listed(client.list_challenges(labels={"run": str(uuid.uuid4())}))
        with pytest.raises(RuntimeError, match="closed"):
            await client.get_challenge(str(uuid.uuid4()))
