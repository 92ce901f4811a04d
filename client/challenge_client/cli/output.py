"""What is printed: tables and colours for people, JSON for programs."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, is_dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from challenge_client.enums import ChallengeStatus, Rule
from challenge_client.values import Challenge, ChallengeEvent, RecordedTrade, RuleEvaluation

COLOURS = {
    ChallengeStatus.PENDING: "dim",
    ChallengeStatus.ACTIVE: "cyan",
    ChallengeStatus.FUNDED: "bold green",
    ChallengeStatus.FAILED: "bold red",
}
BARS = " ▁▂▃▄▅▆▇█"
METER_CELLS = 12
WIDE = 120
"""Columns of a terminal with room for more."""
DRAWDOWN_COLOURS = ((Decimal("0.8"), "red"), (Decimal("0.5"), "yellow"), (Decimal(0), "cyan"))
"""From so much of a limit on."""


def plain(value: Any) -> Any:
    """A value of the SDK as JSON knows it: amounts as text, moments in ISO 8601."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def print_json(value: Any) -> None:
    """One value as one line of JSON."""
    typer.echo(json.dumps(plain(value), ensure_ascii=False))


def labels(challenge: Challenge) -> str:
    """The labels of a challenge, by key."""
    return ", ".join(f"{key}={value}" for key, value in sorted(challenge.labels.items()))


def literal(value: str | Text) -> Text:
    """What others have named, such as labels, is shown as it is: brackets in it are no markup."""
    return value if isinstance(value, Text) else Text(value)


def coloured(status: ChallengeStatus) -> Text:
    """A status in its colour."""
    return Text(str(status), style=COLOURS.get(status, ""))


def number(value: Decimal, places: int | None = None) -> str:
    """An amount with thousands separators: all its digits, or rounded to so many places for people."""
    return f"{value:,f}" if places is None else f"{value:,.{places}f}"


def moment(value: datetime | None) -> str:
    """A moment in UTC."""
    return "" if value is None else value.isoformat(sep=" ").replace("+00:00", " UTC")


def day(value: datetime | None) -> str:
    """The day of a moment in UTC."""
    return "" if value is None else f"{value:%Y-%m-%d}"


def sparkline(values: Iterable[Decimal]) -> str:
    """The course of some values in one line of text."""
    points = list(values)
    if not points:
        return ""
    low, high = min(points), max(points)
    if low == high:
        return BARS[4] * len(points)
    return "".join(BARS[1 + int((value - low) / (high - low) * 7)] for value in points)


def meter(evaluation: RuleEvaluation) -> Text:
    """How much of a limit, or of the way to the target, is used up."""
    used = max(Decimal(0), min(Decimal(1), evaluation.observed_pct / evaluation.limit_pct))
    cells = int(used * METER_CELLS)
    if evaluation.rule is Rule.PROFIT_TARGET:
        colour = "green"
    else:
        colour = next(colour for least, colour in DRAWDOWN_COLOURS if used >= least)
    text = Text()
    text.append("━" * cells, style=colour)
    text.append("━" * (METER_CELLS - cells), style="grey30")
    text.append(f" {float(evaluation.observed_pct):6.2f} of {evaluation.limit_pct.normalize():f} %")
    return text


def print_challenge(console: Console, challenge: Challenge) -> None:
    """A challenge with its evidence."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    rows: list[tuple[str, Any]] = [
        ("challenge", challenge.challenge_id),
        ("status", coloured(challenge.status)),
        ("reason", str(challenge.status_reason or "")),
        ("initial balance", f"{number(challenge.initial_balance)} {challenge.currency_code}"),
        ("equity", number(challenge.equity)),
        ("peak equity", number(challenge.peak_equity)),
        ("equity at the day's start", number(challenge.daily_start_equity)),
        ("trades", f"{challenge.last_sequence:,}"),
        ("last trade", moment(challenge.last_executed_at)),
        ("closed", moment(challenge.closed_at)),
        ("labels", labels(challenge)),
    ]
    for name, value in rows:
        if value:
            table.add_row(name, literal(value))
    for evaluation in challenge.evaluations:
        table.add_row(str(evaluation.rule).lower().replace("_", " "), evidence(evaluation))
    console.print(table)


def evidence(evaluation: RuleEvaluation, *, short: bool = False) -> Text:
    """The evidence of one rule: in one line with a meter, or in two short ones."""
    if short:
        text = Text(f"{evaluation.observed_pct:f} % (limit {evaluation.limit_pct.normalize():f} %)\n")
    else:
        text = meter(evaluation).append("  ")
    if evaluation.triggered:
        return text.append("triggered", style="bold")
    return text.append(f"headroom {number(evaluation.headroom)}", style="dim")


def table_of(
    columns: Mapping[str, Callable[[Any], Any]],
    items: Iterable[Any],
    *,
    right: Iterable[str] = (),
    folded: Iterable[str] = (),
) -> Table:
    """A table with a column for each function. Where it is too wide, `folded` columns give way."""
    table = Table(header_style="dim", box=None, pad_edge=False)
    for name in columns:
        table.add_column(
            name, justify="right" if name in right else "left", overflow="fold", no_wrap=name not in folded
        )
    for item in items:
        table.add_row(*(literal(read(item)) for read in columns.values()))
    return table


def challenges_table(challenges: Iterable[Challenge], width: int) -> Table:
    """One line for each challenge; with peak equity and labels where there is room."""
    columns: dict[str, Callable[[Challenge], Any]] = {
        "challenge": lambda c: c.challenge_id,
        "status": lambda c: coloured(c.status),
        "equity": lambda c: number(c.equity, 2),
        "trades": lambda c: str(c.last_sequence),
        "last trade": lambda c: day(c.last_executed_at),
    }
    if width >= WIDE:
        columns["peak equity"] = lambda c: number(c.peak_equity, 2)
        columns["labels"] = labels
    return table_of(columns, challenges, right=("equity", "trades", "peak equity"), folded=("labels",))


def trades_table(trades: Iterable[RecordedTrade], width: int) -> Table:
    """One line for each trade; with its id where there is room."""
    columns: dict[str, Callable[[RecordedTrade], Any]] = {
        "#": lambda r: str(r.decision.sequence),
        "executed (UTC)": lambda r: f"{r.trade.executed_at:%Y-%m-%d %H:%M:%S.%f}",
        "symbol": lambda r: r.trade.symbol,
        "P&L": lambda r: Text(number(r.trade.realized_pnl), style="red" if r.trade.realized_pnl < 0 else "green"),
        "equity": lambda r: number(r.decision.equity, 2),
        "status": lambda r: coloured(r.decision.status),
    }
    if width >= WIDE:
        columns["reason"] = lambda r: str(r.decision.reason or "")
        columns["trade"] = lambda r: r.trade.trade_id
    return table_of(columns, trades, right=("#", "P&L", "equity"), folded=("trade",))


def event_line(event: ChallengeEvent) -> Text:
    """One line for an event."""
    text = Text(f"{event.position:>8}  {moment(event.occurred_at)}  {event.challenge_id}  ")
    if event.old_status is None:
        return text.append("created", style="dim").append(f" with {number(event.equity)}")
    text.append_text(coloured(event.old_status)).append(" → ").append_text(coloured(event.new_status))
    text.append(f"  trade {event.trade_sequence}, equity {number(event.equity)}")
    return text.append(f", {event.reason}", style="bold") if event.reason else text
