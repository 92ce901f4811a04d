"""The operator's command line."""

import os
import subprocess
import sys
from functools import partial
from typing import Annotated

import grpc
import typer
from grpc_health.v1 import health_pb2, health_pb2_grpc

from challenge_engine.embedded import binary
from challenge_engine.relaying import RelayOrder, check_relayable
from challenge_engine.trading import MAX_GROUP
from challenge_server import application, audit_commands, log_commands
from challenge_server.logs import log_to_stderr
from challenge_server.options import DatabaseUrl, DataDir, chosen_database, clear_errors, say
from challenge_server.reconcile_command import EXIT_CODES, reconcile_command
from challenge_server.relay import running as relaying
from challenge_server.relay.messages import PayloadFormat
from challenge_server.relay.targets import parse_target
from challenge_server.seal_commands import checkpoint_command, keygen_command
from challenge_server.settings import (
    DEFAULT_LISTEN,
    DEFAULT_MAX_CLOCK_SKEW_S,
    MAX_WORKERS,
    Address,
    ServeSettings,
    SettingsError,
    parse_count,
    parse_position,
)
from challenge_server.workers import supervise

app = typer.Typer(
    name="challenge-engine",
    help="Decides prop-firm challenges trade by trade: exact, durable, auditable, over gRPC.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

HEALTH_TIMEOUT_S = 5.0
Listen = Annotated[
    str, typer.Option("--listen", envvar="CHALLENGE_LISTEN", metavar="HOST:PORT", help="Where to listen.")
]
AskedServer = Annotated[
    str, typer.Option("--listen", envvar="CHALLENGE_LISTEN", metavar="HOST:PORT", help="Where the server listens.")
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
    workers: Annotated[
        str,
        typer.Option(
            envvar="CHALLENGE_WORKERS",
            metavar="N",
            help=f"How many processes share the port, 1 to {MAX_WORKERS}. A connection is served by one of them.",
        ),
    ] = "1",
    max_group: Annotated[
        str,
        typer.Option(
            envvar="CHALLENGE_MAX_GROUP",
            metavar="N",
            help="How many trades may share a transaction; 1 turns grouping off, for comparisons.",
        ),
    ] = str(MAX_GROUP),
    seal_key: Annotated[
        list[str] | None,
        typer.Option(
            "--seal-key",
            envvar="CHALLENGE_SEAL_KEY",
            metavar="FILE",
            help="Key that signs checkpoints; keygen makes one. Given twice, both sign: so one replaces another."
            " The embedded PostgreSQL has one of its own.",
        ),
    ] = None,
    no_seal: Annotated[
        bool, typer.Option("--no-seal", envvar="CHALLENGE_NO_SEAL", help="Serve without sealing and without a key.")
    ] = False,
    adopt_tree: Annotated[
        bool,
        typer.Option(
            "--adopt-tree",
            envvar="CHALLENGE_ADOPT_TREE",
            help="Go on from a sealed tree whose key is lost, with another one. For one start.",
        ),
    ] = False,
    checkpoint_dir: Annotated[
        str | None,
        typer.Option(
            envvar="CHALLENGE_CHECKPOINT_DIR",
            metavar="DIR",
            help="Write a checkpoint there every minute: a place that the database's owner cannot rewrite.",
        ),
    ] = None,
    log_level: Annotated[
        str, typer.Option(envvar="CHALLENGE_LOG_LEVEL", metavar="LEVEL", help="debug, info, warning or error.")
    ] = "info",
) -> None:
    """Serve challenges over gRPC until SIGTERM or SIGINT."""
    with clear_errors():
        log_to_stderr(log_level)
        address = Address.parse(listen)
        settings = ServeSettings(
            address,
            max_clock_skew,
            insecure,
            workers=parse_count("--workers", workers, MAX_WORKERS),
            max_group=parse_count("--max-group", max_group, MAX_GROUP),
            seal_keys=tuple(seal_key or ()),
            adopt_tree=adopt_tree,
            checkpoint_dir=checkpoint_dir,
        )
        database = chosen_database(database_url, data_dir)
        ready = partial(_tell_ready, address.host)
        with application.ready_database(database, say) as url:
            settings = application.with_seal_keys(settings, database, url, no_seal=no_seal)
            if settings.workers == 1:
                application.run(application.serve(url, settings, ready=ready))
            else:
                supervise(url, database, settings, log_level, ready=ready)


@app.command("relay")
def relay_command(
    to: Annotated[
        str,
        typer.Option(
            "--to",
            envvar="CHALLENGE_RELAY_TO",
            metavar="URL",
            help="redis://host:6379/0?stream=…, amqp://host:5672/vhost?exchange=… or kafka://host:9092/topic."
            " With a password it is better given by environment than as an option, which others can read.",
        ),
    ],
    payload_format: Annotated[
        PayloadFormat, typer.Option("--format", envvar="CHALLENGE_RELAY_FORMAT", help="How events are written.")
    ] = PayloadFormat.JSON,
    name: Annotated[
        str | None,
        typer.Option(
            envvar="CHALLENGE_RELAY_NAME",
            metavar="NAME",
            help="Under which the cursor is stored. Default: the URL without credentials and options.",
        ),
    ] = None,
    from_beginning: Annotated[
        bool, typer.Option("--from-beginning", help="Begin a new sink with the first event. The default.")
    ] = False,
    after_position: Annotated[
        str | None, typer.Option(metavar="N", help="Begin a new sink after this position instead.")
    ] = None,
    reset: Annotated[
        bool,
        typer.Option(
            "--reset", help="Forget the stored cursor; give --from-beginning or --after-position too. For one start."
        ),
    ] = False,
    once: Annotated[bool, typer.Option("--once", help="End when the end of the log is reached.")] = False,
    database_url: DatabaseUrl = None,
    data_dir: DataDir = None,
    log_level: Annotated[
        str, typer.Option(envvar="CHALLENGE_LOG_LEVEL", metavar="LEVEL", help="debug, info, warning or error.")
    ] = "info",
) -> None:
    """Bring every event to a message broker, at least once and in order per challenge, until SIGTERM or SIGINT."""
    with clear_errors():
        log_to_stderr(log_level)
        if from_beginning and after_position is not None:
            raise SettingsError("give --from-beginning or --after-position, not both")
        if reset and not from_beginning and after_position is None:
            raise SettingsError("--reset needs --from-beginning or --after-position N: where the sink is to begin")
        start = 0 if after_position is None else parse_position("--after-position", after_position)
        target = parse_target(to)
        order = RelayOrder(target.name if name is None else name, start, reset, once)
        settings = chosen_database(database_url, data_dir)
        with application.open_database(settings, say) as url:
            if settings.url is None:
                application.migrate(url)
            check_relayable(url)
            application.run(relaying.relay(url, target, payload_format, order))


@app.command("migrate")
def migrate_command(database_url: DatabaseUrl = None, data_dir: DataDir = None) -> None:
    """Bring the schema of a database to the revision this release needs."""
    with clear_errors(), application.open_database(chosen_database(database_url, data_dir), say) as url:
        typer.echo(f"the schema is at revision {application.migrate(url)}")


app.command("replay", epilog=audit_commands.EXIT_CODES)(audit_commands.replay_command)
app.command("verify", epilog=audit_commands.EXIT_CODES)(audit_commands.verify_command)
app.command("prove")(audit_commands.prove_command)
app.command("rebuild")(log_commands.rebuild_command)
app.command("export")(log_commands.export_command)
app.command("import")(log_commands.import_command)
app.command("archive")(log_commands.archive_command)
app.command("keygen")(keygen_command)
app.command("checkpoint")(checkpoint_command)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def psql(context: typer.Context, database_url: DatabaseUrl = None, data_dir: DataDir = None) -> None:
    """Open psql on the database, also on the embedded one; what follows is passed on to psql."""
    with clear_errors(), application.open_database(chosen_database(database_url, data_dir), say) as url:
        # By environment, so that the password does not stand in the list of processes.
        asked = {"PGHOST": url.host or url.query.get("host"), "PGPORT": url.port or url.query.get("port"),
                 "PGUSER": url.username, "PGPASSWORD": url.password, "PGDATABASE": url.database}  # fmt: skip
        environment = os.environ | {name: str(value) for name, value in asked.items() if value}
        raise typer.Exit(subprocess.call([binary("psql"), *context.args], env=environment))  # noqa: S603 -- what was asked


app.command("reconcile", epilog=EXIT_CODES)(reconcile_command)


@app.command()
def health(listen: AskedServer = DEFAULT_LISTEN) -> None:
    """Ask a running server whether it serves; the exit code is 0 when it does. For containers."""
    with clear_errors():
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

    with clear_errors():
        log_to_stderr("error")
        run_demo()


def _tell_version(asked: bool) -> None:
    if asked:
        from importlib import metadata  # noqa: PLC0415 -- slow to load, and asked for rarely

        typer.echo(f"challenge-engine {metadata.version('challenge-engine')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_tell_version, help="Say which one this is.")
    ] = False,
) -> None:
    """Decides prop-firm challenges trade by trade: exact, durable, auditable, over gRPC."""


def main() -> None:
    """The console script."""
    # What gRPC's core writes about a taken port says less than our own message does.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    app()


def _tell_ready(host: str, port: int) -> None:
    typer.echo(f"challenge-engine ready on {host}:{port}")
    sys.stdout.flush()
