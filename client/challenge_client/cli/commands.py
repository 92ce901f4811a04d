"""The commands of `challenge`. Each reads its arguments, asks the SDK, and prints."""

import asyncio
import csv
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from challenge_client import inputs
from challenge_client.async_client import AsyncChallengeClient
from challenge_client.channels import DEFAULT_TARGET
from challenge_client.cli import importing, output, statements
from challenge_client.cli.outcomes import Exit, UsageError, explained
from challenge_client.cli.proving import verify_proof
from challenge_client.cli.watching import Watch
from challenge_client.client import ChallengeClient
from challenge_client.enums import ChallengeStatus
from challenge_client.errors import ChallengeError
from challenge_client.retries import is_undecided
from challenge_client.values import Challenge, Decision, Limits

DEFAULT_TIMEOUT_S = 10.0
MIN_REST_S = 0.25

app = typer.Typer(
    name="challenge",
    help="Runs prop-firm challenges on a Challenge Engine.",
    epilog="Exit codes: 0 done, 1 refused by the server, 2 wrong usage or file, 3 no answer, 4 rows of a file refused.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@dataclass(frozen=True, slots=True)
class Options:
    """What holds for every command."""

    target: str
    timeout_s: float


@app.callback()
def _options(
    context: typer.Context,
    target: Annotated[
        str, typer.Option("--target", envvar="CHALLENGE_TARGET", metavar="HOST:PORT", help="Where the server is.")
    ] = DEFAULT_TARGET,
    timeout_s: Annotated[
        float, typer.Option("--timeout", envvar="CHALLENGE_TIMEOUT", metavar="SECONDS", help="Of each call.", min=0.001)
    ] = DEFAULT_TIMEOUT_S,
) -> None:
    if "://" in target:
        raise typer.BadParameter(f"must be HOST:PORT without a scheme, got {target!r}", param_hint="--target")
    context.obj = Options(target, timeout_s)


ChallengeId = Annotated[str, typer.Argument(metavar="CHALLENGE_ID", help="UUID of the challenge.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON; of lists, one value a line.")]
Statuses = Annotated[
    list[ChallengeStatus] | None, typer.Option("--status", help="Only these; may be repeated.", case_sensitive=False)
]
Count = Annotated[int | None, typer.Option("--limit", metavar="N", help="At most so many.", min=1)]
Balance = Annotated[str, typer.Option("--balance", metavar="AMOUNT", help="Equity at creation.")]
Daily = Annotated[str, typer.Option("--daily", metavar="PCT", help="Largest daily drawdown.")]
Total = Annotated[str, typer.Option("--total", metavar="PCT", help="Largest drawdown from the peak.")]
Profit = Annotated[str, typer.Option("--profit", metavar="PCT", help="Profit that funds the trader.")]
Currency = Annotated[str, typer.Option("--currency", metavar="CODE", help="ISO 4217 code.")]


@contextmanager
def _client(context: typer.Context) -> Iterator[ChallengeClient]:
    options: Options = context.obj
    with explained(options.target), ChallengeClient(options.target, timeout_s=options.timeout_s) as client:
        yield client


@contextmanager
def _repeatable(options: str) -> Iterator[None]:
    """When it stays open what was recorded, says how to repeat the command without doubling anything."""
    try:
        yield
    except ChallengeError as error:
        if is_undecided(error):
            typer.echo(f"to repeat it without doubling anything, add {options}", err=True)
        raise


@app.command()
def create(
    context: typer.Context,
    balance: Balance = "100000",
    daily: Daily = "5",
    total: Total = "10",
    profit: Profit = "10",
    currency: Currency = "USD",
    label: Annotated[
        list[str] | None, typer.Option("--label", metavar="KEY=VALUE", help="A label; may be repeated.")
    ] = None,
    challenge_id: Annotated[
        str | None, typer.Option("--id", metavar="UUID", help="An id of your own: repeating the command is then safe.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a challenge."""
    minted = challenge_id or str(uuid.uuid4())
    with _client(context) as client, _repeatable(f"--id {minted}"):
        challenge = client.create_challenge(
            initial_balance=balance,
            limits=Limits(daily, total, profit),
            currency_code=currency,
            labels=_labels(label or ()),
            challenge_id=minted,
        )
        _show(challenge, as_json)


@app.command(context_settings={"ignore_unknown_options": True})  # a negative amount is no option
def submit(
    context: typer.Context,
    challenge_id: ChallengeId,
    pnl: Annotated[str, typer.Argument(metavar="PNL", help="Realized P&L after costs; a loss is negative.")],
    trade_id: Annotated[
        str | None,
        typer.Option("--id", metavar="ID", help="The trade's id; with --at it is safe to repeat."),
    ] = None,
    executed_at: Annotated[
        str | None, typer.Option("--at", metavar="TIME", help="When it was executed, ISO 8601 with a zone. Now.")
    ] = None,
    symbol: Annotated[str, typer.Option("--symbol", help="What was traded.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Decide, but record nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Decide one trade."""
    minted = trade_id or str(uuid.uuid4())
    with _client(context) as client:
        if trade_id is not None and executed_at is None:
            raise UsageError("--id needs --at: the same trade again must have been executed at the same time")
        moment = datetime.now(UTC) if executed_at is None else _moment(executed_at)
        with _repeatable(f"--id {minted} --at {moment.isoformat()}"):
            decision = client.submit_trade(
                challenge_id,
                trade_id=minted,
                realized_pnl=pnl,
                executed_at=moment,
                symbol=symbol,
                validate_only=dry_run,
            )
        if as_json:
            output.print_json(decision)
        else:
            Console().print(_decision(decision))


@app.command()
def get(
    context: typer.Context,
    challenge_id: ChallengeId,
    at_sequence: Annotated[
        int | None, typer.Option("--at-sequence", metavar="N", help="As it was right after trade N; 0: as created.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show a challenge."""
    with _client(context) as client:
        _show(client.get_challenge(challenge_id, at_sequence=at_sequence), as_json)


@app.command(name="list")
def list_(
    context: typer.Context,
    status: Statuses = None,
    label: Annotated[list[str] | None, typer.Option("--label", metavar="KEY=VALUE", help="With this label.")] = None,
    limit: Count = None,
    as_json: AsJson = False,
) -> None:
    """List challenges, oldest first."""
    with _client(context) as client:
        found = client.list_challenges(statuses=status or (), labels=_labels(label or ()))
        _print_all(islice(found, limit), output.challenges_table, as_json)


@app.command()
def trades(
    context: typer.Context,
    challenge_id: ChallengeId,
    first: Annotated[int, typer.Option("--from", metavar="N", help="From this sequence on.")] = 0,
    last: Annotated[int, typer.Option("--to", metavar="N", help="Up to this sequence.")] = 0,
    as_json: AsJson = False,
) -> None:
    """List the trades of a challenge with their decisions."""
    with _client(context) as client:
        found = client.list_trades(challenge_id, from_sequence=first, to_sequence=last, page_size=1000)
        _print_all(found, output.trades_table, as_json)


@app.command()
def events(
    context: typer.Context,
    challenge_id: Annotated[str | None, typer.Argument(metavar="[CHALLENGE_ID]", help="Of this one alone.")] = None,
    status: Statuses = None,
    after: Annotated[int, typer.Option("--after", metavar="POSITION", help="After this position.", min=0)] = 0,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes, through every break.")] = False,
    as_json: AsJson = False,
) -> None:
    """List events, and follow them."""
    with _client(context) as client:
        if follow:
            ids = [challenge_id] if challenge_id else ()
            found: Iterable[Any] = client.subscribe(challenge_ids=ids, new_statuses=status or (), after_position=after)
        else:
            found = client.list_events(
                challenge_id=challenge_id, new_statuses=status or (), after_position=after, page_size=1000
            )
        console = Console()
        for event in found:
            if as_json:
                output.print_json(event)
            else:
                console.print(output.event_line(event), soft_wrap=True)


@app.command()
def watch(
    context: typer.Context,
    challenge_ids: Annotated[
        list[str] | None, typer.Argument(metavar="[CHALLENGE_ID]...", help="These; without any, those that are open.")
    ] = None,
    interval_s: Annotated[float, typer.Option("--interval", metavar="SECONDS", help="Between looks.", min=0.1)] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Look once, print, and end.")] = False,
    as_json: AsJson = False,
) -> None:
    """Follow challenges in a live table: equity and its course, and how far each limit is away."""
    options: Options = context.obj
    with explained(options.target):
        asyncio.run(_watch(options, challenge_ids or [], interval_s, once=once, as_json=as_json))


async def _watch(options: Options, ids: list[str], interval_s: float, *, once: bool, as_json: bool) -> None:
    console = Console()
    async with AsyncChallengeClient(options.target, timeout_s=options.timeout_s) as client:
        screen = Watch(client, ids)

        def tell(changed: list[Challenge]) -> None:
            for challenge in changed if as_json else ():
                output.print_json(challenge)

        tell(await screen.look())
        if once:
            if not as_json:
                console.print(screen.render())
            return
        changed = asyncio.Event()

        async def follow() -> None:
            async with client.subscribe(challenge_ids=ids, from_now=True) as subscription:
                async for event in subscription:
                    screen.take(event)
                    changed.set()

        following = asyncio.create_task(follow())
        shown = Live(screen.render(), console=console, screen=console.is_terminal, auto_refresh=False)
        with nullcontext(shown) if as_json else shown as live:
            while not following.done():
                try:
                    async with asyncio.timeout(interval_s):
                        await changed.wait()
                except TimeoutError:
                    pass
                changed.clear()
                tell(await screen.look_again())
                # However much happens, the server is asked no more often than this.
                await asyncio.sleep(min(MIN_REST_S, interval_s))
                if not as_json:
                    live.update(screen.render(), refresh=True)
        await following


@app.command()
def chart(
    context: typer.Context,
    challenge_id: ChallengeId,
    path: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="A .png, .svg or .pdf.")],
    as_json: AsJson = False,
) -> None:
    """Draw a challenge: equity, peak, days, the three limits, and the trade that decided."""
    from challenge_client.cli.charting import draw  # noqa: PLC0415 -- a plotting library is slow to load

    with _client(context) as client:
        challenge = client.get_challenge(challenge_id)
        last = challenge.last_sequence
        recorded = list(client.list_trades(challenge_id, to_sequence=last, page_size=1000)) if last else []
        draw(challenge, recorded, path)
        if as_json:
            output.print_json({"file": str(path), "challenge": challenge, "trades": len(recorded)})
        else:
            typer.echo(f"{path}: {len(recorded)} trades, {challenge.status}")


@app.command(name="import")
def import_(
    context: typer.Context,
    path: Annotated[Path, typer.Argument(metavar="FILE.csv", help="An account history.")],
    preset: Annotated[
        str | None, typer.Option("--preset", help=f"What kind of file: {', '.join(statements.PRESETS)}.")
    ] = None,
    time: Annotated[str, typer.Option("--time", metavar="COLUMN", help="When a trade was executed.")] = "",
    pnl: Annotated[str, typer.Option("--pnl", metavar="COLUMN", help="Its P&L.")] = "",
    cost: Annotated[
        list[str] | None, typer.Option("--cost", metavar="COLUMN", help="A cost, to be subtracted; may be repeated.")
    ] = None,
    add: Annotated[
        list[str] | None, typer.Option("--add", metavar="COLUMN", help="A signed amount to be added; repeatable.")
    ] = None,
    symbol: Annotated[str, typer.Option("--symbol", metavar="COLUMN", help="What was traded.")] = "",
    account: Annotated[str, typer.Option("--account", metavar="COLUMN", help="One challenge for each account.")] = "",
    trade_id: Annotated[
        str, typer.Option("--id", metavar="COLUMN", help="The trade's id. Without: made from the row's content.")
    ] = "",
    time_format: Annotated[
        str, typer.Option("--time-format", metavar="FORMAT", help="Such as '%d.%m.%Y %H:%M'. Without: ISO 8601.")
    ] = "",
    zone: Annotated[
        str, typer.Option("--zone", metavar="ZONE", help="Of times that name none: Europe/Berlin, +05:30. UTC.")
    ] = "",
    decimal_comma: Annotated[bool, typer.Option("--decimal-comma", help="Numbers such as 1.234,56.")] = False,
    only: Annotated[
        str | None, typer.Option("--only", metavar="ACCOUNT", help="Only this account of the file.")
    ] = None,
    challenge_id: Annotated[
        str | None, typer.Option("--challenge-id", metavar="UUID", help="Into this challenge, which exists.")
    ] = None,
    balance: Balance = "100000",
    daily: Daily = "5",
    total: Total = "10",
    profit: Profit = "10",
    currency: Currency = "USD",
    series: Annotated[
        str,
        typer.Option("--series", metavar="NAME", help="Under another name, the same accounts are other challenges."),
    ] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Send nothing: decide here, by the same rules, and show the outcome.")
    ] = False,
    report_path: Annotated[
        Path | None, typer.Option("--report", metavar="FILE.csv", help="Write every refused row there.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run an account history through challenges.

    One challenge for each account of the file. Repeating an import, also one that was interrupted, is safe: what was
    accepted is replayed, and nothing changes. Trades that share a time are spread by a microsecond each.
    """
    from challenge_client.testing import FakeChallengeServer  # noqa: PLC0415 -- for dry runs alone

    options: Options = context.obj
    with explained(options.target):
        columns = statements.overridden(
            preset, time=time, pnl=pnl, costs=tuple(cost or ()), added=tuple(add or ()), symbol=symbol, account=account,
            trade_id=trade_id, time_format=time_format, zone=zone, decimal_comma=decimal_comma or None,
        )  # fmt: skip
        file = statements.read_file(path, columns, default_account=path.stem, only=only)
        _check_accounts(file, challenge_id, dry_run=dry_run)
        if report_path is not None:
            _write_refused((), report_path)
        terms = importing.Terms(
            inputs.amount(balance, "--balance"), Limits(daily, total, profit), currency or "USD", series
        )
        with FakeChallengeServer() if dry_run else nullcontext() as fake:
            target = fake.address if fake is not None else options.target
            with ChallengeClient(target, timeout_s=options.timeout_s) as client, _progress(file) as advance:
                report = importing.send(client, file, terms, challenge_id, advance)
        if report_path is not None:
            _write_refused(report.refused, report_path)
    if as_json:
        output.print_json(importing.report_as_json(report))
    else:
        title = f"\nWhat {path.name} comes to (nothing was sent)" if dry_run else f"\nImported {path.name}"
        importing.print_report(Console(), report, title=title)
    if report.undecided:
        raise typer.Exit(Exit.UNREACHABLE)
    if report.faults:
        raise typer.Exit(Exit.PARTLY)


def _check_accounts(file: statements.File, challenge_id: str | None, *, dry_run: bool) -> None:
    if challenge_id is None:
        return
    if dry_run:
        raise UsageError("a dry run makes its challenges anew: leave out --challenge-id")
    if len(file.statements) > 1:
        names = ", ".join(statement.account for statement in file.statements)
        raise UsageError(f"--challenge-id takes one account, and the file has {names}: choose one with --only")


@contextmanager
def _progress(file: statements.File) -> Iterator[Any]:
    """A bar on standard error, and what moves it on."""
    columns = (TextColumn("sending"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("sending", total=sum(len(statement.trades) for statement in file.statements))
        yield lambda count: progress.advance(bar, count)


def _write_refused(rows: Iterable[statements.RefusedRow], path: Path) -> None:
    """Written before anything is sent, too, so that a path that does not work is found in time."""
    try:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(("line", "reason", "message"))
            writer.writerows((row.line, row.reason, row.message) for row in rows)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from None


def _show(challenge: Any, as_json: bool) -> None:
    if as_json:
        output.print_json(challenge)
    else:
        output.print_challenge(Console(), challenge)


def _print_all(items: Iterable[Any], table: Any, as_json: bool) -> None:
    if as_json:
        for item in items:
            output.print_json(item)
    else:
        console = Console()
        console.print(table(items, console.width))


def _decision(decision: Decision) -> Table:
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="dim")
    table.add_column()
    note = " (replayed)" if decision.replayed else " (nothing recorded)" if decision.recorded_at is None else ""
    table.add_row("trade", f"{decision.trade_id}, number {decision.sequence}{note}")
    table.add_row("status", output.coloured(decision.status))
    table.add_row("equity", output.number(decision.equity))
    for evaluation in decision.evaluations:
        table.add_row(str(evaluation.rule).lower().replace("_", " "), output.evidence(evaluation))
    return table


def _labels(pairs: Iterable[str]) -> dict[str, str]:
    labels = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise UsageError(f"--label must be KEY=VALUE, got {pair!r}")
        labels[key] = value
    return labels


def _moment(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"--at must be a time in ISO 8601 such as 2026-03-02T09:30:00Z, got {text!r}") from None


app.command(name="verify-proof")(verify_proof)


def run() -> None:
    """Run the command line."""
    app()
