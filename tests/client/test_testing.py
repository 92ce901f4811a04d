"""The fake server's own features; that it does as the real one does is shown by the suites that run over both."""

from datetime import UTC, datetime, timedelta

import pytest

from challenge_client import (
    DrainingError,
    ErrorReason,
    InternalFailureError,
    Subscription,
    TradeInFutureError,
    TransportError,
)
from challenge_client.statuses import ERROR_CLASSES
from challenge_client.testing import FakeChallengeServer

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)


@pytest.fixture
def fake():
    with FakeChallengeServer() as server:
        yield server


def test_its_verdicts_are_the_real_ones(fake):
    with fake.client() as client:
        challenge = client.create_challenge(initial_balance="100000")
        held = client.submit_trade(challenge.challenge_id, trade_id="1", realized_pnl=-5000, executed_at=NOON)
        failed = client.submit_trade(
            challenge.challenge_id,
            trade_id="2",
            realized_pnl="-0.00000001",
            executed_at=NOON + timedelta(microseconds=1),
        )
    assert (held.status, failed.status, failed.reason) == ("ACTIVE", "FAILED", "MAX_DAILY_DRAWDOWN")


async def test_it_serves_the_client_for_asyncio(fake):
    async with fake.async_client() as client:
        challenge = await client.create_challenge(initial_balance=1)
        assert (await client.get_challenge(challenge.challenge_id)).status == "PENDING"


def test_two_of_them_know_nothing_of_each_other(fake):
    with FakeChallengeServer() as other, fake.client() as client, other.client() as stranger:
        client.create_challenge(initial_balance=1)
        assert list(stranger.list_challenges()) == []


@pytest.mark.parametrize("reason", sorted(set(ErrorReason)))
def test_it_fails_for_any_reason_of_the_contract_and_then_works_again(fake, reason):
    fake.fail_next("GetChallenge", reason)
    with fake.client(max_attempts=1) as client:
        challenge = client.create_challenge(initial_balance=1)
        with pytest.raises(ERROR_CLASSES[reason]):
            client.get_challenge(challenge.challenge_id)
        assert client.get_challenge(challenge.challenge_id).equity == 1
    assert fake.calls("GetChallenge") == 2


def test_an_answer_that_is_lost_after_the_commit_shows_a_retry_that_doubles_nothing(fake):
    with fake.client() as client:
        challenge = client.create_challenge(initial_balance=100)
        fake.fail_next("SubmitTrade", "OUTCOME_UNKNOWN", times=2, after_commit=True)
        decision = client.submit_trade(challenge.challenge_id, trade_id="1", realized_pnl=1, executed_at=NOON)
        assert (decision.replayed, decision.sequence, decision.equity) == (True, 1, 101)
        assert fake.calls("SubmitTrade") == 3
        assert client.get_challenge(challenge.challenge_id).last_sequence == 1


def test_faults_come_in_the_order_in_which_they_were_asked_for(fake):
    fake.fail_next("ListEvents", "INTERNAL")
    fake.fail_next("ListEvents", "DRAINING")
    with fake.client(max_attempts=1) as client:
        with pytest.raises(InternalFailureError):
            list(client.list_events())
        with pytest.raises(DrainingError):
            list(client.list_events())


def test_a_wrong_fault_is_refused_with_what_is_allowed(fake):
    with pytest.raises(ValueError, match="method must be one of CreateChallenge, SubmitTrade"):
        fake.fail_next("submit_trade", "INTERNAL")
    with pytest.raises(ValueError, match="reason must be one of VALIDATION_FAILED"):
        fake.fail_next("SubmitTrade", "BROKEN")
    with pytest.raises(ValueError, match="method must be one of"):
        fake.calls("SubmitTrad")
    with pytest.raises(TypeError, match="now must be a function that returns an aware datetime"):
        FakeChallengeServer(now=datetime.now)


def test_its_clock_is_the_tests_own():
    now = [NOON]
    with FakeChallengeServer(now=lambda: now[0], max_clock_skew=timedelta(seconds=1)) as fake, fake.client() as client:
        challenge = client.create_challenge(initial_balance=100)
        assert challenge.created_at == NOON
        trade = {"trade_id": "1", "realized_pnl": 1, "executed_at": NOON + timedelta(hours=1)}
        with pytest.raises(TradeInFutureError):
            client.submit_trade(challenge.challenge_id, **trade)
        now[0] += timedelta(hours=1) - timedelta(seconds=1)
        assert client.submit_trade(challenge.challenge_id, **trade).recorded_at == now[0]


def test_a_stream_can_be_broken_and_a_subscription_goes_on(fake):
    with fake.client() as client:
        made = [client.create_challenge(initial_balance=1).challenge_id]
        fake.fail_next("StreamEvents", "DRAINING", times=2)
        with client.subscribe(from_beginning=True) as subscription:
            assert isinstance(subscription, Subscription)
            assert next(subscription).challenge_id == made[0]
            made.append(client.create_challenge(initial_balance=1).challenge_id)
            assert next(subscription).challenge_id == made[1]
    assert fake.calls("StreamEvents") == 3


def test_when_it_is_closed_streams_end_and_calls_find_nobody():
    fake = FakeChallengeServer()
    with fake:
        client = fake.client(max_attempts=1)
        stream = client.stream_events(from_now=True)
        next(stream)
        fake.close()
        with pytest.raises(DrainingError):
            list(stream)
    with pytest.raises((TransportError, DrainingError)):
        client.create_challenge(initial_balance=1)
    client.close()
    fake.close()


def test_pages_neither_skip_nor_repeat_what_changes_in_between(fake):
    with fake.client() as client:
        ids = [client.create_challenge(initial_balance=100).challenge_id for _ in range(6)]
        seen = []
        for challenge in client.list_challenges(statuses=["PENDING"], page_size=1):
            seen.append(challenge.challenge_id)
            client.submit_trade(challenge.challenge_id, trade_id="1", realized_pnl=1, executed_at=NOON)
        assert sorted(seen) == sorted(ids)


def test_a_cursor_that_was_tampered_with_is_a_mismatch_and_leaks_nothing(fake):
    import base64
    import json

    from challenge_client import CursorMismatchError

    with fake.client() as client:
        client.create_challenge(initial_balance=1)
        cursor = next(client.stream_events(from_beginning=True)).cursor
        content = json.loads(base64.urlsafe_b64decode(cursor))
        for tampered in (content[:-1], [*content[:-1], 99]):
            text = base64.urlsafe_b64encode(json.dumps(tampered).encode()).decode()
            with pytest.raises(CursorMismatchError):
                next(client.stream_events(after_cursor=text))
