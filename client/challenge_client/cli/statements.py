"""Reads account histories in CSV: rows become trades, and rows that cannot are named with their line. No network."""

import csv
import hashlib
import io
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from decimal import Context, Decimal, Inexact, InvalidOperation
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from challenge_client.cli.outcomes import UsageError
from challenge_client.ties import spread_ties
from challenge_client.values import Trade

DELIMITERS = ",;\t|"
BYTE_ORDER_MARKS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16", b"\xef\xbb\xbf": "utf-8-sig"}
TRADE_ID_DIGITS = 24
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]{1,2})?", re.ASCII)
_OFFSET = re.compile(r"([+-])([0-9]{2}):([0-9]{2})", re.ASCII)
_GROUPED = re.compile(r"([+-]?)([0-9]{1,3}(?:[ \u00a0\u202f'][0-9]{3})+)(\.[0-9]+)?")
_GROUPED_WITH_COMMA = re.compile(r"([+-]?)([0-9]{1,3}(?:[. \u00a0\u202f'][0-9]{3})+|[0-9]+)(?:,([0-9]+))?")
"""Thousands apart; whatever else stands between digits is refused rather than taken away."""
EXACT = Context(prec=100, traps=[Inexact, InvalidOperation])
"""Sums of amounts are never rounded."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns of a file mean what. A trade's realized P&L is `pnl` plus `added` minus `costs`."""

    time: str = ""
    pnl: str = ""
    added: tuple[str, ...] = ()
    costs: tuple[str, ...] = ()
    symbol: str = ""
    account: str = ""
    trade_id: str = ""
    time_format: str = ""
    """As `strptime` takes it; empty means ISO 8601."""
    zone: str = "UTC"
    """Of times that name none: an IANA name such as Europe/Berlin, or an offset such as +05:30."""
    decimal_comma: bool = False
    skipped: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Rows with one of these values, in any case, are no trades."""

    @property
    def amounts(self) -> tuple[tuple[str, int], ...]:
        """The columns that make the P&L, each with its sign."""
        return ((self.pnl, 1), *((name, 1) for name in self.added), *((name, -1) for name in self.costs))

    @property
    def needed(self) -> tuple[str, ...]:
        """Every column that must be there."""
        names = (self.time, *(name for name, _ in self.amounts), self.symbol, self.account, self.trade_id)
        return tuple(name for name in (*names, *self.skipped) if name)


METATRADER_TIME = "%Y.%m.%d %H:%M:%S"
NO_TRADES = ("balance", "credit", "deposit", "withdrawal")
PRESETS: dict[str, Columns] = {
    "hyperliquid": Columns(
        time="Timestamp IST", pnl="Closed PnL", costs=("Fee",), symbol="Coin", account="Account",
        time_format="%d-%m-%Y %H:%M", zone="+05:30",
    ),
    "metatrader4": Columns(
        time="Close Time", pnl="Profit", added=("Commission", "Taxes", "Swap"), symbol="Item", trade_id="Ticket",
        time_format=METATRADER_TIME, skipped={"Type": (*NO_TRADES, "buy limit", "sell limit", "buy stop", "sell stop")},
    ),
    "metatrader5": Columns(
        time="Time", pnl="Profit", added=("Commission", "Fee", "Swap"), symbol="Symbol", trade_id="Deal",
        time_format=METATRADER_TIME, skipped={"Type": NO_TRADES},
    ),
    "metatrader5-positions": Columns(
        time="Time (2)", pnl="Profit", added=("Commission", "Swap"), symbol="Symbol", trade_id="Position",
        time_format=METATRADER_TIME, skipped={"Type": NO_TRADES},
    ),
}  # fmt: skip
"""Kinds of files that need no further word. MetaTrader's are the history's tables "Orders" (4), "Deals" and "Positions"
(5), saved as CSV; there, costs are negative amounts. Their times are the broker's: name its zone."""


