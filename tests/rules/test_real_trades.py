"""Two real accounts of the Hyperliquid exchange end where DESIGN's data sheet says they end."""

import csv
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path

import pytest

from tests.rules.account import Account
from tests.rules.model import ModelChallenge

FILLS = Path(__file__).parents[2] / "server" / "challenge_server" / "data" / "hyperliquid_fills.csv"
INDIA = timezone(timedelta(hours=5, minutes=30))
FUNDED_ACCOUNT = "0xae5eac"
FAILED_ACCOUNT = "0x083384"


def trades_of(account: str) -> list[tuple[str, str, datetime, str]]:
    """The account's trades as submissions: sorted by time, ties in file order spread by one microsecond."""
    with FILLS.open(newline="", encoding="utf-8") as file:
        fills = [row for row in csv.DictReader(file) if row["Account"].startswith(account)]
    timed = sorted(
        ((datetime.strptime(f["Timestamp IST"], "%d-%m-%Y %H:%M").replace(tzinfo=INDIA), f) for f in fills),
        key=lambda pair: pair[0],
    )
    trades = []
    last = None
    for number, (minute, fill) in enumerate(timed, start=1):
        last = minute if last is None or minute > last else last + timedelta(microseconds=1)
        pnl = Decimal(fill["Closed PnL"]) - Decimal(fill["Fee"])
        trades.append((f"fill-{number}", shortest(pnl), last, fill["Coin"]))
    return trades


def shortest(pnl: Decimal) -> str:
    """The P&L in wire form; a value that does not fit 8 decimals would be refused, so none is rounded here."""
    text = format(pnl, "f")
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text == "-0" else text


@pytest.mark.parametrize(
    ("account", "fills", "ending"),
    [
        (
            FUNDED_ACCOUNT,
            563,
            {"sequence": 118, "status": "FUNDED", "reason": "PROFIT_TARGET", "equity": "110128.83967839"},
        ),
        (
            FAILED_ACCOUNT,
            1400,
            {"sequence": 288, "status": "FAILED", "reason": "MAX_DAILY_DRAWDOWN", "equity": "94274.171867"},
        ),
    ],
    ids=["funded", "failed"],
)
@pytest.mark.parametrize("challenge", [Account, ModelChallenge])
def test_a_real_account_of_100000_ends_on_a_known_fill(challenge, account, fills, ending):
    trades = trades_of(account)
    assert len(trades) == fills
    decider = challenge("100000")
    answers = [decider.submit(*trade) for trade in trades]
    before, last, after = (
        answers[: ending["sequence"] - 1],
        answers[ending["sequence"] - 1],
        answers[ending["sequence"] :],
    )
    assert {answer["status"] for answer in before} == {"ACTIVE"}
    assert ending.items() <= {key: value for key, value in last.items() if key in ending}.items()
    assert {(answer["outcome"], answer["reason"]) for answer in after} == {("rejection", "CHALLENGE_TERMINAL")}


@pytest.mark.parametrize("account", [FUNDED_ACCOUNT, FAILED_ACCOUNT])
def test_engine_and_model_agree_on_every_real_fill(account):
    engine, model = Account("100000"), ModelChallenge("100000")
    for trade in trades_of(account):
        assert engine.submit(*trade) == model.submit(*trade)
    assert engine.snapshot() == model.snapshot()
    assert engine.events == model.events
