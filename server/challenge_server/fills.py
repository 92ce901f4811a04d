"""The shipped file of real fills, read as trades: two accounts of the Hyperliquid exchange, public on-chain facts."""

import csv
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from importlib import resources

INDIA = timezone(timedelta(hours=5, minutes=30), "IST")
TIE = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Fill:
    """One fill as a trade; `number` counts an account's fills in the order of time, from 1."""

    number: int
    trade_id: str
    realized_pnl: Decimal
    executed_at: datetime
    symbol: str


def read_fills() -> dict[str, list[Fill]]:
    """The fills of each account in the order of time.

    A fill's realized P&L is its closed P&L minus its fee. The file gives minutes of India time; fills that share a
    minute keep the order of the file, each one microsecond after the other.
    """
    with (resources.files("challenge_server") / "data" / "hyperliquid_fills.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    fills: dict[str, list[Fill]] = {}
    last: dict[str, datetime] = {}
    for executed_at, row in sorted(((_moment(row), row) for row in rows), key=lambda pair: pair[0]):
        account = row["Account"]
        known = fills.setdefault(account, [])
        moment = executed_at
        if known and moment <= last[account]:
            moment = last[account] + TIE
        last[account] = moment
        pnl = Decimal(row["Closed PnL"]) - Decimal(row["Fee"])
        number = len(known) + 1
        known.append(Fill(number, f"fill-{number}", pnl, moment, row["Coin"]))
    return fills


def _moment(row: dict[str, str]) -> datetime:
    return datetime.strptime(row["Timestamp IST"], "%d-%m-%Y %H:%M").replace(tzinfo=INDIA)
