"""The demo runs the shipped real trades through the whole system."""

import io
import itertools
from datetime import UTC, timedelta
from decimal import Decimal

from rich.console import Console

from challenge_server.demo import run_demo
from challenge_server.fills import read_fills


def test_the_demo_ends_with_the_known_verdicts_and_prints_their_evidence():
    printed = io.StringIO()
    runs = {run.name: run for run in run_demo(Console(file=printed, width=120))}

    funded, failed = runs["0xae5eac…"], runs["0x083384…"]
    assert (funded.challenge.status, funded.deciding.sequence) == ("FUNDED", 118)
    assert funded.challenge.equity == Decimal("110128.83967839")
    assert (failed.challenge.status, failed.challenge.status_reason) == ("FAILED", "MAX_DAILY_DRAWDOWN")
    assert failed.deciding.sequence == 288
    text = printed.getvalue()
    assert "ACTIVE → FUNDED by PROFIT_TARGET, trade 118, equity 110128.83967839" in text
    assert "ACTIVE → FAILED by MAX_DAILY_DRAWDOWN, trade 288" in text
    assert text.count("Proved, and sealed as leaf") == 2
    assert "It is FAILED by MAX_DAILY_DRAWDOWN since trade 288" in text
    assert text.index("ACTIVE → FUNDED") < text.index("Verdicts, and the evidence")


def test_fills_are_in_strict_order_of_time_and_none_is_lost():
    accounts = read_fills()
    assert {account[:8]: len(fills) for account, fills in accounts.items()} == {"0xae5eac": 563, "0x083384": 1400}
    for fills in accounts.values():
        moments = [fill.executed_at for fill in fills]
        assert all(before < after for before, after in itertools.pairwise(moments))
        assert [fill.number for fill in fills] == list(range(1, len(fills) + 1))


def test_fills_of_one_minute_keep_the_order_of_the_file_one_microsecond_apart():
    first, second, *_ = next(fills for account, fills in read_fills().items() if account.startswith("0xae5eac"))
    assert first.executed_at.astimezone(UTC).isoformat() == "2024-12-02T17:20:00+00:00"
    assert second.executed_at - first.executed_at == timedelta(microseconds=1)
    assert (first.realized_pnl, second.realized_pnl) == (Decimal("-0.34540448"), Decimal("-0.00560000"))
