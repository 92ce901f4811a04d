"""The operator's commands about seals: make a key, export a checkpoint."""

from pathlib import Path
from typing import Annotated

import typer

from challenge_engine.checkpoint_files import write_file
from challenge_engine.checkpoint_reading import checkpoint_reader
from challenge_engine.keys import load_or_make_key, make_key, public_path
from challenge_server import application
from challenge_server.options import DatabaseUrl, DataDir, chosen_database, clear_errors, say

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
    database_url: DatabaseUrl = None,
    data_dir: DataDir = None,
) -> None:
    """Export the newest signed checkpoint, to keep where the database's owner cannot rewrite it."""
    with (
        clear_errors(),
        application.open_database(chosen_database(database_url, data_dir), say) as url,
        checkpoint_reader(url) as reader,
    ):
        newest = reader.newest()
        if output is None:
            typer.echo(newest.note, nl=False)
            return
        if Path(output).is_dir():
            reader.export_to(Path(output), newest)
        else:
            write_file(Path(output), newest.note, [] if note_only else reader.leaves(0, newest.tree_size))
        say(f"{output} holds the checkpoint of {newest.tree_size} leaves")
