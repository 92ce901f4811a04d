"""The operator's commands about seals: make a key, export a checkpoint."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from sqlalchemy.engine import URL

from challenge_engine.checkpoint_files import read_exported, write_file
from challenge_engine.checkpoint_reading import CheckpointReader, checkpoint_reader
from challenge_engine.database import check_usable
from challenge_engine.keys import load_or_make_key, make_key, public_path
from challenge_server import application
from challenge_server.options import AUDIT_PRIVILEGES, DatabaseUrl, DataDir, chosen_database, clear_errors, say
from challenge_server.settings import SettingsError

Output = Annotated[str, typer.Option("--output", "-o", metavar="FILE", help="Where to write it; never overwritten.")]


def keygen_command(
    output: Output = "seal-key.pem",
    if_missing: Annotated[bool, typer.Option("--if-missing", help="Be content with a key that is there.")] = False,
) -> None:
    """Make a key that signs checkpoints: FILE for `serve --seal-key`, FILE.pub for auditors, which is also printed."""
    with clear_errors():
        path = Path(output)
        key = load_or_make_key(path) if if_missing else make_key(path)
        say(f"{path} signs, keep it secret; {public_path(path)} verifies, give it to auditors")
        typer.echo(str(key.public))


@contextmanager
def usable_reader(url: URL) -> Iterator[CheckpointReader]:
    """A reader of a database that has the schema."""
    check_usable(url, AUDIT_PRIVILEGES)
    with checkpoint_reader(url) as reader:
        yield reader


def checkpoint_command(
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="A new file, or a directory that gains what it lacks. Default: the signed note on standard output.",
        ),
    ] = None,
    note_only: Annotated[
        bool, typer.Option("--note-only", help="Without the leaves, by which `verify` names what was rewritten.")
    ] = False,
    after: Annotated[
        Path | None,
        typer.Option(
            metavar="OLD",
            help="Print, below the note, RFC 6962's proof that the tree of this older checkpoint is its beginning.",
        ),
    ] = None,
    database_url: DatabaseUrl = None,
    data_dir: DataDir = None,
) -> None:
    """Export the newest signed checkpoint, to keep where the database's owner cannot rewrite it."""
    with (
        clear_errors(),
        application.open_existing(chosen_database(database_url, data_dir), say) as url,
        usable_reader(url) as reader,
    ):
        newest = reader.newest()
        if after is not None and output is not None:
            raise SettingsError("--after prints, so that there is no --output with it")
        if output is None:
            typer.echo(newest.note, nl=False)
            if after is not None:
                (old, *_), _leaves = read_exported(after)
                typer.echo(f"\nconsistency of {newest.tree_size} with {old.source}")
                for each in reader.consistency(old, newest):
                    typer.echo(each.hex())
            return
        if output == "" or (note_only and Path(output).is_dir()):
            raise SettingsError("--output must be the name of a file, or, without --note-only, of a directory")
        if Path(output).is_dir():
            reader.export_to(Path(output), newest)
        else:
            write_file(Path(output), newest.note, [] if note_only else reader.leaves(0, newest.tree_size))
        say(f"{output} holds the checkpoint of {newest.tree_size} leaves")