@dataclass(frozen=True, slots=True)
class RefusedRow:
    """A row that is no trade, and why."""

    line: int
    reason: str
    message: str


@dataclass(slots=True)
class Statement:
    """The trades of one account in the order of time, and the line of each."""

    account: str
    trades: list[Trade]
    lines: dict[str, list[int]]
    """By trade_id; a file may have an id twice."""


@dataclass(slots=True)
class File:
    """What a file holds."""

    statements: list[Statement]
    refused: list[RefusedRow]
    rows: int
    skipped: int


def read_file(path: Path, columns: Columns, default_account: str, only: str | None = None) -> File:
    """Read a file, or one account of it. `UsageError` when it is not one of the kind; bad rows are in `refused`.

    A file whose times only go back is read from its end: it is one with the newest first.
    """
    header, rows = _rows_of(path)
    missing = [name for name in dict.fromkeys(columns.needed) if name not in header]
    if missing:
        raise UsageError(
            f"{path.name} has no column {', '.join(map(repr, missing))}; its columns are {', '.join(map(repr, header))}"
        )
    if not columns.time or not columns.pnl:
        raise UsageError(f"name the columns of time and P&L (--time, --pnl) or a preset (--preset {'|'.join(PRESETS)})")
    zone = _zone(columns.zone)
    file = File([], [], 0, 0)
    found: dict[str, list[tuple[int, Trade]]] = {}
    occurrences: Counter[tuple[str, str]] = Counter()
    accounts: set[str] = set()
    for line, cells in rows:
        file.rows += 1
        if len(cells) != len(header):
            message = f"has {len(cells)} cells where the header has {len(header)}"
            file.refused.append(RefusedRow(line, "BAD_ROW", message))
            continue
        row = dict(zip(header, cells, strict=True))
        if any(row[name].strip().lower() in values for name, values in columns.skipped.items()):
            file.skipped += 1
            continue
        account = row[columns.account].strip() if columns.account else default_account
        accounts.add(account)
        if only not in (None, account):
            continue
        # Counted before the row is judged, so that a row has the same id when another one is mended.
        content = hashlib.sha256("\x1f".join(cells).encode()).hexdigest()[:TRADE_ID_DIGITS]
        occurrences[account, content] += 1
        trade_id = row[columns.trade_id].strip() if columns.trade_id else f"{content}-{occurrences[account, content]}"
        try:
            trade = _trade(row, columns, trade_id, zone)
        except ValueError as error:
            file.refused.append(RefusedRow(line, "BAD_ROW", str(error)))
        else:
            found.setdefault(account, []).append((line, trade))
    if only is not None and only not in accounts:
        raise UsageError(f"{path.name} has no account {only!r}; it has {', '.join(map(repr, sorted(accounts)))}")
    file.statements = [_statement(account, numbered) for account, numbered in found.items()]
    return file


def _statement(account: str, numbered: list[tuple[int, Trade]]) -> Statement:
    """The trades of one account, each with its line, as they were found."""
    moments = [trade.executed_at for _, trade in numbered]
    if moments[0] > moments[-1] and moments == sorted(moments, reverse=True):
        numbered.reverse()
    lines: dict[str, list[int]] = {}
    # `spread_ties` sorts in the same, stable way.
    for line, trade in sorted(numbered, key=lambda pair: pair[1].executed_at):
        lines.setdefault(trade.trade_id, []).append(line)
    return Statement(account, spread_ties(trade for _, trade in numbered), lines)


def overridden(preset: str | None, **given: object) -> Columns:
    """A preset, or nothing, with what the caller named put over it."""
    if preset is not None and preset not in PRESETS:
        raise UsageError(f"--preset must be one of {', '.join(PRESETS)}; got {preset!r}")
    base = PRESETS[preset] if preset is not None else Columns()
    changes = {name: value for name, value in given.items() if value not in (None, (), "")}
    return replace(base, **changes)  # type: ignore[arg-type]  # the names are those of the options


