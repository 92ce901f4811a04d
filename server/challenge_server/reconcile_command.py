"""`challenge-engine reconcile`: reads its options, has statement and records compared, and reports."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from challenge_engine.reconciling import Comparison, Match, Reconciled, reconcile
from challenge_engine.recorded_trades import recorded_trades
from challenge_server import application
from challenge_server.options import DatabaseUrl, DataDir, chosen_database, clear_errors, say
from challenge_server.settings import DatabaseSettings
from challenge_server.statement_cells import ISO, moments_in, read_challenge_id, read_iso, shown, zone_of
from challenge_server.statement_file import FIELDS, Layout, Progress, Statement, StatementError, read_statement

T = TypeVar("T")

TABS = ("tab", "\\t")
"""Ways to write a tab where a shell makes it hard."""


class Exit(IntEnum):
    """The exit codes."""

    AGREES = 0
    NOT_DONE = 1
    """The database cannot be used; what `clear_errors` ends with."""
    USAGE = 2
    """The command is wrong, or no row of the file can be read; nothing was compared."""
    DIFFERS = 4
    """There are findings, or rows that cannot be read; 3 is left to mean what it means for `challenge`."""


EXIT_CODES = (
    "Exit codes: 0 the statement and the records agree; 1 the database cannot be used; 2 wrong usage, or a file without"
    " a row that can be read; 4 they differ, or some rows cannot be read."
)


class Precision(StrEnum):
    """What the statement's times are exact to."""

    MICROSECOND = "us"
    MILLISECOND = "ms"
    SECOND = "s"
    MINUTE = "min"


MICROSECONDS = {
    Precision.MICROSECOND: 1,
    Precision.MILLISECOND: 1_000,
    Precision.SECOND: 1_000_000,
    Precision.MINUTE: 60_000_000,
}


def reconcile_command(
    csv_file: Annotated[
        Path,
        typer.Option("--csv", metavar="FILE", help="The statement: CSV in UTF-8 with a header.", show_default=False),
    ],
    column: Annotated[
        list[str] | None,
        typer.Option(
            metavar="OURS=THEIRS",
            help="The statement's name of a column, such as trade_id=Ticket; may be repeated. Ours:"
            f" {', '.join(FIELDS)}; the last may be absent.",
        ),
    ] = None,
    challenge: Annotated[
        str | None, typer.Option(metavar="ID", help="The challenge of all rows, for a statement without challenge_ids.")
    ] = None,
    match: Annotated[
        Match, typer.Option(help="What is the same in both; time is for a statement without our trade_ids.")
    ] = Match.TRADE_ID,
    time_format: Annotated[
        str,
        typer.Option(metavar="FORMAT", help="iso, epoch_s, epoch_ms, epoch_us or a pattern such as '%d.%m.%Y %H:%M'."),
    ] = ISO,
    time_zone: Annotated[
        str, typer.Option(metavar="ZONE", help="Of times that name none, such as Europe/Berlin.")
    ] = "UTC",
    time_precision: Annotated[
        Precision, typer.Option(help="Compare times in whole units of this, for a statement that shows no finer ones.")
    ] = Precision.MICROSECOND,
    executed_from: Annotated[
        str | None,
        typer.Option("--from", metavar="TIME", help="The statement begins here: what we have before is not extra."),
    ] = None,
    executed_before: Annotated[
        str | None,
        typer.Option("--to", metavar="TIME", help="It ends before this: what we have from here on is not extra."),
    ] = None,
    newest_first: Annotated[
        bool, typer.Option("--newest-first", help="The statement lists the newest trades first.")
    ] = False,
    delimiter: Annotated[str, typer.Option(metavar="CHARACTER", help="Between cells; tab for a tab.")] = ",",
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole report as one line of JSON.")] = False,
    database_url: DatabaseUrl = None,
    data_dir: DataDir = None,
) -> None:
    """Compare the recorded trades with somebody else's statement of them.

    Names what is missing (in the statement, not recorded), extra (recorded, not in the statement), different, out of
    order, listed twice, or of a challenge that does not exist, and gives the totals of both sides. Amounts are compared
    by value, and exactly; only challenges that the statement names are looked at. A row that cannot be read is named
    and counts as a difference; the other rows are compared all the same.

    It reads one snapshot of the database, changes nothing, and may run while the service does.
    """
    zone = _option("--time-zone", zone_of, time_zone)
    layout = Layout(
        _option("--time-format", lambda text: moments_in(text, zone), time_format),
        _columns(column or [], challenge),
        _option("--delimiter", _delimiter, delimiter),
        None if challenge is None else _option("--challenge", read_challenge_id, challenge),
        match,
    )
    start, end = (
        None if text is None else _option(name, lambda text: read_iso(text, zone), text)
        for name, text in (("--from", executed_from), ("--to", executed_before))
    )
    if start is not None and end is not None and start >= end:
        raise typer.BadParameter("must lie after --from", param_hint="--to")
    if match is Match.TIME and time_precision is not Precision.MICROSECOND:
        raise typer.BadParameter("cannot be coarser than us with --match time", param_hint="--time-precision")
    comparison = Comparison(
        match,
        precision=MICROSECONDS[time_precision],
        executed_from=start,
        executed_before=end,
        newest_first=newest_first,
    )
    with clear_errors():
        settings = chosen_database(database_url, data_dir)
        statement = _read(csv_file, layout)
        challenges = _compare(settings, statement, replace(comparison, compares_symbols=statement.has_symbols))
    _tell(csv_file.name, match, statement, challenges, as_json=as_json)


