"""The operator's commands that move or make anew what is recorded: rebuild, export, import, archive."""

import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from challenge_engine import archive_queries
from challenge_engine.archiving import archive
from challenge_engine.database import check_usable
from challenge_engine.exporting import export_log, import_log, require_export
from challenge_engine.keys import load_key
from challenge_engine.rebuilding import rebuild
from challenge_server import application
from challenge_server.audit_commands import Exit, progress_bar
from challenge_server.options import AUDIT_PRIVILEGES, DatabaseUrl, DataDir, chosen_database, clear_errors, say

MAX_SHOWN = 50
AGE = re.compile(r"([1-9][0-9]{0,4}|0)([dh])")
AGE_FORM = "such as 365d or 12h"

Directory = Annotated[Path, typer.Argument(metavar="DIR", help="The directory of the export.")]


def rebuild_command(
    swap: Annotated[
        bool, typer.Option("--swap", help="Put right what differs. Every server has to be stopped.")
    ] = False,
    database_url: DatabaseUrl = None,
    data_dir: DataDir = None,
) -> None:
    """Make the table of challenges anew from events and trades alone, and compare it with the stored one bit by bit.

    Without --swap it changes nothing and may run while the service does. Exit codes: 0 equal, or put right; 4 rows
    differ.
    """
    with (
        clear_errors(),
        application.open_existing(chosen_database(database_url, data_dir), say) as url,
        progress_bar() as progress,
    ):
        check_usable(url, AUDIT_PRIVILEGES)
        rebuilt = rebuild(url, swap=swap, progress=progress)
    for finding in rebuilt.faults[:MAX_SHOWN]:
        typer.echo(f"{finding.fault}: challenge {finding.challenge_id} sequence {finding.sequence}: {finding.message}")
    for differing in rebuilt.differing[:MAX_SHOWN]:
        typer.echo(f"challenge {differing.challenge_id}: {differing.what}")
    kept = f", {rebuilt.archived:,} archived ones left as they are" if rebuilt.archived else ""
    typer.echo(f"{rebuilt.challenges:,} challenges rebuilt{kept}; {rebuilt.differing_count:,} rows differ")
    if rebuilt.is_swapped:
        typer.echo("what differed has been put right")
    elif not rebuilt.is_equal:
        raise typer.Exit(Exit.FINDINGS)


def export_command(directory: Directory, database_url: DatabaseUrl = None, data_dir: DataDir = None) -> None:
    """Write everything that is recorded to files: JSON Lines, compressed, in chunks that a manifest lists.

    May run while the service does. Run again after an interruption, it goes on where it was.
    """
    with (
        clear_errors(),
        application.open_existing(chosen_database(database_url, data_dir), say) as url,
        progress_bar() as progress,
    ):
        check_usable(url, AUDIT_PRIVILEGES)
        exported = export_log(url, directory, progress=progress)
    resumed = f", {exported.resumed} of them were there already" if exported.resumed else ""
    typer.echo(f"{exported.rows:,} rows in {exported.chunks} files{resumed}")


def import_command(directory: Directory, database_url: DatabaseUrl = None, data_dir: DataDir = None) -> None:
    """Store an exported log in an empty database, which is migrated first if it is the embedded one.

    Run again after an interruption, it goes on where it was. `verify` afterwards tells whether all is well.
    """
    with clear_errors():
        settings = chosen_database(database_url, data_dir)
        require_export(directory)
        with application.open_database(settings, say) as url, progress_bar() as progress:
            if settings.url is None:
                application.migrate(url)
            check_usable(url, "SELECT 1 WHERE false")
            imported = import_log(url, directory, progress=progress)
    typer.echo(f"{imported.rows:,} rows of {imported.chunks} files; run challenge-engine verify to be sure of them")


def archive_command(
    directory: Annotated[Path, typer.Option("--to", metavar="DIR", help="Where the archives are to lie.")],
    older_than: Annotated[
        str,
        typer.Option(
            "--older-than",
            metavar="AGE",
            help=f"How long ago their last trade was executed, and recorded, at least: {AGE_FORM}.",
        ),
    ],
    seal_key: Annotated[
        list[str] | None,
        typer.Option(
            "--seal-key", envvar="CHALLENGE_SEAL_KEY", metavar="FILE", help="Key that signs the archives' digests."
        ),
    ] = None,
    database_url: DatabaseUrl = None,
    data_dir: DataDir = None,
) -> None:
    """Move the trades of challenges that closed long ago into archives, out of the database.

    Each archive is written, read again and decided again before anything is removed. The challenges and their events
    stay; proofs of them are made with `prove --archive DIR`. Exit codes: 0 done; 4 some challenges were left, because
    something is wrong with them or they are not sealed.
    """
    match = AGE.fullmatch(older_than)
    if match is None:
        raise typer.BadParameter(f"must be an age {AGE_FORM}, got {older_than[:100]!r}", param_hint="--older-than")
    age = timedelta(days=int(match[1])) if match[2] == "d" else timedelta(hours=int(match[1]))
    with clear_errors():
        settings = chosen_database(database_url, data_dir)
        own = application.seal_key_path(settings)
        paths = [Path(path) for path in seal_key or ()]
        if not paths and settings.url is None and own.exists():
            paths = [own]
        with application.open_existing(settings, say) as url, progress_bar() as progress:
            check_usable(url, archive_queries.MISSING_PRIVILEGES)
            archived = archive(
                url, directory, older_than=age, keys=[load_key(path) for path in paths], progress=progress
            )
    typer.echo(f"{archived.trades:,} trades of {archived.challenges:,} challenges in {len(archived.archives)} archives")
    for finding in archived.refused[:MAX_SHOWN]:
        typer.echo(f"{finding.fault}: challenge {finding.challenge_id} sequence {finding.sequence}: {finding.message}")
    if archived.refused:
        raise typer.Exit(Exit.FINDINGS)
