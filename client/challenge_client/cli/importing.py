"""Sends the trades of a file to the service, and reports what became of every row."""

import json
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from itertools import zip_longest
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from challenge_client.cli.output import coloured, evidence, number
from challenge_client.cli.statements import File, RefusedRow, Statement
from challenge_client.client import ChallengeClient
from challenge_client.enums import Rule
from challenge_client.errors import (
    ChallengeError,
    ChallengeTerminalError,
    DatabaseUnavailableError,
    TransportError,
)
from challenge_client.retries import is_undecided
from challenge_client.values import Challenge, Decision, Limits, TradeSubmission

IMPORTS = uuid.UUID("6f1b3e5c-0a52-4b7e-9a3d-5f2c8f0d7e11")
"""The namespace of the ids of imported challenges."""
CHUNK_SIZE = 200
MAX_SHOWN_ROWS = 20


@dataclass(frozen=True, slots=True)
class Terms:
    """What the challenges of an import are made with."""

    initial_balance: Decimal
    limits: Limits
    currency_code: str
    series: str
    """Tells imports of the same accounts apart, which would else be the same challenges."""


@dataclass(slots=True)
class Imported:
    """What became of one account."""

    statement: Statement
    challenge: Challenge
    accepted: int = 0
    replayed: int = 0
    terminal: int = 0
    undecided: int = 0
    """Rows without a decision, because the server was away or in trouble."""
    worst_day: date | None = None
    worst_day_pct: Decimal = Decimal(0)
    refused: list[RefusedRow] = field(default_factory=list)

    def take(self, outcome: Decision | ChallengeError, line: int) -> None:
        """Note what became of a row."""
        if isinstance(outcome, ChallengeError):
            self.terminal += isinstance(outcome, ChallengeTerminalError)
            self.undecided += is_undecided(outcome)
            # The fields of the file's row, not of the call that it travelled in.
            named = [f"{bad.field.rpartition('.')[2]}: {bad.description}" for bad in outcome.field_violations]
            self.refused.append(RefusedRow(line, str(outcome.reason), "; ".join(named) or outcome.message))
            return
        self.replayed += outcome.replayed
        self.accepted += not outcome.replayed
        daily = next(e.observed_pct for e in outcome.evaluations if e.rule is Rule.MAX_DAILY_DRAWDOWN)
        if self.worst_day is None or daily > self.worst_day_pct:
            self.worst_day, self.worst_day_pct = outcome.executed_at.date(), daily


@dataclass(slots=True)
class Report:
    """What became of a file."""

    file: File
    accounts: list[Imported]

    @property
    def refused(self) -> list[RefusedRow]:
        """Every row that was not accepted, by line."""
        rows = [*self.file.refused, *(row for account in self.accounts for row in account.refused)]
        return sorted(rows, key=lambda row: row.line)

    @property
    def undecided(self) -> int:
        """How many rows have no decision yet; the same import again gives it."""
        return sum(account.undecided for account in self.accounts)

    @property
    def faults(self) -> list[RefusedRow]:
        """Those that were refused for another reason than that the challenge had ended before."""
        return [row for row in self.refused if row.reason != "CHALLENGE_TERMINAL"]


def challenge_id_of(account: str, terms: Terms) -> str:
    """The id of the challenge of an account: the same for the same account, terms and series, so a second import finds
    the first one's."""
    limits = terms.limits
    named = [
        account, format(terms.initial_balance, "f"), terms.currency_code, terms.series,
        *(format(limit.normalize(), "f") for limit in (
            limits.max_daily_drawdown_pct, limits.max_total_drawdown_pct, limits.profit_target_pct
        )),
    ]  # fmt: skip
    return str(uuid.uuid5(IMPORTS, json.dumps(named)))


def send(
    client: ChallengeClient, file: File, terms: Terms, challenge_id: str | None, progress: Callable[[int], object]
) -> Report:
    """Make the challenges, unless one is given that takes all, and send every trade."""
    accounts: dict[str, Imported] = {}
    for statement in file.statements:
        if challenge_id is not None:
            challenge = client.get_challenge(challenge_id)
        else:
            challenge = client.create_challenge(
                challenge_id=challenge_id_of(statement.account, terms),
                initial_balance=terms.initial_balance,
                limits=terms.limits,
                currency_code=terms.currency_code,
                labels={"account": statement.account} if statement.account else {},
            )
        accounts[challenge.challenge_id] = Imported(statement, challenge)
    lines = {
        (ident, trade_id): iter(rows)
        for ident, imported in accounts.items()
        for trade_id, rows in imported.statement.lines.items()
    }
    for outcome in client.submit_trades(_in_turns(accounts), chunk_size=CHUNK_SIZE):
        if isinstance(outcome, ChallengeError):
            ident, trade_id = outcome.request.challenge_id, outcome.request.trade.trade_id
        else:
            ident, trade_id = outcome.challenge_id, outcome.trade_id
        accounts[ident].take(outcome, next(lines[ident, trade_id]))
        progress(1)
    for ident, imported in accounts.items():
        # When the server is away by now, what is known already is worth telling.
        with suppress(TransportError, DatabaseUnavailableError):
            imported.challenge = client.get_challenge(ident)
    return Report(file, list(accounts.values()))


