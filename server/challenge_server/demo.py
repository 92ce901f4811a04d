"""The demo: two real trading accounts run as challenges, through SDK and gRPC, on a database that is thrown away."""

import asyncio
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from sqlalchemy.engine import URL

from challenge_client import (
    AsyncChallengeClient,
    Challenge,
    ChallengeStatus,
    Decision,
    EventMessage,
    Rule,
    RuleEvaluation,
)
from challenge_engine.keys import SealKey, load_key, verify_signature
from challenge_engine.proving import prove
from challenge_rules.proof import Proved, check_proof, encode_proof, explain
from challenge_server.application import Application, ready_database, run, with_seal_keys
from challenge_server.fills import Fill, read_fills
from challenge_server.settings import Address, DatabaseSettings, ServeSettings

INITIAL_BALANCE = Decimal(100_000)
COLOURS = {ChallengeStatus.FUNDED: "bold green", ChallengeStatus.FAILED: "bold red", ChallengeStatus.ACTIVE: "cyan"}


@dataclass(slots=True)
class Run:
    """How one account fared."""

    account: str
    fills: int
    challenge: Challenge
    deciding: Decision
    worst_day: date
    worst_day_pct: Decimal

    @property
    def name(self) -> str:
        """The account's address, shortened."""
        return f"{self.account[:8]}…"


def run_demo(console: Console | None = None) -> list[Run]:
    """Start everything in a temporary directory, run both accounts, print what happens and a closing table."""
    console = console or Console()
    with tempfile.TemporaryDirectory(prefix="challenge-demo-") as directory:
        console.print(f"Starting PostgreSQL and the server in [bold]{directory}[/]")
        settings = ServeSettings(Address("127.0.0.1", 0))
        database = DatabaseSettings(data_dir=Path(directory) / "data")
        with ready_database(database, lambda message: console.print(f"  {message}", style="dim")) as url:
            settings = with_seal_keys(settings, database, url, no_seal=False)
            runs = run(_serve_and_send(console, url, settings))
            key = load_key(Path(settings.seal_keys[0]))
            proved = [_prove(url, finished.challenge.challenge_id, key) for finished in runs]
    _print_runs(console, runs)
    for each in proved:
        console.print(
            f"\n[bold]Proved[/], and sealed as leaf {each.seal.leaf_index} by {each.signed_by[0]}:", soft_wrap=True
        )
        console.print(explain(each.history), markup=False, highlight=False, soft_wrap=True)
    return runs


def _prove(url: URL, challenge_id: str, key: SealKey) -> Proved:
    """Write the proof of a verdict, and check it as anybody can who has the public key."""
    history, seal, _ = prove(url, challenge_id)
    return check_proof(encode_proof(history, seal), [key.public], verify_signature)


async def _serve_and_send(console: Console, url: URL, settings: ServeSettings) -> list[Run]:
    application = Application(url, settings)
    port = await application.start()
    try:
        console.print(f"Serving on 127.0.0.1:{port}; sending real fills, one call each\n")
        return await _run_accounts(console, f"127.0.0.1:{port}", read_fills())
    finally:
        await application.stop()


async def _run_accounts(console: Console, target: str, accounts: dict[str, list[Fill]]) -> list[Run]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    async with AsyncChallengeClient(target) as client, asyncio.TaskGroup() as tasks:
        challenges = {
            account: await client.create_challenge(initial_balance=INITIAL_BALANCE, labels={"account": account})
            for account in accounts
        }
        names = {challenge.challenge_id: f"{account[:8]}…" for account, challenge in challenges.items()}
        follower = tasks.create_task(_print_events(console, client, names))
        with Progress(*columns, console=console) as progress:
            runs = []
            for account, fills in accounts.items():
                bar = progress.add_task(f"{account[:8]}…", total=len(fills))
                runs.append(await _run_account(client, challenges[account], account, fills, progress, bar))
            await follower
    return runs


async def _run_account(
    client: AsyncChallengeClient, challenge: Challenge, account: str, fills: list[Fill], progress: Progress, bar: TaskID
) -> Run:
    """Send fills until the challenge ends, as a gateway would."""
    worst = Decimal(0)
    worst_day = fills[0].executed_at.date()
    for fill in fills:
        decision = await client.submit_trade(
            challenge.challenge_id,
            trade_id=fill.trade_id,
            realized_pnl=fill.realized_pnl,
            executed_at=fill.executed_at,
            symbol=fill.symbol,
        )
        progress.advance(bar)
        daily = next(e.observed_pct for e in decision.evaluations if e.rule is Rule.MAX_DAILY_DRAWDOWN)
        if daily > worst:
            worst, worst_day = daily, decision.executed_at.date()
        if decision.status in {ChallengeStatus.FAILED, ChallengeStatus.FUNDED}:
            break
    return Run(account, len(fills), await client.get_challenge(challenge.challenge_id), decision, worst_day, worst)


async def _print_events(console: Console, client: AsyncChallengeClient, names: dict[str, str]) -> None:
    """Print status changes as they are streamed, until every challenge has ended."""
    open_challenges = set(names)
    async for message in client.stream_events(challenge_ids=sorted(names), from_beginning=True):
        if not isinstance(message, EventMessage) or message.event.old_status is None:
            continue
        event = message.event
        why = f" by {event.reason}" if event.reason else ""
        console.print(
            f"  {names[event.challenge_id]} {event.old_status} → {_coloured(event.new_status)}{why},"
            f" trade {event.trade_sequence}, equity {event.equity:f}",
            soft_wrap=True,
        )
        if event.new_status in {ChallengeStatus.FAILED, ChallengeStatus.FUNDED}:
            open_challenges.discard(event.challenge_id)
            if not open_challenges:
                return


def _print_runs(console: Console, runs: list[Run]) -> None:
    """The closing table: a column for each account, and the evidence of its deciding trade."""
    table = Table(title="\nVerdicts, and the evidence of the deciding trades", title_justify="left", title_style="bold")
    table.add_column("account", style="dim")
    for finished in runs:
        table.add_column(finished.name)
    rows: list[tuple[str, Callable[[Run], str]]] = [
        ("trades sent", lambda r: f"{r.deciding.sequence} of {r.fills} fills"),
        (
            "final status",
            lambda r: f"[{COLOURS[r.challenge.status]}]{r.challenge.status}[/] on fill {r.deciding.sequence}",
        ),
        ("reason", lambda r: str(r.challenge.status_reason)),
        ("equity", lambda r: f"{r.challenge.equity:f} {r.challenge.currency_code}"),
        ("peak equity", lambda r: f"{r.challenge.peak_equity:f} {r.challenge.currency_code}"),
        ("worst day's drawdown", lambda r: f"{r.worst_day}: {r.worst_day_pct:f} %"),
    ]
    for name, cell in rows:
        table.add_row(name, *map(cell, runs))
    table.add_section()
    for place, rule in enumerate(Rule):
        table.add_row(str(rule), *(_evidence(finished.deciding.evaluations[place]) for finished in runs))
    console.print(table)


def _coloured(status: ChallengeStatus) -> str:
    return f"[{COLOURS[status]}]{status}[/]"


def _evidence(evaluation: RuleEvaluation) -> str:
    outcome = "triggered" if evaluation.triggered else f"headroom {evaluation.headroom:f}"
    text = f"{evaluation.observed_pct:f} % (limit {evaluation.limit_pct:f} %)\n{outcome}"
    return f"[bold]{text}[/]" if evaluation.triggered else text
