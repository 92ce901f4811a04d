"""The service against the independent model: every answer, sequence, equity, status, reason and piece of evidence.

`MODEL_TRADES=20000 pytest tests/server/test_model.py` makes a larger run, `MODEL_SEED=7` another one.
"""

import asyncio
import copy
import os
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import grpc
import pytest
from sqlalchemy.engine import URL

from propfirm.challenge.v1 import challenge_pb2 as pb
from propfirm.challenge.v1.challenge_pb2_grpc import ChallengeServiceStub
from tests.conftest import ServerProcess
from tests.rules.model import ModelChallenge, wire
from tests.server.calls import (
    challenge_as_model,
    decision_as_model,
    event_as_model,
    new_id,
    read_refusal,
    read_rejection,
    refusal_as_model,
    submission,
    url_text,
)

TRADES = int(os.environ.get("MODEL_TRADES", "1500"))
SEED = int(os.environ.get("MODEL_SEED", "20260101"))
TRADES_PER_CHALLENGE = 14
CHANNELS = 8
AT_ONCE = 64
TIMEOUT_S = 60
SERVERS = {"usual": (), "workers": ("--workers", "3"), "ungrouped": ("--max-group", "1")}
"""A single process that groups trades as far as it may, several processes, and a transaction for each trade."""
UNIT = Decimal("0.00000001")
LARGEST = Decimal("9999999999999999.99999999")
RULES = ("MAX_DAILY_DRAWDOWN", "MAX_TOTAL_DRAWDOWN", "PROFIT_TARGET")
BALANCES = ("100000", "100000", "50000.5", "0.01", "1", "0.03", "33333.33333333", "9999999999999999.99999999",
            "9999999999999999", "7777777777777777.77777777", "1000000000000000")  # fmt: skip
DRAWDOWNS = ("5", "10", "0.0001", "99.9999", "33.3333", "50", "1.5", "0.01")
TARGETS = ("10", "8", "0.0001", "10000", "33.3333", "100", "0.5")

Expected = dict[str, Any]


@dataclass
class Career:
    """One challenge: what is sent, what the model answers, and where it stands after each accepted trade."""

    challenge_id: str
    terms: dict[str, Any]
    model: ModelChallenge
    requests: list[pb.SubmitTradeRequest] = field(default_factory=list)
    expected: list[Expected] = field(default_factory=list)
    snapshots: list[Expected] = field(default_factory=list)
    accepted: list[tuple[pb.SubmitTradeRequest, Expected]] = field(default_factory=list)


