"""The operator's commands that audit: replay, verify and prove."""

import json
import os
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import IntEnum
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from challenge_engine.archiving import find_in_archive
from challenge_engine.database import check_usable
from challenge_engine.keys import parse_public_key, public_path
from challenge_engine.proving import prove
from challenge_engine.snapshots import Progress
from challenge_engine.verifying import MAX_FINDINGS, Report, replay, verify
from challenge_rules.notes import VerifierKey
from challenge_rules.proof import encode_proof
from challenge_server import application
from challenge_server.options import AUDIT_PRIVILEGES, DatabaseUrl, DataDir, chosen_database, clear_errors, say
from challenge_server.settings import DatabaseSettings, SettingsError

MAX_SHOWN = 50


class Exit(IntEnum):
    """The exit codes."""

    CLEAN = 0
    NOT_DONE = 1
    """The database or a file cannot be used; what `clear_errors` ends with."""
    USAGE = 2
    FINDINGS = 4
    """Something is wrong; the report says what and where."""


EXIT_CODES = (
    "Exit codes: 0 nothing is wrong; 1 the database, a key or an exported checkpoint cannot be used; 2 wrong usage;"
    " 4 something is wrong, and the report names it."
)

AsJson = Annotated[bool, typer.Option("--json", help="Print the whole report as one line of JSON.")]
Challenges = Annotated[
    list[str] | None, typer.Option("--challenge", metavar="ID", help="Only this one; may be repeated.")
]
Keys = Annotated[
    list[str] | None,
    typer.Option(
        "--key",
        metavar="PUB",
        help="Public key, or a file that holds one, by which checkpoints are to be signed; may be repeated. Of the"
        " embedded PostgreSQL: its own.",
    ),
]


Archive = Annotated[
    Path | None, typer.Option("--archive", metavar="DIR", help="Where the archives are that `archive` wrote.")
]


def replay_command(
    challenge: Challenges = None, as_json: AsJson = False, database_url: DatabaseUrl = None, data_dir: DataDir = None
) -> None:
    """Decide the stored trades again, and compare every decision, state, event and link with what is stored.

    Each challenge by the rules version it was created with. Reads one snapshot, changes nothing, and may run while the
    service does.
    """
    chosen = None if challenge is None else [challenge_id(text) for text in challenge]
    with clear_errors():
        settings = chosen_database(database_url, data_dir)
        with application.open_existing(settings, say) as url, progress_bar() as progress:
            check_usable(url, AUDIT_PRIVILEGES)
            report = replay(url, challenge_ids=chosen, progress=progress)
    _tell(report, as_json=as_json)


def verify_command(
    checkpoint: Annotated[
        list[Path] | None,
        typer.Option(
            "--checkpoint",
            metavar="FILE",
            help="An exported checkpoint, or a directory of them, to compare with; may be repeated.",
        ),
    ] = None,
    key: Keys = None,
    archive: Archive = None,
    as_json: AsJson = False,
    database_url: DatabaseUrl = None,
    data_dir: DataDir = None,
) -> None:
    """Verify everything: decisions, hash chains, the log of events, the sealed tree and its signed checkpoints.

    Only a checkpoint that was kept elsewhere shows what somebody rewrote who may write everything in this database.
    Reads one snapshot, changes nothing, and may run while the service does.
    """
    with clear_errors():
        settings = chosen_database(database_url, data_dir)
        keys = public_keys(key, settings)
        with application.open_existing(settings, say) as url, progress_bar() as progress:
            check_usable(url, AUDIT_PRIVILEGES)
            report = verify(url, keys=keys, exported=checkpoint or (), archives=archive, progress=progress)
    _tell(report, as_json=as_json)


def prove_command(
    challenge: Annotated[str, typer.Argument(metavar="CHALLENGE_ID", help="UUID of the challenge.")],
    output: Annotated[str, typer.Option("--output", "-o", metavar="FILE", help="Where to write the proof.")],
    key: Annotated[
        list[str] | None,
        typer.Option(
            "--key",
            metavar="PUB",
            help="Of a checkpoint that several keys signed, give the signature of this one alone; may be repeated.",
        ),
    ] = None,
    archive: Archive = None,
    database_url: DatabaseUrl = None,
    data_dir: DataDir = None,
) -> None:
    """Write the proof of a challenge's verdict: one file that `challenge verify-proof` checks without a database.

    It holds the terms, all sealed trades with their decisions, the hash chain, and the signed checkpoint.
    """
    chosen = challenge_id(challenge)
    with clear_errors(), application.open_existing(chosen_database(database_url, data_dir), say) as url:
        check_usable(url, AUDIT_PRIVILEGES)
        archives = None if archive is None else partial(find_in_archive, archive)
        keys = [parse_public_key(text) for text in key or ()]
        history, seal, trades = prove(url, chosen, archives=archives, keys=keys)
        write_file(Path(output), encode_proof(history, seal))
    say(f"{output} proves: {history.state.status} after {history.state.last_sequence} of {trades} trades")
    if history.state.last_sequence < trades:
        say(f"the last {trades - history.state.last_sequence} trades have not been sealed yet, and are not in it")


