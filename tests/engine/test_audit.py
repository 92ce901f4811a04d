"""The queries that every auditor pastes, as they are pasted, and what they must show."""

import random
from decimal import Decimal
from itertools import pairwise

import pytest
from psycopg.rows import dict_row

from challenge_rules.money import format_amount
from tests.engine.harness import DAY, SECOND, RunningEngine, sql_session, submission


async def paste(engine: RunningEngine, query: str) -> list[dict]:
    async with sql_session(engine.url) as connection:
        cursor = connection.cursor(row_factory=dict_row)
        await cursor.execute(query)
        return await cursor.fetchall()


@pytest.fixture
async def audited(engine: RunningEngine) -> str:
    """A challenge of sixty trades over a month, beside another; it ends FUNDED and never met its floor."""
    dice = random.Random(7)
    audited, other = await engine.create("100000.00000001"), await engine.create()
    batch = [
        submission(each, f"t{number}", format_amount(dice.randint(-(10**10), 15 * 10**9)), number * 43_200)
        for number in range(60)
        for each in (audited, other)
    ]
    await engine.batch(*batch, submission(audited, "last", "30000", 60 * 43_200))
    return audited


async def test_the_status_changes_of_a_challenge_are_one_query(engine: RunningEngine, audited: str):
    found = await paste(
        engine,
        f"SELECT * FROM challenge_events WHERE challenge_id = '{audited}'"
        " AND event_type = 'CHALLENGE_STATUS_CHANGED' ORDER BY occurred_at",
    )
    assert [(row["old_status"], row["new_status"], row["reason"]) for row in found] == [
        ("PENDING", "ACTIVE", None),
        ("ACTIVE", "FUNDED", "PROFIT_TARGET"),
    ]
    assert [row["trade_id"] for row in found] == ["t0", "last"]
    executed = await paste(engine, f"SELECT * FROM trades WHERE challenge_id = '{audited}' ORDER BY executed_at")
    assert [row["occurred_at"] for row in found] == [executed[0]["executed_at"], executed[-1]["executed_at"]]
    evidence = found[-1]["evaluations"]
    assert [(row["rule"], row["triggered"]) for row in evidence] == [
        ("MAX_DAILY_DRAWDOWN", False),
        ("MAX_TOTAL_DRAWDOWN", False),
        ("PROFIT_TARGET", True),
    ]


async def test_the_trades_of_a_challenge_are_one_query_in_the_order_of_their_sequence(
    engine: RunningEngine, audited: str
):
    found = await paste(engine, f"SELECT * FROM trades WHERE challenge_id = '{audited}' ORDER BY executed_at")
    assert [row["sequence"] for row in found] == list(range(1, 62))
    assert [row["trade_id"] for row in found] == [*(f"t{number}" for number in range(60)), "last"]
    gaps = {int((b["executed_at"] - a["executed_at"]).total_seconds()) for a, b in pairwise(found)}
    assert gaps == {DAY // SECOND // 2}


async def test_the_running_sum_an_auditor_computes_is_the_equity_that_was_stored(engine: RunningEngine, audited: str):
    """As long as no floor was hit, equity is the initial balance and every P&L so far; to the last of eight digits."""
    sums = await paste(
        engine,
        "SELECT executed_at, realized_pnl, SUM(realized_pnl) OVER (ORDER BY executed_at) + initial_balance"
        f" FROM trades WHERE challenge_id = '{audited}'",
    )
    stored = await paste(engine, f"SELECT equity FROM trades WHERE challenge_id = '{audited}' ORDER BY executed_at")
    assert [row["?column?"] for row in sums] == [row["equity"] for row in stored]
    state = await engine.state(audited)
    assert sums[-1]["?column?"] == Decimal(format_amount(state.equity))
