"""Many trades sent by both kinds of client to the real server, while the line is cut and the server killed."""

import asyncio
import uuid
from datetime import UTC, datetime, timedelta

import pytest

from challenge_client import (
    AsyncChallengeClient,
    ChallengeTerminalError,
    Decision,
    PredecessorFailedError,
    Trade,
    TradeSubmission,
    TransportError,
    ValidationFailedError,
)
from tests.client.proxy import Proxy
from tests.client.waiting import until

MORNING = datetime(2026, 3, 2, tzinfo=UTC)
TRADES = 10_000
"""Sent while everything breaks."""


def trade_of(challenge_id, number, pnl="0.25"):
    return TradeSubmission(challenge_id, Trade(f"t{number}", pnl, MORNING + timedelta(seconds=number)))


async def make(client, count):
    return [(await client.create_challenge(initial_balance=100_000)).challenge_id for _ in range(count)]


async def gathered(items):
    return [item async for item in items]


async def test_trades_of_many_challenges_are_decided_each_challenge_in_order(client):
    ids = await make(client, 7)
    submissions = [trade_of(ids[number % 7], number) for number in range(700)]
    decisions = await gathered(client.submit_trades(submissions, chunk_size=20))
    assert len(decisions) == 700
    for challenge_id in ids:
        mine = [decision for decision in decisions if decision.challenge_id == challenge_id]
        assert [decision.sequence for decision in mine] == list(range(1, 101))
        recorded = await gathered(client.list_trades(challenge_id))
        assert [(r.trade.trade_id, r.decision) for r in recorded] == [(d.trade_id, d) for d in mine]


async def test_a_refused_trade_stops_no_other(client):
    (challenge_id,) = await make(client, 1)
    bad = TradeSubmission(challenge_id, Trade("bad\n", 1, MORNING))
    submissions = [trade_of(challenge_id, 1), bad, trade_of(challenge_id, 2, 20_000), trade_of(challenge_id, 3)]
    first, refused, funded, late = await gathered(client.submit_trades(submissions))
    assert (first.sequence, funded.sequence) == (1, 2)
    assert isinstance(refused, ValidationFailedError)
    assert (refused.request, refused.attempts) == (bad, 1)
    assert isinstance(late, ChallengeTerminalError)


async def test_the_source_may_be_slow_and_nothing_is_held_back_for_it(server_address):
    """With an async iterable: each trade is sent as soon as it is there, although the chunk has room for more."""
    async with AsyncChallengeClient(server_address) as client:
        (challenge_id,) = await make(client, 1)
        decided = asyncio.Event()

        async def one_after_the_other():
            for number in range(3):
                yield trade_of(challenge_id, number)
                await decided.wait()
                decided.clear()

        sequences = []
        async for decision in client.submit_trades(one_after_the_other()):
            sequences.append(decision.sequence)
            decided.set()
        assert sequences == [1, 2, 3]


async def test_an_async_source_that_is_quick_fills_whole_chunks(server_address, monkeypatch):
    from challenge_client import calls

    sizes = []
    original = calls.submit_batch
    monkeypatch.setattr(calls, "submit_batch", lambda batch: sizes.append(len(batch)) or original(batch))
    async with AsyncChallengeClient(server_address) as client:
        ids = await make(client, 10)

        async def quick():
            for number in range(200):
                yield trade_of(ids[number % 10], number)

        assert len(await gathered(client.submit_trades(quick(), chunk_size=10))) == 200
    assert sizes.count(10) >= 10


async def test_leaving_early_ends_the_calls(client):
    (challenge_id,) = await make(client, 1)
    results = client.submit_trades(trade_of(challenge_id, number) for number in range(10**9))
    assert (await anext(results)).sequence == 1
    if hasattr(results, "aclose"):
        await results.aclose()
    assert (await client.get_challenge(challenge_id)).last_sequence > 0


async def test_when_the_server_stays_away_every_trade_has_its_outcome(make_client, serve):
    server = serve()
    async with make_client(server.address, timeout_s=0.5) as client:
        ids = await make(client, 2)
        await asyncio.to_thread(server.kill)
        outcomes = await gathered(client.submit_trades([trade_of(ids[n % 2], n) for n in range(10)], chunk_size=2))
    assert {type(outcome) for outcome in outcomes} == {TransportError, PredecessorFailedError}
    assert [o.attempts for o in outcomes if isinstance(o, PredecessorFailedError)] == [0] * 8
    assert all(o.attempts > 1 for o in outcomes if isinstance(o, TransportError))


