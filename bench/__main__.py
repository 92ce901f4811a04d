"""The benchmarks: `make bench` and `make bench-growth`.

Everything runs on loopback, on an embedded PostgreSQL of its own. Scenarios take turns, round after round, so that a
noisy machine troubles all of them alike; what counts are ratios within a round, and their medians.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import psutil
import psycopg
import typer
from psycopg import sql
from psycopg.conninfo import make_conninfo

from bench import growth, proofs, report, streams
from bench.processes import Server, running
from bench.scenarios import BATCH_LANES, CHALLENGES_IN_A_BATCH, PACED_LANES, Figures, Target, echo
from bench.textbook import Textbook
from bench.trades import TradeMaker, make_challenges
from challenge_engine.database import normalise_url
from challenge_engine.embedded import EmbeddedPostgres
from challenge_engine.keys import load_key, load_or_make_key
from challenge_engine.migrating import migrate

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)

CHALLENGES = max(BATCH_LANES * CHALLENGES_IN_A_BATCH, PACED_LANES)
CALIBRATION_S = 2
TEXTBOOK_S = 4
BATCH_TRADES = 36_000
UNARY_TRADES = 6_400
ECHO_CALLS = 12_800
UNGROUPED_TRADES = 1_280
HOT_TRADES = 10_000
IDLE_CALLS = 400
IDLE_ECHO_CALLS = 1_000
HALF_S = 3

KEY = Path("build/bench-seal-key.pem")
"""Signs the checkpoints of every service that is measured."""

Rounds = Annotated[int, typer.Option(min=1, help="How often every scenario runs; medians are told.")]
Workers = Annotated[int, typer.Option(min=1, max=16, help="Processes of the service, and of the echo server.")]


@contextlib.contextmanager
def cluster() -> Iterator[tuple[EmbeddedPostgres, psutil.Process, Path]]:
    """An embedded PostgreSQL on the disk of the project, its postmaster, and a folder; all gone afterwards."""
    build = Path("build")
    build.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=build) as name:
        folder = Path(name).resolve()
        load_or_make_key(KEY)
        # PostgreSQL may run as another account.
        folder.chmod(0o755)
        with EmbeddedPostgres.open(folder / "postgres") as postgres:
            with psycopg.connect(postgres.conninfo) as connection:
                row = connection.execute("SELECT pg_backend_pid()").fetchone()
                assert row is not None
                postmaster = psutil.Process(row[0]).parent()
            assert postmaster is not None
            yield postgres, postmaster, folder


def make_database(postgres: EmbeddedPostgres, name: str) -> str:
    """The connection string of a new, empty database."""
    with psycopg.connect(postgres.conninfo, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    return make_conninfo(postgres.conninfo, dbname=name)


@contextlib.contextmanager
def serving(postgres: EmbeddedPostgres, name: str, *arguments: str) -> Iterator[tuple[Server, str]]:
    """The service on a new database of that name."""
    url = normalise_url(postgres.url).set(database=name)
    conninfo = make_database(postgres, name)
    migrate(url)
    text = url.render_as_string(hide_password=False)
    environment = os.environ | {"CHALLENGE_DATABASE_URL": text, "CHALLENGE_LOG_LEVEL": "error"}
    if "--no-seal" not in arguments:
        environment["CHALLENGE_SEAL_KEY"] = str(KEY)
    with running("challenge_server", "serve", "--listen", "127.0.0.1:0", *arguments, environment=environment) as server:
        yield server, conninfo


@app.command()
def run(rounds: Rounds = 3, workers: Workers = 1) -> None:
    """Throughput and latency beside the peers: pgbench, an empty echo call, and grouping switched off."""
    with cluster() as (postgres, postmaster, folder), contextlib.ExitStack() as stack:
        textbook = Textbook(make_database(postgres, "textbook"), folder)
        report.say(f"pg_test_fsync: {textbook.fsyncs_per_s():.0f} fdatasync/s")
        rates = textbook.find_best(CALIBRATION_S)
        report.say("pgbench, clients: transactions/s: " + ", ".join(f"{n}: {rate:.0f}" for n, rate in rates.items()))

        def target(name: str, *arguments: str) -> Target:
            server, conninfo = stack.enter_context(serving(postgres, name, *arguments))
            return Target(server, postmaster, conninfo, make_challenges(server.address, CHALLENGES), TradeMaker())

        service = target("service", "--workers", str(workers))
        ungrouped = target("ungrouped", "--workers", str(workers), "--max-group", "1")
        empty = stack.enter_context(running("bench.echo_server", str(workers), environment=os.environ))
        service.prepare()
        ungrouped.prepare()
        service.unary(1_280)
        ungrouped.unary(128)
        echo_load(empty)

        measured: list[Figures] = []
        for number in range(1, rounds + 1):
            report.say(f"round {number} of {rounds}")
            figures: Figures = {"fsyncs_per_s": textbook.fsyncs_per_s()}
            figures["textbook_per_s"] = textbook.rate(textbook.best_clients, TEXTBOOK_S)
            figures |= service.batch(BATCH_TRADES)
            figures |= echo_load(empty)
            figures |= service.unary(UNARY_TRADES)
            figures |= ungrouped.unary(UNGROUPED_TRADES, "ungrouped")
            figures |= service.hot(HOT_TRADES)
            figures |= service.idle(IDLE_CALLS)
            figures |= echo(empty, IDLE_ECHO_CALLS, lanes=1, name="echo_idle")
            half = figures["unary_per_s"] / 2
            figures |= service.paced(half, round(half * HALF_S))
            figures |= {
                "batch_to_textbook": figures["batch_per_s"] / figures["textbook_per_s"],
                "unary_to_echo": figures["unary_per_s"] / figures["echo_per_s"],
                "unary_to_ungrouped": figures["unary_per_s"] / figures["ungrouped_per_s"],
                "idle_p50_to_echo": figures["idle_p50_ms"] / figures["echo_idle_p50_ms"],
            }
            measured.append(figures)
        report.tell(measured, title=f"make bench, {workers} worker(s), {rounds} rounds", name="bench")


def echo_load(empty: Server) -> Figures:
    """The echo server under the load of the unary scenario."""
    return echo(empty, ECHO_CALLS, lanes=64, name="echo")


@app.command("growth")
def grow(rounds: Rounds = 3) -> None:
    """The same rates after a million and ten million stored trades, and the server's memory over a million."""
    with cluster() as (postgres, postmaster, _):
        growth.run(postgres, postmaster, serving, rounds=rounds)


@app.command("proofs")
def prove(rounds: Rounds = 3) -> None:
    """What hash chains and seals cost, how soon is sealed, and how fast all of it is replayed, verified and proved."""
    with cluster() as (postgres, postmaster, folder):
        proofs.run(postgres, postmaster, serving, folder, load_key(KEY), rounds=rounds)


@app.command("stream")
def stream(rounds: Rounds = 3) -> None:
    """Event streams: delivery, catching up, a thousand subscribers, and stalled ones."""
    with cluster() as (postgres, _postmaster, _):
        streams.run(postgres, serving, rounds=rounds)


if __name__ == "__main__":
    app()
