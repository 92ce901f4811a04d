"""What the operator's commands share: the choice of a database, and errors as one clear line.

The one place that reads the environment, beside the options that name their variable.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import psycopg
import typer
from sqlalchemy import exc

from challenge_engine import audit_queries
from challenge_engine.checkpoint_files import CheckpointFileError
from challenge_engine.database import DatabaseError, brief
from challenge_engine.embedded import EmbeddedPostgresError
from challenge_engine.keys import KeyFileError
from challenge_engine.log_files import LogFileError
from challenge_engine.relaying import RelayError
from challenge_server.settings import AddressError, DatabaseSettings, SettingsError
from challenge_server.workers import WorkerError

URL_VARIABLE = "CHALLENGE_DATABASE_URL"
DATA_DIR_VARIABLE = "CHALLENGE_DATA_DIR"

DatabaseUrl = Annotated[
    str | None,
    typer.Option(
        "--database-url",
        envvar=URL_VARIABLE,
        metavar="URL",
        help="PostgreSQL 15 or newer, postgresql://user:password@host:5432/name. Without it: the embedded PostgreSQL.",
    ),
]
DataDir = Annotated[
    str | None,
    typer.Option(
        "--data-dir",
        envvar=DATA_DIR_VARIABLE,
        metavar="DIR",
        help="Where the embedded PostgreSQL keeps its data. Default: challenge-engine in the user's data home.",
    ),
]


def chosen_database(database_url: str | None, data_dir: str | None) -> DatabaseSettings:
    """The database that was chosen. An empty variable counts as given, and is refused like an empty option."""
    return DatabaseSettings.parse(
        os.environ.get(URL_VARIABLE) if database_url is None else database_url,
        os.environ.get(DATA_DIR_VARIABLE) if data_dir is None else data_dir,
    )


AUDIT_PRIVILEGES = audit_queries.MISSING_PRIVILEGES
"""What the role of an auditor needs: to read, and no more."""

MENDABLE = (
    SettingsError,
    DatabaseError,
    EmbeddedPostgresError,
    AddressError,
    WorkerError,
    RelayError,
    KeyFileError,
    CheckpointFileError,
    LogFileError,
)


@contextmanager
def clear_errors() -> Iterator[None]:
    """Turn what an operator can mend into one line and exit code 1."""
    try:
        yield
    except MENDABLE as error:
        _fail(str(error))
    except exc.DBAPIError as error:
        _fail(f"the database cannot be used: {brief(error.orig or error)}")
    except psycopg.Error as error:
        _fail(f"the database cannot be used: {brief(error)}")


def _fail(message: str) -> None:
    typer.echo(f"challenge-engine: error: {message}", err=True)
    raise typer.Exit(1)


def say(message: str) -> None:
    """Tell of progress, beside the output proper."""
    typer.echo(f"challenge-engine: {message}", err=True)
