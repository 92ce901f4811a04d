"""The operator's command line. The one place that reads the environment."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import grpc
import typer
from grpc_health.v1 import health_pb2, health_pb2_grpc
from sqlalchemy import exc

from challenge_engine.database import DatabaseError, brief, migrate, normalise_url
from challenge_engine.embedded import EmbeddedPostgres, EmbeddedPostgresError, default_data_dir
from challenge_server import application
from challenge_server.settings import DEFAULT_LISTEN, DEFAULT_MAX_CLOCK_SKEW_S, Address, ServeSettings, SettingsError

app = typer.Typer(
    name="challenge-engine",
    help="Decides prop-firm challenges trade by trade: exact, durable, auditable, over gRPC.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

HEALTH_TIMEOUT_S = 5.0

Listen = Annotated[
    str, typer.Option("--listen", envvar="CHALLENGE_LISTEN", metavar="HOST:PORT", help="Where to serve.")
]
DatabaseUrl = Annotated[
    str | None,
    typer.Option(
        "--database-url",
        envvar="CHALLENGE_DATABASE_URL",
        metavar="URL",
        help="PostgreSQL 15 or newer, postgresql://user:password@host:5432/name. Without it: the embedded PostgreSQL.",
    ),
]
DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        envvar="CHALLENGE_DATA_DIR",
        metavar="DIR",
        help="Where the embedded PostgreSQL keeps its data. Default: challenge-engine in the user's data home.",
    ),
]


@app.command()
def serve(
    listen: Listen = DEFAULT_LISTEN,
    database_url: DatabaseUrl = None,
    data_dir: DataDir = None,
    max_clock_skew: Annotated[
        float,
        typer.Option(
            envvar="CHALLENGE_MAX_CLOCK_SKEW",
            metavar="SECONDS",
            help="How far executed_at may lie ahead of this machine's clock.",
        ),
    ] = DEFAULT_MAX_CLOCK_SKEW_S,
    insecure: Annotated[
        bool,
        typer.Option("--insecure", envvar="CHALLENGE_INSECURE", help="Allow listening beyond loopback, unprotected."),
    ] = False,
    log_level: Annotated[
        str, typer.Option(envvar="CHALLENGE_LOG_LEVEL", metavar="LEVEL", help="debug, info, warning or error.")
    ] = "info",
) -> None:
    """Serve challenges over gRPC until SIGTERM or SIGINT."""
    with _clear_errors():
        _log_to_stderr(log_level)
        address = Address.parse(listen)
        settings = ServeSettings(address, database_url, data_dir, max_clock_skew, insecure)
        with application.ready_database(settings, _say) as url:
            application.run(application.serve(url, settings, ready=lambda port: _tell_ready(address.host, port)))


@app.command("migrate")
def migrate_command(database_url: DatabaseUrl = None, data_dir: DataDir = None) -> None:
    """Bring the schema of a database to the revision this release needs."""
    with _clear_errors():
        if database_url is not None:
            revision = migrate(normalise_url(database_url))
        else:
            with EmbeddedPostgres.open(data_dir or default_data_dir(), progress=_say) as postgres:
                revision = migrate(normalise_url(postgres.url))
        typer.echo(f"the schema is at revision {revision}")


@app.command()
def health(listen: Listen = DEFAULT_LISTEN) -> None:
    """Ask a running server whether it serves; the exit code is 0 when it does. For containers."""
    with _clear_errors():
        address = Address.parse(listen)
        with grpc.insecure_channel(str(address)) as channel:
            try:
                stub = health_pb2_grpc.HealthStub(channel)
                answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=HEALTH_TIMEOUT_S)  # type: ignore[attr-defined]
            except grpc.RpcError as error:
                raise SettingsError(f"no answer from {address}: {error.code().name}") from None
        status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
        typer.echo(status)
        if answer.status != health_pb2.HealthCheckResponse.SERVING:
            raise typer.Exit(1)


@app.command()
def demo() -> None:
    """Run two real trading accounts as challenges, on a database of its own that is thrown away."""
    from challenge_server.demo import run_demo  # noqa: PLC0415 -- the demo alone needs the SDK

    with _clear_errors():
        _log_to_stderr("error")
        run_demo()


def main() -> None:
    """The console script."""
    app()


@contextmanager
def _clear_errors() -> Iterator[None]:
    """Turn what an operator can mend into one line and exit code 1."""
    try:
        yield
    except (SettingsError, DatabaseError, EmbeddedPostgresError, application.PortTakenError) as error:
        _fail(str(error))
    except exc.OperationalError as error:
        _fail(f"the database cannot be used: {brief(error.orig or error)}")


def _fail(message: str) -> None:
    typer.echo(f"challenge-engine: error: {message}", err=True)
    raise typer.Exit(1)


def _say(message: str) -> None:
    typer.echo(f"challenge-engine: {message}", err=True)


def _tell_ready(host: str, port: int) -> None:
    typer.echo(f"challenge-engine ready on {host}:{port}")
    sys.stdout.flush()


def _log_to_stderr(level: str) -> None:
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise SettingsError(f"--log-level must be debug, info, warning or error; got {level!r}")
    logging.basicConfig(level=number, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("alembic").setLevel(logging.WARNING)