def _in_turns(accounts: dict[str, Imported]) -> Iterator[TradeSubmission]:
    """The trades of all accounts, mixed, so that several calls can be under way."""
    queues = [
        [TradeSubmission(ident, trade) for trade in imported.statement.trades] for ident, imported in accounts.items()
    ]
    for turn in zip_longest(*queues):
        yield from (submission for submission in turn if submission is not None)


def print_report(console: Console, report: Report, *, title: str) -> None:
    """A table with a column for each account, and the rows that were refused."""
    if report.accounts:
        console.print(_table(report.accounts, title))
    if report.file.skipped:
        console.print(f"{report.file.skipped} rows are no trades (deposits and the like)", style="dim")
    after_the_end = sum(account.terminal for account in report.accounts)
    if after_the_end:
        console.print(
            f"{after_the_end} rows came after their challenge had ended (CHALLENGE_TERMINAL) and changed nothing",
            style="dim",
        )
    if report.undecided:
        console.print(
            Text(f"{report.undecided} rows have no decision yet: run the same import again", style="bold yellow")
        )
    faults = report.faults
    if faults:
        reasons = ", ".join(f"{count} × {reason}" for reason, count in Counter(row.reason for row in faults).items())
        console.print(Text(f"{len(faults)} rows were refused: {reasons}", style="bold red"))
        for row in faults[:MAX_SHOWN_ROWS]:
            console.print(Text(f"  line {row.line}: {row.message}"), soft_wrap=True)
        if report.accounts:
            console.print(
                "Trades that lie before what was accepted cannot be added later: mend the file and import it as another"
                " --series, and look at --dry-run first.",
                style="dim",
            )
        if len(faults) > MAX_SHOWN_ROWS:
            console.print(f"  … and {len(faults) - MAX_SHOWN_ROWS} more; --report FILE writes all of them")


def report_as_json(report: Report) -> dict[str, Any]:
    """The report for programs."""
    return {
        "rows": report.file.rows,
        "skipped": report.file.skipped,
        "undecided": report.undecided,
        "accounts": [
            {
                "account": account.statement.account,
                "rows": len(account.statement.trades),
                "accepted": account.accepted,
                "replayed": account.replayed,
                "after_the_end": account.terminal,
                "worst_day": account.worst_day,
                "worst_day_pct": account.worst_day_pct,
                "challenge": account.challenge,
            }
            for account in report.accounts
        ],
        "refused": report.refused,
    }


def _table(accounts: Sequence[Imported], title: str) -> Table:
    table = Table(title=Text(title), title_justify="left", title_style="bold")
    table.add_column("account", style="dim")
    for account in accounts:
        table.add_column(Text(_short(account.statement.account)))
    rows: list[tuple[str, Callable[[Imported], Any]]] = [
        ("challenge", lambda a: a.challenge.challenge_id),
        ("trades", lambda a: f"{a.challenge.last_sequence} of {len(a.statement.trades)} rows"),
        ("new, replayed", lambda a: f"{a.accepted}, {a.replayed}"),
        ("status", lambda a: coloured(a.challenge.status)),
        ("reason", lambda a: str(a.challenge.status_reason or "")),
        ("equity", lambda a: f"{number(a.challenge.equity)} {a.challenge.currency_code}"),
        ("peak equity", lambda a: f"{number(a.challenge.peak_equity)} {a.challenge.currency_code}"),
        ("worst day's drawdown", lambda a: "" if a.worst_day is None else f"{a.worst_day}: {a.worst_day_pct:f} %"),
    ]
    for name, cell in rows:
        table.add_row(name, *map(cell, accounts))
    table.add_section()
    for place, rule in enumerate(Rule):
        cells = [
            evidence(a.challenge.evaluations[place], short=True) if a.challenge.evaluations else "" for a in accounts
        ]
        table.add_row(str(rule).lower().replace("_", " "), *cells)
    return table


def _short(account: str) -> str:
    return account if len(account) <= 16 else f"{account[:8]}…"