def _rows_of(path: Path) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """The header, and every row that is not empty with the line it begins on."""
    try:
        raw = path.read_bytes()
        text = raw.decode(BYTE_ORDER_MARKS.get(raw[:2]) or BYTE_ORDER_MARKS.get(raw[:3]) or "utf-8")
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path.name} is not UTF-8 (byte {error.start}); save it as UTF-8 or UTF-16") from None
    if not text.strip():
        raise UsageError(f"{path.name} is empty")
    delimiter = max(DELIMITERS, key=text.partition("\n")[0].count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)

    def rows() -> Iterator[tuple[int, list[str]]]:
        line = reader.line_num + 1
        try:
            for cells in reader:
                if any(cell.strip() for cell in cells):
                    yield line, cells
                line = reader.line_num + 1
        except csv.Error as error:
            raise UsageError(f"{path.name} is not well-formed CSV from line {line} on: {error}") from None

    header = _distinct([name.strip() for name in next(rows())[1]])

    return header, rows()


def _distinct(names: Sequence[str]) -> list[str]:
    """Names of columns; the second "Time" becomes "Time (2)"."""
    seen: Counter[str] = Counter()
    distinct = []
    for name in names:
        seen[name] += 1
        distinct.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return distinct


def _trade(row: Mapping[str, str], columns: Columns, trade_id: str, zone: tzinfo) -> Trade:
    pnl = Decimal(0)
    for name, sign in columns.amounts:
        # Costs that are left empty are none; a trade without a P&L is none.
        text = row[name] if name == columns.pnl else row[name].strip() or "0"
        amount = _number(text, name, columns.decimal_comma)
        pnl = EXACT.add(pnl, amount) if sign > 0 else EXACT.subtract(pnl, amount)
    symbol = row[columns.symbol].strip() if columns.symbol else ""
    return Trade(trade_id, pnl, _moment(row[columns.time], columns, zone), symbol)


def _number(text: str, name: str, decimal_comma: bool) -> Decimal:
    plain = text.strip()
    if decimal_comma and (match := _GROUPED_WITH_COMMA.fullmatch(plain)):
        return Decimal(match[1] + re.sub("[^0-9]", "", match[2]) + (f".{match[3]}" if match[3] else ""))
    if not decimal_comma and (match := _GROUPED.fullmatch(plain)):
        return Decimal(match[1] + re.sub("[^0-9]", "", match[2]) + (match[3] or ""))
    if decimal_comma or _NUMBER.fullmatch(plain) is None:
        example = "-1.234,56" if decimal_comma else "-12.5"
        raise ValueError(f"{name} must be a number such as {example}, got {text!r}")
    return Decimal(plain)


def _moment(text: str, columns: Columns, zone: tzinfo) -> datetime:
    plain = text.strip()
    try:
        form = columns.time_format
        moment = datetime.strptime(plain, form) if form else datetime.fromisoformat(plain)  # noqa: DTZ007 -- see below
    except ValueError:
        wanted = f"of the form {columns.time_format}" if columns.time_format else "in ISO 8601"
        raise ValueError(f"{columns.time} must be a time {wanted}, got {text!r}") from None
    if moment.utcoffset() is not None:
        return moment
    moment = moment.replace(tzinfo=zone)
    if moment.astimezone(UTC).astimezone(zone).replace(tzinfo=None) != moment.replace(tzinfo=None):
        raise ValueError(f"{columns.time} must be a time that exists in {columns.zone}, where clocks skipped {text!r}")
    return moment


def _zone(name: str) -> tzinfo:
    if name.upper() in {"UTC", "Z"}:
        return UTC
    if match := _OFFSET.fullmatch(name):
        offset = timedelta(hours=int(match[2]), minutes=int(match[3]))
        return timezone(-offset if match[1] == "-" else offset)
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise UsageError(f"--zone must be an IANA name such as Europe/Berlin, or +05:30; got {name!r}") from None
