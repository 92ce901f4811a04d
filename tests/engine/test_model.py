"""The whole engine on PostgreSQL, held against the independent model of one challenge, answer by answer."""

import asyncio
import copy
import os
import random
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any, TypeVar

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy.engine import URL

from challenge_engine import queries, rows
from challenge_engine.submissions import Answer
from challenge_rules import Decision, Trade, TradeSubmission
from challenge_rules.money import parse_amount
from challenge_rules.timestamps import from_datetime
from tests.engine.harness import (
    RunningEngine,
    answer_in_wire_form,
    make_terms,
    running_engine,
    sql,
    state_in_wire_form,
    status_change_in_wire_form,
)
from tests.rules.account import limits
from tests.rules.model import ModelChallenge, wire

T = TypeVar("T")

EXAMPLES = int(os.environ.get("MODEL_EXAMPLES", "25"))
STEPS = 30
RANDOM_TRADES = 3000
MICROSECOND = timedelta(microseconds=1)
UNIT = Fraction(1, 10**8)
START = datetime(2025, 3, 30, 23, 59, 59, 999_990, tzinfo=UTC)
SHAPES = (
    ("100000", "5", "10", "10"),
    ("0.01", "0.0001", "99.9999", "10000"),
    ("9999999999999999.99999999", "5", "10", "0.0001"),
    ("1234567890123456.78901234", "33.3333", "33.3334", "66.6667"),
    ("100.00000007", "7.7", "7.7", "0.01"),
)
PNLS = (
    "zero", "small", "-small", "daily", "daily+", "total", "total+", "target", "target-", "half", "crash", "huge",
)  # fmt: skip
MOMENTS = ("next", "later", "same", "before", "midnight", "next day", "years", "limit", "beyond")
KINDS = ("new", "new", "new", "new", "again", "changed", "dry", "dry again")


@dataclass(frozen=True)
class Step:
    """One trade to submit, in words; what they mean depends on where the challenge then stands."""

    challenge: int
    kind: str
    pnl: str
    moment: str
    expected: str
    amount: int