def _option(name: str, read: Callable[[str], T], text: str) -> T:
    """The value of an option; a bad one is wrong usage."""
    try:
        return read(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=name) from None


def _columns(given: Sequence[str], challenge: str | None) -> dict[str, str]:
    """Their names by ours."""
    columns: dict[str, str] = {}
    for text in given:
        ours, _, theirs = text.partition("=")
        if ours not in FIELDS or not theirs:
            raise typer.BadParameter(
                f"must be OURS=THEIRS, ours one of {', '.join(FIELDS)}; got {shown(text)}", param_hint="--column"
            )
        if ours in columns:
            raise typer.BadParameter(f"names {ours} twice", param_hint="--column")
        columns[ours] = theirs
    if challenge is not None and "challenge_id" in columns:
        raise typer.BadParameter("is for a statement without a column of challenge_ids", param_hint="--challenge")
    return columns


def _delimiter(text: str) -> str:
    delimiter = "\t" if text in TABS else text
    if len(delimiter) != 1 or delimiter in '\r\n" ':
        raise ValueError(f"must be one character, no quote and no space, or tab; got {shown(text)}")
    return delimiter


def _read(path: Path, layout: Layout) -> Statement:
    """The statement; the command ends when there is nothing in it to compare."""
    from rich.console import Console  # noqa: PLC0415 -- slow to load, and needed by no other command

    from challenge_server.reconcile_report import print_faults  # noqa: PLC0415 -- as above

    try:
        with _progress("reading") as progress:
            statement = read_statement(path, layout, progress)
    except StatementError as error:
        typer.echo(f"challenge-engine: error: {error}", err=True)
        raise typer.Exit(Exit.USAGE) from None
    if statement.rows and statement.bad_rows == statement.rows:
        typer.echo(f"challenge-engine: error: none of the {statement.rows:,} rows of {path.name} can be read", err=True)
        print_faults(Console(stderr=True), statement)
        raise typer.Exit(Exit.USAGE)
    return statement


def _compare(settings: DatabaseSettings, statement: Statement, comparison: Comparison) -> list[Reconciled]:
    """Challenge by challenge; the statement's trades are let go of on the way."""
    count = len(statement.trades)
    found = []
    with (
        application.open_existing(settings, say) as url,
        recorded_trades(url) as records,
        _progress("comparing") as progress,
    ):
        for challenge_id, recorded in records.of(tuple(statement.trades)):
            found.append(reconcile(challenge_id, statement.trades.pop(challenge_id), recorded, comparison))
            progress(len(found), count)
    return found


def _tell(name: str, match: Match, statement: Statement, challenges: Sequence[Reconciled], *, as_json: bool) -> None:
    from rich.console import Console  # noqa: PLC0415 -- as above

    from challenge_server.reconcile_report import Report, print_report, report_as_json  # noqa: PLC0415

    report = Report(name, match, statement, challenges)
    if as_json:
        typer.echo(report_as_json(report))
    else:
        print_report(Console(), report)
    raise typer.Exit(Exit.AGREES if report.agrees else Exit.DIFFERS)


@contextmanager
def _progress(what: str) -> Iterator[Progress]:
    """A bar on standard error, when that is a terminal; and what is told how far the work is."""
    from rich import progress  # noqa: PLC0415
    from rich.console import Console  # noqa: PLC0415 -- as above

    with progress.Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as shown_bar:
        bar = shown_bar.add_task(what, total=None)
        yield lambda done, total: shown_bar.update(bar, completed=done, total=total)