class Author:
    """Makes careers up. It looks at the model to land on the boundaries, and to send what was accepted again."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = datetime.now(UTC)

    def career(self, length: int) -> Career:
        choose = self.random.choice
        balance, daily, total, target = choose(BALANCES), choose(DRAWDOWNS), choose(DRAWDOWNS), choose(TARGETS)
        limits = {"max_daily_drawdown_pct": daily, "max_total_drawdown_pct": total, "profit_target_pct": target}
        terms = {"initial_balance": balance, "limits": limits}
        career = Career(new_id(), terms, ModelChallenge(balance, daily, total, target))
        career.snapshots.append(career.model.snapshot())
        self.moment = datetime(self.random.randint(1, 2024), 1, 1, tzinfo=UTC) + timedelta(days=choose((0, 58, 364)))
        for number in range(length):
            self._add(career, number)
        return career

    def _add(self, career: Career, number: int) -> None:
        kind = self.random.random()
        if career.accepted and kind < 0.08:
            request = self._again(career)
        else:
            options: dict[str, Any] = {}
            if self.random.random() < 0.1:
                options["expected_sequence"] = max(0, career.model.last_sequence + self.random.choice((1, 1, 0, 2)))
            if self.random.random() < 0.1:
                options["validate_only"] = True
            symbol = self.random.choice(("", "EURUSD", "~" * 32))
            pnl = self._pnl(career.model)
            request = submission(career.challenge_id, f"t-{number}", pnl, self._moment(career.model), symbol, **options)
        self._expect(career, request)

    def _expect(self, career: Career, request: pb.SubmitTradeRequest) -> None:
        trade = request.trade
        model = copy.deepcopy(career.model) if request.validate_only else career.model
        answer = model.submit(
            trade.trade_id,
            trade.realized_pnl,
            trade.executed_at.ToDatetime(UTC),
            trade.symbol,
            request.expected_sequence if request.HasField("expected_sequence") else None,
            self.now,
        )
        career.requests.append(request)
        career.expected.append(answer)
        if answer["outcome"] == "decision" and not answer["replayed"] and not request.validate_only:
            career.accepted.append((request, answer))
            career.snapshots.append(career.model.snapshot())

    def _again(self, career: Career) -> pb.SubmitTradeRequest:
        """An accepted trade: the same, the same in another form, or with other content."""
        request = pb.SubmitTradeRequest()
        request.CopyFrom(self.random.choice(career.accepted)[0])
        request.ClearField("expected_sequence")
        trade = request.trade
        match self.random.randrange(5):
            case 0:
                trade.symbol = "other"
            case 1:
                trade.realized_pnl = "0.12345678"
            case 2:
                trade.executed_at.FromDatetime(trade.executed_at.ToDatetime(UTC) + timedelta(microseconds=1))
            case 3:
                trade.realized_pnl += "" if "." in trade.realized_pnl else ".00"
                request.challenge_id = request.challenge_id.upper()
                request.expected_sequence = 77
            case _:
                request.validate_only = self.random.random() < 0.3
        return request

    def _pnl(self, model: ModelChallenge) -> str:
        equity = Decimal(wire(model.equity))
        kind = self.random.random()
        if kind < 0.45:
            pnl = equity * Decimal(self.random.randint(-300, 320)) / 100_000
        elif kind < 0.70:
            rule = self.random.choice(RULES)
            edge = Decimal(model.headroom(rule)) + self.random.choice((-1, 0, 1)) * UNIT
            pnl = edge if rule == "PROFIT_TARGET" else -edge
        elif kind < 0.80:
            pnl = Decimal(self.random.choice(("0", "0.00000001", "-0.00000001", "0.5")))
        elif kind < 0.84:
            pnl = -equity + self.random.choice((-1, 0, 1)) * UNIT
        elif kind < 0.88:
            pnl = self.random.choice((LARGEST, -LARGEST, LARGEST - equity, LARGEST - equity + UNIT))
        else:
            pnl = Decimal(self.random.randint(-(10**7), 10**7)) / 10**4
        pnl = max(-LARGEST, min(LARGEST, pnl.quantize(UNIT)))
        text = format(abs(pnl), "f")
        if self.random.random() < 0.7:
            text = text.rstrip("0").rstrip(".")
        return "-" + text if pnl < 0 else text

    def _moment(self, model: ModelChallenge) -> datetime:
        last = model.last_executed_at or self.moment
        kind = self.random.random()
        midnight = last.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
        if kind < 0.45:
            return last + timedelta(seconds=self.random.randint(1, 7200))
        if kind < 0.60:
            return last + timedelta(microseconds=1)
        if kind < 0.75:
            return midnight
        if kind < 0.82:
            return max(midnight - timedelta(microseconds=1), last + timedelta(microseconds=1))
        if kind < 0.92:
            return midnight + timedelta(days=self.random.choice((1, 30, 366)), microseconds=self.random.randrange(9))
        if kind < 0.96:
            return max(last - timedelta(microseconds=self.random.choice((0, 1, 10**9))), datetime(1, 1, 1, tzinfo=UTC))
        return self.now + timedelta(hours=1)


@pytest.fixture(scope="module", params=[*SERVERS, "fake"])
def address(request: pytest.FixtureRequest) -> Iterator[str]:
    """HOST:PORT of the shared server, of one of another kind on the same database, or of the fake one."""
    if request.param == "usual":
        yield request.getfixturevalue("server_address")
        return
    if request.param == "fake":
        yield request.getfixturevalue("fake_address")
        return
    url: URL = request.getfixturevalue("session_database_url")
    options = ("--listen", "127.0.0.1:0", "--log-level", "error", "--database-url", url_text(url))
    server = ServerProcess(*options, *SERVERS[request.param])
    yield server.wait_ready()
    assert server.stop() == 0
    server.close()


@asynccontextmanager
async def stubs(address: str) -> AsyncIterator[list[ChallengeServiceStub]]:
    """Several connections."""
    async with AsyncExitStack() as stack:
        options = [("grpc.use_local_subchannel_pool", 1)]
        channels = [grpc.aio.insecure_channel(address, options=options) for _ in range(CHANNELS)]
        yield [ChallengeServiceStub(await stack.enter_async_context(channel)) for channel in channels]


async def create(stub: ChallengeServiceStub, career: Career) -> None:
    request = pb.CreateChallengeRequest(challenge_id=career.challenge_id, **career.terms)
    answer = await stub.CreateChallenge(request, timeout=TIMEOUT_S)
    assert challenge_as_model(answer.challenge) == career.snapshots[0]


async def send_one_by_one(stub: ChallengeServiceStub, career: Career) -> list[Expected]:
    answers = []
    for request in career.requests:
        try:
            answer = await stub.SubmitTrade(request, timeout=TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            answers.append(refusal_as_model(read_refusal(error)))
        else:
            answers.append(decision_as_model(answer.decision))
    return answers


async def send_batches(stub: ChallengeServiceStub, careers: list[Career], size: int, shuffle: random.Random) -> None:
    """The trades of many careers, mixed, each career in its order, `size` at a time."""
    turns = [career for career in careers for _ in career.requests]
    shuffle.shuffle(turns)
    left = {career.challenge_id: iter(range(len(career.requests))) for career in careers}
    mixed = [(career, next(left[career.challenge_id])) for career in turns]
    for start in range(0, len(mixed), size):
        part = mixed[start : start + size]
        request = pb.BatchSubmitTradesRequest(trades=[career.requests[number] for career, number in part])
        answer = await stub.BatchSubmitTrades(request, timeout=TIMEOUT_S)
        for (career, number), result in zip(part, answer.results, strict=True):
            if result.HasField("decision"):
                assert decision_as_model(result.decision) == career.expected[number], career.requests[number]
            else:
                assert refusal_as_model(read_rejection(result)) == career.expected[number], career.requests[number]


async def check_history(stub: ChallengeServiceStub, career: Career, shuffle: random.Random) -> None:
    """What the service has kept is what the model has."""
    ident = career.challenge_id
    now = await stub.GetChallenge(pb.GetChallengeRequest(challenge_id=ident), timeout=TIMEOUT_S)
    assert challenge_as_model(now.challenge) == career.model.snapshot()
    earlier = shuffle.randrange(len(career.snapshots))
    request = pb.GetChallengeRequest(challenge_id=ident, at_sequence=earlier)
    then = await stub.GetChallenge(request, timeout=TIMEOUT_S)
    assert challenge_as_model(then.challenge) == career.snapshots[earlier]
    listed = await stub.ListTrades(pb.ListTradesRequest(challenge_id=ident, page_size=1000), timeout=TIMEOUT_S)
    assert [decision_as_model(item.decision) for item in listed.trades] == [answer for _, answer in career.accepted]
    assert [item.trade.trade_id for item in listed.trades] == [r.trade.trade_id for r, _ in career.accepted]
    if career.accepted:
        again = pb.BatchSubmitTradesRequest(trades=[request for request, _ in career.accepted])
        results = (await stub.BatchSubmitTrades(again, timeout=TIMEOUT_S)).results
        replays = [answer | {"replayed": True} for _, answer in career.accepted]
        assert [decision_as_model(result.decision) for result in results] == replays
    wanted = 1 + len(career.model.events)
    events: list[pb.ChallengeEvent] = []
    async with asyncio.timeout(TIMEOUT_S):
        while len(events) < wanted:
            listed_events = await stub.ListEvents(pb.ListEventsRequest(challenge_id=ident), timeout=TIMEOUT_S)
            events = list(listed_events.events)
    assert [event_as_model(event) for event in events[1:]] == career.model.events
    assert [event.challenge_sequence for event in events] == list(range(1, wanted + 1))


@pytest.mark.timeout(60 + TRADES // 50)
@pytest.mark.parametrize("way", ["unary", "batch"])
async def test_the_service_agrees_with_the_model_on_everything(address: str, way: str) -> None:
    """Unary: careers side by side on several connections, each in its order. Batch: careers mixed within batches."""
    author = Author(SEED + (way == "batch"))
    careers = [author.career(TRADES_PER_CHALLENGE) for _ in range(TRADES // 2 // TRADES_PER_CHALLENGE + 1)]
    outcomes = {answer.get("reason") for career in careers for answer in career.expected}
    assert outcomes >= {None, *RULES, "TRADE_OUT_OF_ORDER", "TRADE_IN_FUTURE", "CHALLENGE_TERMINAL"}
    assert outcomes >= {"TRADE_ID_REUSED", "SEQUENCE_MISMATCH", "EQUITY_OUT_OF_RANGE"}
    turn = asyncio.Semaphore(AT_ONCE)

    async def live(stub: ChallengeServiceStub, number: int, career: Career) -> None:
        async with turn:
            await create(stub, career)
            if way == "unary":
                answers = await send_one_by_one(stub, career)
                for request, answer, expected in zip(career.requests, answers, career.expected, strict=True):
                    assert answer == expected, request
                await check_history(stub, career, random.Random(number))

    async with stubs(address) as several:
        async with asyncio.TaskGroup() as group:
            for number, career in enumerate(careers):
                group.create_task(live(several[number % CHANNELS], number, career))
        if way == "batch":
            # Groups of careers side by side, in batches from a single trade up to the most that is allowed.
            sizes = (1, 7, 100, 500)
            async with asyncio.TaskGroup() as group:
                for number, size in enumerate(sizes):
                    share = (
                        careers[: len(careers) // 20] if size == 1 else careers[len(careers) // 20 :][number - 1 :: 3]
                    )
                    group.create_task(send_batches(several[number], share, size, random.Random(SEED + size)))
            async with asyncio.TaskGroup() as group:
                for number, career in enumerate(careers):
                    group.create_task(check_history(several[number % CHANNELS], career, random.Random(number)))