class World:
    """A service on a clock of its own, challenges beside their models, and what each answer must have been."""

    def __init__(self, engine: RunningEngine, now: list[datetime]) -> None:
        self.engine = engine
        self.now = now
        self.models: list[ModelChallenge] = []
        self.ids: list[str] = []
        self.accepted: list[dict[str, TradeSubmission]] = []
        self.recorded_at: dict[tuple[str, str], int] = {}
        self.counted = 0

    async def create(self, shape: tuple[str, str, str, str]) -> None:
        terms = make_terms(balance=shape[0], limits=limits(*shape[1:]), created_at=from_datetime(self.now[0]))
        await self.engine.trading.create_challenge(terms)
        self.ids.append(terms.challenge_id)
        self.models.append(ModelChallenge(*shape))
        self.accepted.append({})

    async def submit(self, steps: list[Step], *, unary: bool = False) -> None:
        """Send steps in one call, each meant as it is on the model that has seen those before it."""
        expected: list[tuple[dict[str, Any], int | None]] = []
        asked: list[TradeSubmission] = []
        for step in steps:
            one = self._meant(step)
            asked.append(one)
            expected.append(self._expected(step.challenge, one))
        if unary:
            answers: list[Answer] = [(await self.engine.batch(one))[0] for one in asked]
        else:
            answers = await self.engine.trading.submit_batch(asked)
        assert len(answers) == len(expected)
        for answer, (told, recorded_at), one in zip(answers, expected, asked, strict=True):
            assert answer_in_wire_form(answer) == told, one
            if isinstance(answer, Decision):
                assert answer.recorded_at == recorded_at, one

    def _meant(self, step: Step) -> TradeSubmission:
        model, accepted = self.models[step.challenge], self.accepted[step.challenge]
        challenge_id = self.ids[step.challenge]
        if step.kind in ("again", "changed", "dry again") and accepted:
            first = accepted[list(accepted)[step.amount % len(accepted)]].trade
            if step.kind == "changed":
                other = (first.realized_pnl + 1, first.executed_at + 1, first.symbol + "x")
                same = (first.realized_pnl, first.executed_at, first.symbol)
                pairs = enumerate(zip(same, other, strict=True))
                first = Trade(first.trade_id, *(pair[step.amount >> bit & 1] for bit, pair in pairs))
            return TradeSubmission(challenge_id, first, step.amount % 3 or None, step.kind == "dry again")
        at = self._moment(model, step)
        pnl = self._pnl(model, step, at)
        self.counted += 1
        expected_sequence = {"any": None, "right": model.last_sequence + 1, "wrong": model.last_sequence + 2}
        trade = Trade(f"t{self.counted}", parse_amount(pnl), from_datetime(at), "BTC" if step.amount % 2 else "")
        return TradeSubmission(challenge_id, trade, expected_sequence[step.expected], step.kind.startswith("dry"))

    def _moment(self, model: ModelChallenge, step: Step) -> datetime:
        last = model.last_executed_at or START - timedelta(days=3)
        midnight = last.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
        return {
            "next": last + MICROSECOND,
            "later": last + timedelta(seconds=step.amount % 5000),
            "same": last,
            "before": last - MICROSECOND,
            "midnight": midnight - MICROSECOND,
            "next day": midnight,
            "years": datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC) + timedelta(microseconds=step.amount % 3),
            "limit": self.now[0] + timedelta(seconds=5),
            "beyond": self.now[0] + timedelta(seconds=5) + MICROSECOND,
        }[step.moment]

    @staticmethod
    def _pnl(model: ModelChallenge, step: Step, at: datetime) -> str:
        if model.status in ("FAILED", "FUNDED"):
            return wire(step.amount * UNIT)
        probe = copy.copy(model)
        if at.date() != probe.trading_day:
            probe.daily_start_equity = probe.equity
        daily, total, target = (
            Fraction(probe.headroom(name)) for name in ("MAX_DAILY_DRAWDOWN", "MAX_TOTAL_DRAWDOWN", "PROFIT_TARGET")
        )
        meant = {
            "zero": Fraction(0),
            "small": step.amount * UNIT,
            "-small": -step.amount * UNIT,
            "daily": -daily,
            "daily+": -daily - UNIT,
            "total": -total,
            "total+": -total - UNIT,
            "target": target,
            "target-": target - UNIT,
            "half": (min(daily, target) * 10**8 // 2) * UNIT * (-1) ** step.amount,
            "crash": -probe.equity - 1,
            "huge": Fraction("9999999999999999.99999999"),
        }[step.pnl]
        return wire(max(Fraction("-9999999999999999.99999999"), min(Fraction("9999999999999999.99999999"), meant)))

    def _expected(self, index: int, one: TradeSubmission) -> tuple[dict[str, Any], int | None]:
        model = copy.deepcopy(self.models[index]) if one.validate_only else self.models[index]
        trade = one.trade
        told = model.submit(
            trade.trade_id,
            wire(Fraction(trade.realized_pnl, 10**8)),
            datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=trade.executed_at),
            trade.symbol,
            one.expected_sequence,
            now=self.now[0],
        )
        key = (one.challenge_id, trade.trade_id)
        if told["outcome"] == "rejection":
            return told, None
        if one.validate_only:
            return told, None
        if told["replayed"]:
            return told, self.recorded_at[key]
        self.accepted[index][trade.trade_id] = one
        self.recorded_at[key] = from_datetime(self.now[0])
        return told, self.recorded_at[key]

    async def compare_states(self) -> None:
        for challenge_id, model in zip(self.ids, self.models, strict=True):
            assert state_in_wire_form(await self.engine.state(challenge_id)) == model.snapshot()

    async def compare_everything(self) -> None:
        await self.compare_states()
        for challenge_id, model, accepted in zip(self.ids, self.models, self.accepted, strict=True):
            found = await sql(
                self.engine.url,
                f"SELECT {queries.EVENT_COLUMNS} FROM challenge_events e WHERE challenge_id = %s"
                " ORDER BY challenge_sequence",
                (challenge_id,),
            )
            stored = [rows.event_from_row(row) for row in found]
            assert [event.challenge_sequence for event in stored] == list(range(1, len(stored) + 1))
            assert [status_change_in_wire_form(event) for event in stored[1:]] == model.events
            assert [event for event in self.engine.emitted if event.challenge_id == challenge_id] == stored
            trades, token = await self.engine.reader.list_trades(
                challenge_id, first=1, last=0, limit=RANDOM_TRADES, page_token=""
            )
            assert token == ""
            assert [recorded.trade for recorded in trades] == [one.trade for one in accepted.values()]
            assert [recorded.decision.sequence for recorded in trades] == list(range(1, len(trades) + 1))
            for recorded in trades:
                trade = recorded.trade
                assert model.submit(
                    trade.trade_id,
                    wire(Fraction(trade.realized_pnl, 10**8)),
                    datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=trade.executed_at),
                    trade.symbol,
                ) == {**answer_in_wire_form(recorded.decision), "replayed": True}