@pytest.fixture
def serve(start_server, database_url):
    url = database_url.render_as_string(hide_password=False)
    return lambda *arguments: start_server("--database-url", url, "--log-level", "error", *arguments)


@pytest.mark.soak
async def test_trades_through_cut_lines_and_killed_servers_are_recorded_once_in_order(serve, make_client):
    """The line is cut every 200 ms, and the server killed twice on the way."""
    server = serve()
    async with Proxy(server.address) as proxy, make_client(server.address) as direct:
        ids = await make(direct, 20)
        submissions = [trade_of(ids[number % 20], number) for number in range(TRADES)]
        decisions = []

        async def kill_at(count):
            await until(lambda: len(decisions) >= count)
            await asyncio.to_thread(server.kill)
            return await asyncio.to_thread(serve, "--listen", server.address)

        async def send():
            async with make_client(proxy.address, timeout_s=60) as client:
                async for decision in client.submit_trades(submissions, chunk_size=25):
                    decisions.append(decision)  # noqa: PERF401 -- others look at it meanwhile

        cutting = asyncio.create_task(proxy.cut_every(0.2))
        sending = asyncio.create_task(send())
        for count in (TRADES // 10, TRADES // 2):
            killing = asyncio.create_task(kill_at(count))
            await asyncio.wait([killing, sending], return_when=asyncio.FIRST_COMPLETED)
            server = await killing
        await sending
        cutting.cancel()
    assert proxy.connections > 3
    assert [decision for decision in decisions if not isinstance(decision, Decision)] == []
    assert len(decisions) == TRADES
    async with make_client(server.address) as client:
        for index, challenge_id in enumerate(ids):
            recorded = await gathered(client.list_trades(challenge_id, page_size=1000))
            wanted = [f"t{number}" for number in range(index, TRADES, 20)]
            assert [entry.trade.trade_id for entry in recorded] == wanted
            mine = [decision for decision in decisions if decision.challenge_id == challenge_id]
            assert [(decision.trade_id, decision.sequence) for decision in mine] == [
                (trade_id, sequence) for sequence, trade_id in enumerate(wanted, 1)
            ]


async def test_a_batch_whose_answer_is_lost_is_answered_as_recorded(server_address, make_client):
    """The line is cut when the answer is on its way, so the second attempt finds every trade recorded."""
    async with (
        Proxy(server_address) as proxy,
        make_client(proxy.address) as client,
        make_client(server_address) as look,
    ):
        (challenge_id,) = await make(look, 1)
        await client.get_challenge(challenge_id)
        proxy.answering.clear()
        sending = asyncio.create_task(client.submit_batch([trade_of(challenge_id, number) for number in range(5)]))

        async for _ in look.subscribe(challenge_ids=[challenge_id], new_statuses=["ACTIVE"], from_beginning=True):
            break
        proxy.cut()
        proxy.answering.set()
        decisions = await sending
    assert [(d.sequence, d.replayed) for d in decisions] == [(number, True) for number in range(1, 6)]


async def test_one_can_wait_until_a_challenge_has_ended(client):
    open_one, ended, never = await make(client, 3)
    await client.submit_batch([trade_of(ended, 1, -20_000)])
    assert (await client.wait_until_closed(ended)).status == "FAILED"
    waiting = asyncio.create_task(client.wait_until_closed(open_one, timeout_s=60))
    with pytest.raises(TransportError) as raised:
        await client.wait_until_closed(never, timeout_s=0.3)
    assert raised.value.code.name == "DEADLINE_EXCEEDED"
    assert not waiting.done()
    await client.submit_batch([trade_of(open_one, 1, 10_000)])
    closed = await waiting
    assert (closed.status, closed.equity, closed.last_sequence) == ("FUNDED", 110_000, 1)
    with pytest.raises(Exception, match="CHALLENGE_NOT_FOUND"):
        await client.wait_until_closed(str(uuid.uuid4()))


async def test_closing_the_client_ends_the_waiting(client):
    (challenge_id,) = await make(client, 1)
    waiting = asyncio.create_task(client.wait_until_closed(challenge_id))
    await asyncio.wait([waiting], timeout=0.3)
    await client.close()
    with pytest.raises((TransportError, RuntimeError)):
        await waiting