def write_file(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, in place of one that is there."""
    if not path.name or path.is_dir():
        raise SettingsError(f"--output must be the name of a file, got {str(path)!r}")
    beside = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        beside.write_bytes(content)
        beside.replace(path)
    except OSError as error:
        raise SettingsError(f"cannot write {path}: {error.strerror}") from None


def challenge_id(text: str) -> str:
    """A challenge_id in its one form; anything else is wrong usage."""
    try:
        return str(uuid.UUID(text))
    except ValueError:
        raise typer.BadParameter(f"must be a UUID, got {text[:100]!r}", param_hint="challenge_id") from None


def public_keys(given: Sequence[str] | None, settings: DatabaseSettings) -> list[VerifierKey]:
    """The keys that were given; of the embedded PostgreSQL, if none was, its own."""
    if given:
        return [parse_public_key(text) for text in given]
    own = public_path(application.seal_key_path(settings))
    return [parse_public_key(str(own))] if settings.url is None and own.exists() else []


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """Shows progress on standard error, where that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda _step, _done, _total: None
        return
    from rich.console import Console  # noqa: PLC0415 -- slow to load, and needed by few commands
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn  # noqa: PLC0415
    from rich.progress import Progress as Bars  # noqa: PLC0415

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, object] = {}

        def tell(step: str, done: int, total: int) -> None:
            if step not in tasks:
                tasks[step] = bars.add_task(step, total=total or None)
            bars.update(tasks[step], completed=done)  # type: ignore[arg-type]

        yield tell


def _tell(report: Report, *, as_json: bool) -> None:
    typer.echo(report_as_json(report) if as_json else report_as_text(report))
    if not report.is_clean:
        raise typer.Exit(Exit.FINDINGS)


def report_as_json(report: Report) -> str:
    """The whole report as one line of JSON."""
    return json.dumps(
        {
            "clean": report.is_clean,
            "challenges": report.challenges,
            "archived": report.archived,
            "archived_trades": report.archived_trades,
            "trades": report.trades,
            "events": report.events,
            "leaves": report.leaves,
            "checkpoints": report.checkpoints,
            "signed_checkpoints": report.signed_checkpoints,
            "exported_checkpoints": report.exported_checkpoints,
            "waiting": report.waiting,
            "finding_count": report.finding_count,
            "findings": [
                {
                    "fault": finding.fault,
                    "challenge_id": finding.challenge_id,
                    "sequence": finding.sequence,
                    "message": finding.message,
                }
                for finding in report.findings
            ],
            "notes": report.notes,
        }
    )


def report_as_text(report: Report) -> str:
    """The report for people."""
    lines = [f"{report.challenges:,} challenges, {report.trades:,} trades and {report.events:,} events decided again"]
    if report.archived:
        lines.append(f"{report.archived:,} are archived; {report.archived_trades:,} trades were decided in archives")
    if report.checkpoints or report.exported_checkpoints:
        lines.append(
            f"{report.leaves:,} sealed heads under {report.checkpoints:,} checkpoints, {report.signed_checkpoints:,} of"
            f" them with a good signature of a given key; {report.exported_checkpoints:,} exported ones;"
            f" {report.waiting:,} chains wait for a seal"
        )
    lines += [f"note: {note}" for note in report.notes]
    for finding in report.findings[:MAX_SHOWN]:
        where = "" if finding.challenge_id is None else f"challenge {finding.challenge_id}"
        if finding.sequence is not None:
            where += f" sequence {finding.sequence}"
        lines.append(f"{finding.fault}: {where + ': ' if where else ''}{finding.message}")
    if report.finding_count > MAX_SHOWN:
        lines.append(f"… and {report.finding_count - MAX_SHOWN:,} more; --json gives the first {MAX_FINDINGS:,}")
    lines.append("nothing is wrong" if report.is_clean else f"findings: {report.finding_count:,}")
    return "\n".join(lines)