class Loop:
    """One event loop and one service on it for all examples, whose challenges are their own."""

    def __init__(self, url: URL, max_group: int) -> None:
        self._runner = asyncio.Runner()
        self.now = [START]
        self._context = running_engine(url, clock=lambda: from_datetime(self.now[0]), max_group=max_group)
        self.engine = self.run(self._context.__aenter__())

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(coroutine)

    def close(self) -> None:
        self.run(self._context.__aexit__(None, None, None))
        self._runner.close()


@contextmanager
def looping(url: URL, max_group: int) -> Iterator[Loop]:
    loop = Loop(url, max_group)
    try:
        yield loop
    finally:
        loop.close()


steps = st.builds(
    Step,
    challenge=st.integers(0, 2),
    kind=st.sampled_from(KINDS),
    pnl=st.sampled_from(PNLS),
    moment=st.sampled_from(MOMENTS),
    expected=st.sampled_from(("any", "any", "any", "right", "wrong")),
    amount=st.integers(1, 10**10),
)


def machine(loop: Loop) -> type[RuleBasedStateMachine]:
    """The state machine, bound to a loop."""

    class ChallengesOnPostgres(RuleBasedStateMachine):
        @initialize(shapes=st.lists(st.sampled_from(SHAPES), min_size=3, max_size=3))
        def create(self, shapes):
            loop.now[0] = START
            loop.engine.emitted.clear()
            self.world = World(loop.engine, loop.now)
            for shape in shapes:
                loop.run(self.world.create(shape))

        @rule(step=steps)
        def submit(self, step):
            loop.run(self.world.submit([step], unary=True))

        @rule(batch=st.lists(steps, max_size=12))
        def submit_batch(self, batch):
            loop.run(self.world.submit(batch))

        @rule(seconds=st.sampled_from((-3600, 0.000001, 4, 86_400)))
        def turn_the_clock(self, seconds):
            loop.now[0] += timedelta(seconds=seconds)

        @precondition(lambda self: any(model.status in ("FAILED", "FUNDED") for model in self.world.models))
        @rule(shape=st.sampled_from(SHAPES))
        def replace_an_ended_challenge(self, shape):
            ended = next(n for n, model in enumerate(self.world.models) if model.status in ("FAILED", "FUNDED"))
            loop.run(self.world.compare_everything())
            for kept in (self.world.ids, self.world.models, self.world.accepted):
                del kept[ended]
            loop.run(self.world.create(shape))

        @rule()
        def look(self):
            loop.run(self.world.compare_states())

        def teardown(self):
            if hasattr(self, "world"):
                loop.run(self.world.compare_everything())

    return ChallengesOnPostgres


def test_whatever_is_submitted_the_service_answers_and_stores_what_the_model_says(database_url: URL):
    # Shrinking an example that fails would take minutes on a real database; its steps are shown as they are.
    without_shrinking = (Phase.explicit, Phase.reuse, Phase.generate)
    with looping(database_url, max_group=3) as loop:
        run_state_machine_as_test(
            machine(loop),
            settings=settings(
                max_examples=EXAMPLES, stateful_step_count=STEPS, deadline=None, phases=without_shrinking
            ),
        )


def test_three_thousand_trades_at_the_limits_are_decided_as_the_model_decides_them(database_url: URL):
    """In batches of up to 100 over ten challenges, replaced as they end; the same seed every time."""
    dice = random.Random(20250330)

    async def batches(world: World) -> None:
        sent = 0
        for _ in range(10):
            await world.create(dice.choice(SHAPES))
        live = list(range(10))
        while sent < RANDOM_TRADES:
            count = dice.randint(1, 100)
            await world.submit(
                [
                    Step(
                        challenge=dice.choice(live),
                        kind=dice.choice((*["new"] * 30, *KINDS)),
                        pnl=dice.choice(("zero", "small", "-small", "daily", "half", "half", "target-", *PNLS)),
                        moment=dice.choice((*["next"] * 10, "later", "next day", *MOMENTS)),
                        expected=dice.choice(("any", "any", "right", "right", "wrong")),
                        amount=dice.randint(1, 10**10),
                    )
                    for _ in range(count)
                ]
            )
            sent += count
            world.now[0] += timedelta(seconds=dice.randint(0, 100_000))
            for place, index in enumerate(live):
                if world.models[index].status in ("FAILED", "FUNDED"):
                    await world.create(dice.choice(SHAPES))
                    live[place] = len(world.models) - 1
        await world.compare_everything()
        accepted = sum(map(len, world.accepted))
        endings = {(model.status, model.status_reason) for model in world.models}
        assert accepted > 500
        assert {"MAX_DAILY_DRAWDOWN", "MAX_TOTAL_DRAWDOWN", "PROFIT_TARGET"} <= {reason for _, reason in endings}

    with looping(database_url, max_group=64) as loop:
        loop.run(batches(World(loop.engine, loop.now)))
