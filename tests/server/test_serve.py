"""`challenge-engine serve`, `migrate` and `health` as an operator meets them: start, refusals, health, clean stops."""

import concurrent.futures
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import psycopg
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from psycopg import sql
from sqlalchemy.engine import URL
from typer.testing import CliRunner

from challenge_engine.database import normalise_url
from challenge_engine.embedded import EmbeddedPostgres
from challenge_engine.keys import make_key, parse_public_key, verify_signature
from challenge_rules.notes import Checkpoint, SignedNote
from challenge_server.application import MIN_PING_INTERVAL_MS
from challenge_server.cli import app
from propfirm.challenge.v1 import challenge_pb2 as pb
from tests.conftest import SEAL_KEY_VARIABLE, ServerProcess
from tests.engine.test_embedded import processes_of
from tests.server.calls import (
    PATIENCE_S,
    SERVICE,
    after,
    command,
    connected,
    eventually,
    libpq,
    list_trades,
    make_challenge,
    read_refusal,
    submission,
    url_text,
)

Start = Callable[..., ServerProcess]


@pytest.fixture
def empty_database_url(postgres: EmbeddedPostgres) -> Iterator[URL]:
    """A database without the schema."""
    name = "unmigrated"
    with psycopg.connect(postgres.conninfo, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        yield normalise_url(postgres.url).set(database=name)
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def failed(*arguments: str, environment: dict[str, str] | None = None) -> str:
    """What a command that must fail says on standard error: one line of ours, and no traceback.

    Run within this process: these commands end before they start anything, and a process each would take a second.
    """
    ours: dict[str, str | None] = {
        name: None for name in os.environ if name.startswith("CHALLENGE_") and name != SEAL_KEY_VARIABLE
    }
    ended = CliRunner().invoke(app, list(arguments), env=ours | (environment or {}))
    assert (ended.exit_code, ended.stdout) == (1, ""), ended
    assert isinstance(ended.exception, SystemExit), f"a traceback: {ended.exception!r}"
    assert ended.stderr.startswith("challenge-engine: error: ")
    assert ended.stderr.count("\n") == 1
    return ended.stderr


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# Start


def test_port_0_takes_a_free_port_and_the_ready_line_tells_it(server_address: str) -> None:
    host, _, port = server_address.rpartition(":")
    assert host == "127.0.0.1"
    assert 0 < int(port) < 65536
    ended = command("health", "--listen", server_address)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "SERVING\n", "")


def test_a_database_by_url_is_not_served_without_a_key_or_a_word_about_it(session_database_url: URL) -> None:
    said = command("serve", "--listen", "127.0.0.1:0", "--database-url", url_text(session_database_url)).stderr
    assert "challenge-engine keygen" in said
    assert "--no-seal" in said


def test_the_embedded_postgresql_has_a_key_of_its_own_and_seals_what_is_committed(
    start_server: Start, tmp_path: Path
) -> None:
    data_dir = tmp_path / "data"
    server = start_server("--data-dir", str(data_dir), environment={SEAL_KEY_VARIABLE: ""})
    with connected(server.address) as stub:
        make_challenge(stub)
    assert server.stop() == 0
    made = command("checkpoint", "--data-dir", str(data_dir))
    assert made.returncode == 0
    key = parse_public_key(str(data_dir / "seal-key.pem.pub"))
    note = SignedNote.parse(made.stdout)
    assert note.verified_by([key], verify_signature) == [key]
    assert Checkpoint.parse_body(note.text).tree_size == 1


def test_a_tree_that_another_key_signed_is_not_served_unless_that_key_is_said_to_be_lost(
    start_server: Start, database_url: URL, tmp_path: Path
) -> None:
    server = start_server("--database-url", url_text(database_url))
    with connected(server.address) as stub:
        make_challenge(stub)
    assert server.stop() == 0
    make_key(tmp_path / "other.pem")
    other = ("--database-url", url_text(database_url), "--seal-key", str(tmp_path / "other.pem"))
    said = command("serve", "--listen", "127.0.0.1:0", *other).stderr
    assert "has no good signature of" in said
    assert "--adopt-tree" in said
    assert start_server(*other, "--adopt-tree").stop() == 0


def test_a_taken_port_is_a_clear_error(server_address: str, session_database_url: URL) -> None:
    """grpc would bind it a second time and take half of the calls."""
    ended = command("serve", "--listen", server_address, "--no-seal", "--database-url", url_text(session_database_url))
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "Traceback" not in ended.stderr
    said = ended.stderr.splitlines()[-1]
    assert said.startswith("challenge-engine: error: ")
    assert server_address in said
    assert "taken" in said


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0", "192.0.2.1:50051", "example.org:50051"])
def test_listening_beyond_loopback_needs_to_be_asked_for(address: str, tmp_path: Path) -> None:
    said = failed("serve", "--listen", address, "--data-dir", str(tmp_path / "data"))
    assert address in said
    assert "--insecure" in said
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("listen", ["", "50051", "localhost", "localhost:", ":50051", "127.0.0.1:x", "::1:50051"])
def test_an_address_that_is_none_is_named(listen: str, tmp_path: Path) -> None:
    assert "--listen" in failed("serve", "--listen", listen, "--data-dir", str(tmp_path / "data"))


@pytest.mark.parametrize("port", ["65536", "-1", "٣", "9" * 5000])
def test_a_port_that_is_none_is_named(port: str, tmp_path: Path) -> None:
    assert "--listen" in failed("serve", "--listen", f"127.0.0.1:{port}", "--data-dir", str(tmp_path / "data"))


def test_a_database_url_and_a_data_directory_exclude_each_other(tmp_path: Path) -> None:
    said = failed("serve", "--database-url", "postgresql://localhost/x", "--data-dir", str(tmp_path / "data"))
    assert "--database-url" in said
    assert "--data-dir" in said


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"CHALLENGE_LISTEN": "nowhere"}, "--listen"),
        ({"CHALLENGE_LISTEN": "0.0.0.0:0"}, "--insecure"),
        ({"CHALLENGE_DATABASE_URL": "mysql://localhost/x"}, "PostgreSQL"),
        ({"CHALLENGE_DATABASE_URL": "postgresql://localhost/x", "CHALLENGE_DATA_DIR": "/x"}, "--data-dir"),
        ({"CHALLENGE_LOG_LEVEL": "loud", "CHALLENGE_LISTEN": "127.0.0.1:0"}, "--log-level"),
        ({"CHALLENGE_MAX_CLOCK_SKEW": "-1"}, "--max-clock-skew"),
    ],
    ids=lambda value: "" if isinstance(value, str) else " ".join(value),
)
def test_a_bad_setting_from_the_environment_is_named(environment: dict[str, str], named: str) -> None:
    assert named in failed("serve", environment=environment)


@pytest.mark.parametrize(
    "url", ["not a url", "mysql://u:hunter2@localhost/x", "postgresql://u:hunter2@localhost:port/x", "sqlite:///x"]
)
def test_a_url_that_names_no_postgresql_is_refused_without_its_password(url: str) -> None:
    said = failed("serve", "--listen", "127.0.0.1:0", "--database-url", url)
    assert "PostgreSQL" in said or "postgresql" in said
    assert "hunter2" not in said


@pytest.mark.parametrize("subcommand", ["serve", "migrate"])
def test_an_unreachable_database_is_a_clear_error_without_its_password(subcommand: str) -> None:
    url = f"postgresql://u:hunter2@127.0.0.1:{free_port()}/x"
    said = failed(subcommand, "--database-url", url)
    assert "database" in said
    assert "hunter2" not in said


def test_a_database_that_does_not_exist_is_a_clear_error(session_database_url: URL) -> None:
    assert "no_such_database" in failed(
        "serve", "--database-url", url_text(session_database_url.set(database="no_such_database"))
    )


def test_a_database_without_the_schema_is_not_served_until_it_is_migrated(
    empty_database_url: URL, start_server: Start
) -> None:
    url = url_text(empty_database_url)
    said = failed("serve", "--listen", "127.0.0.1:0", "--database-url", url)
    assert "challenge-engine migrate" in said
    migrated = command("migrate", "--database-url", url)
    assert (migrated.returncode, migrated.stderr) == (0, "")
    assert "revision" in migrated.stdout
    with connected(start_server("--database-url", url).address) as stub:
        make_challenge(stub)


def test_every_setting_can_come_from_the_environment(database_url: URL) -> None:
    """Among them the leave to listen beyond loopback."""
    port = free_port()
    server = ServerProcess(
        environment={
            "CHALLENGE_LISTEN": f"0.0.0.0:{port}",
            "CHALLENGE_INSECURE": "true",
            "CHALLENGE_DATABASE_URL": url_text(database_url),
            "CHALLENGE_LOG_LEVEL": "error",
            "CHALLENGE_MAX_CLOCK_SKEW": "3600",
        }
    )
    assert server.wait_ready() == f"0.0.0.0:{port}"
    with connected(f"127.0.0.1:{port}") as stub:
        challenge_id = make_challenge(stub)
        soon = after(time.time() - after(0).timestamp() + 1800)
        stub.SubmitTrade(submission(challenge_id, executed_at=soon), timeout=PATIENCE_S)
    assert server.stop() == 0
    assert server.stderr() == ""
    server.close()


# Health


def test_health_fails_when_nobody_answers() -> None:
    assert "no answer" in failed("health", "--listen", f"127.0.0.1:{free_port()}")


def test_health_is_not_serving_while_the_database_is_away(
    postgres: EmbeddedPostgres, database_url: URL, start_server: Start
) -> None:
    # Each process watches for itself, and the connections below may be served by different ones.
    server = start_server("--database-url", url_text(database_url), "--workers", "1")
    with (
        grpc.insecure_channel(server.address) as channel,
        psycopg.connect(postgres.conninfo, autocommit=True) as outside,
    ):
        stub = health_pb2_grpc.HealthStub(channel)

        def status(service: str = "") -> str:
            answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=PATIENCE_S)
            return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))

        def allow(allowed: str) -> None:
            statement = sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}")
            outside.execute(statement.format(sql.Identifier(str(database_url.database)), sql.SQL(allowed)))

        assert (status(), status(SERVICE)) == ("SERVING", "SERVING")
        allow("false")
        terminate = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
        outside.execute(terminate, [database_url.database])
        eventually(lambda: status() == status(SERVICE) == "NOT_SERVING")
        ended = command("health", "--listen", server.address)
        assert (ended.returncode, ended.stdout) == (1, "NOT_SERVING\n")
        allow("true")
        eventually(lambda: status() == status(SERVICE) == "SERVING")
    with connected(server.address) as challenges:
        make_challenge(challenges)


def test_a_database_that_cannot_be_written_is_unavailable_not_serving_and_used_again_afterwards(
    postgres: EmbeddedPostgres, database_url: URL, start_server: Start
) -> None:
    """As after a failover that left us on the standby; and a lost privilege does not end the watch over health."""
    server = start_server("--database-url", url_text(database_url))
    name = sql.Identifier(str(database_url.database))
    with (
        connected(server.address) as stub,
        psycopg.connect(postgres.conninfo, autocommit=True) as outside,
        psycopg.connect(libpq(database_url), autocommit=True) as inside,
    ):
        terminate = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'challenge-engine'"

        def health() -> str:
            return command("health", "--listen", server.address).stdout.strip()

        outside.execute(sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = on").format(name))
        inside.execute(terminate + " AND datname = current_database()")
        # Sessions end a moment after they are told to; one may end during a COMMIT.
        refused = eventually(lambda: refused_to_create(stub))
        if refused.reason == "OUTCOME_UNKNOWN":
            refused = refused_to_create(stub)
        assert (refused.code, refused.reason) == ("UNAVAILABLE", "DATABASE_UNAVAILABLE")
        eventually(lambda: health() == "NOT_SERVING")
        outside.execute(sql.SQL("ALTER DATABASE {} RESET default_transaction_read_only").format(name))
        inside.execute(terminate + " AND datname = current_database()")
        eventually(lambda: health() == "SERVING")
        inside.execute("ALTER TABLE event_log RENAME TO event_log_away")
        eventually(lambda: health() == "NOT_SERVING")
        inside.execute("ALTER TABLE event_log_away RENAME TO event_log")
        eventually(lambda: health() == "SERVING")
        make_challenge(stub)


def test_a_role_that_lacks_privileges_is_told_which(postgres: EmbeddedPostgres, database_url: URL) -> None:
    with psycopg.connect(libpq(database_url), autocommit=True) as connection:
        connection.execute("DROP ROLE IF EXISTS clerk")
        connection.execute("CREATE ROLE clerk LOGIN")
        try:
            url = url_text(database_url.set(username="clerk"))
            said = failed("serve", "--listen", "127.0.0.1:0", "--database-url", url)
            assert "permission denied" in said
            connection.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO clerk")
            connection.execute("GRANT INSERT ON trades TO clerk")
            said = failed("serve", "--listen", "127.0.0.1:0", "--database-url", url)
            assert "UPDATE on challenges" in said
            assert "INSERT on trades" not in said
            said = failed(
                "migrate", "--database-url", url_text(database_url.set(username="clerk", database="postgres"))
            )
            assert "permission denied" in said
        finally:
            connection.execute("DROP OWNED BY clerk")
            connection.execute("DROP ROLE clerk")


def test_localhost_is_taken_when_either_of_its_addresses_is(server_address: str, session_database_url: URL) -> None:
    port = server_address.rpartition(":")[2]
    said = failed("serve", "--listen", f"localhost:{port}", "--database-url", url_text(session_database_url))
    assert f"cannot listen on localhost:{port}: the port is taken" in said


@pytest.mark.parametrize("subcommand", ["serve", "migrate", "psql"])
def test_an_empty_choice_of_database_is_refused_and_so_are_two(subcommand: str, tmp_path: Path) -> None:
    """An empty variable is a forgotten secret, not a wish for the embedded database."""
    assert "CHALLENGE_DATABASE_URL" in failed(subcommand, environment={"CHALLENGE_DATABASE_URL": ""})
    assert "--data-dir" in failed(subcommand, "--data-dir", "")
    both = ("--database-url", "postgresql://localhost/x", "--data-dir", str(tmp_path / "data"))
    assert "not both" in failed(subcommand, *both)
    assert not (tmp_path / "data").exists()


def test_psql_opens_the_database_of_the_service(session_database_url: URL) -> None:
    url = url_text(session_database_url)
    printed = command("psql", "--database-url", url, "-At", "-c", "SELECT count(*) FROM event_log")
    assert (printed.returncode, printed.stdout) == (0, "1\n")


def test_reflection_lists_the_service(server_address: str) -> None:
    options = ["--protocol", "grpc", "--http2-prior-knowledge"]
    buf = [str(Path(sys.executable).parent / "buf"), "curl", *options]
    listed = subprocess.run(
        [*buf, "--list-services", f"http://{server_address}"], capture_output=True, text=True, timeout=60, check=True
    )
    assert SERVICE in listed.stdout.split()
    assert "grpc.health.v1.Health" in listed.stdout.split()
    request = json.dumps({"initialBalance": "1"})
    made = subprocess.run(
        [*buf, "-d", request, f"http://{server_address}/{SERVICE}/CreateChallenge"],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert json.loads(made.stdout)["challenge"]["equity"] == "1"


PING = b"\x00\x00\x08\x06\x00\x00\x00\x00\x00"
GOAWAY = 7
PINGS = 4


class Pinger:
    """An HTTP/2 connection by hand that makes no call and only pings, so that every frame is seen."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), timeout=PATIENCE_S)
        self.socket.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00")

    def ping(self, number: int) -> bool:
        """Whether a ping is answered; False when the server sends us away instead."""
        payload = number.to_bytes(8, "big")
        self.socket.sendall(PING + payload)
        while True:
            head = self._read(9)
            kind, flags, body = head[3], head[4], self._read(int.from_bytes(head[:3], "big"))
            if kind == GOAWAY:
                assert b"too_many_pings" in body
                return False
            if (kind, flags & 1, body) == (PING[3], 1, payload):
                return True

    def _read(self, size: int) -> bytes:
        read = b""
        while len(read) < size:
            chunk = self.socket.recv(size - len(read))
            assert chunk, "the server cut the connection"
            read += chunk
        return read


@pytest.fixture(scope="module", autouse=True)
def pings(server_address: str) -> Iterator["concurrent.futures.Future[list[bool]]"]:
    """What became of pings at the shortest interval the server promises to bear; sent while other tests run."""
    pinger = Pinger(server_address)
    pause = threading.Event()

    def work() -> list[bool]:
        answers = []
        for number in range(PINGS):
            answers.append(pinger.ping(number))
            if number < PINGS - 1:
                pause.wait(MIN_PING_INTERVAL_MS / 1000 + 0.1)
        return answers

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        yield pool.submit(work)
        pause.set()
    pinger.socket.close()


# Stop


class Load:
    """Trades sent on several challenges by several threads until the server refuses; what was acknowledged is kept."""

    def __init__(self, address: str, threads: int = 4) -> None:
        self.address = address
        self.acknowledged: dict[str, list[pb.Decision]] = {}
        self.errors: list[grpc.RpcError] = []
        self._pool = concurrent.futures.ThreadPoolExecutor(threads)
        self._running = [self._pool.submit(self._work) for _ in range(threads)]

    def _work(self) -> None:
        with connected(self.address) as stub:
            challenge_id = make_challenge(stub)
            kept = self.acknowledged[challenge_id] = []
            for number in itertools.count(1):
                request = submission(challenge_id, str(number), "0.01", after(number))
                try:
                    kept.append(stub.SubmitTrade(request, timeout=PATIENCE_S).decision)
                except grpc.RpcError as error:
                    self.errors.append(error)
                    return

    def wait_for(self, trades: int) -> None:
        """Until each thread has so many trades acknowledged."""
        threads = len(self._running)
        eventually(
            lambda: len(self.acknowledged) == threads and min(map(len, list(self.acknowledged.values()))) >= trades
        )

    def join(self) -> None:
        """Until every thread has met its error."""
        for future in self._running:
            future.result(PATIENCE_S)
        self._pool.shutdown()


def test_a_stop_under_load_answers_what_was_accepted_and_leaves_no_postgresql(
    embedded_dir: Path, start_server: Start
) -> None:
    """By either signal. What a stop refuses is UNAVAILABLE, which tells a gateway to send it again."""
    acknowledged: dict[str, list[pb.Decision]] = {}
    codes = set()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        server = start_server("--data-dir", str(embedded_dir))
        assert processes_of(embedded_dir)["postgres"]
        load = Load(server.address, threads=8)
        load.wait_for(10)
        began = time.monotonic()
        assert server.stop(signal_number) == 0
        assert time.monotonic() - began < 15
        assert not processes_of(embedded_dir)["postgres"]
        # The supervisor notices within its poll interval.
        eventually(lambda: not processes_of(embedded_dir)["supervisor"])
        load.join()
        acknowledged |= load.acknowledged
        assert "Traceback" not in server.stderr()
        for error in load.errors:
            codes.add(error.code())
            # The server said so itself, or there was no connection any more to send on.
            if "grpc-status-details-bin" in dict(error.trailing_metadata() or ()):
                assert read_refusal(error).reason == "DRAINING"
    again = start_server("--data-dir", str(embedded_dir), "--log-level", "error")
    with connected(again.address) as stub:
        for challenge_id, decisions in acknowledged.items():
            assert [item.decision for item in list_trades(stub, challenge_id)] == decisions
    assert again.stop() == 0
    assert codes == {grpc.StatusCode.UNAVAILABLE}


def test_calls_in_flight_when_the_signal_comes_are_finished(start_server: Start, database_url: URL) -> None:
    """A call that waits for a lock when SIGTERM comes is answered with its decision, and new ones with DRAINING."""
    server = start_server("--database-url", url_text(database_url))
    with connected(server.address) as stub:
        challenge_id = make_challenge(stub)
        with psycopg.connect(libpq(database_url), autocommit=True) as watcher:
            with psycopg.connect(libpq(database_url)) as blocker:
                blocker.execute("SELECT FROM challenges WHERE challenge_id = %s FOR UPDATE", [challenge_id])
                accepted = stub.SubmitTrade.future(submission(challenge_id), timeout=PATIENCE_S)
                waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = %s"
                eventually(lambda: watcher.execute(waiting, [database_url.database]).fetchone() != (0,))
                server.process.send_signal(signal.SIGTERM)
                draining = eventually(lambda: refused_to_create(stub))
                assert (draining.code, draining.reason) == ("UNAVAILABLE", "DRAINING")
            decision = accepted.result().decision
            assert (decision.sequence, decision.equity) == (1, "100001")
            found = watcher.execute("SELECT trade_id FROM trades WHERE challenge_id = %s", [challenge_id])
            assert found.fetchall() == [("t-1",)]
        assert server.process.wait(PATIENCE_S) == 0


def refused_to_create(stub: object) -> object:
    """How CreateChallenge is refused; None while it is not."""
    try:
        stub.CreateChallenge(pb.CreateChallengeRequest(initial_balance="1"), timeout=PATIENCE_S)  # type: ignore[attr-defined]
    except grpc.RpcError as error:
        return read_refusal(error)
    return None


def test_an_idle_server_stops_at_once_and_leaves_no_connection(start_server: Start, database_url: URL) -> None:
    server = start_server("--database-url", url_text(database_url))
    began = time.monotonic()
    assert server.stop(signal.SIGINT) == 0
    assert time.monotonic() - began < 10
    with psycopg.connect(libpq(database_url), autocommit=True) as connection:
        ours = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()"
        eventually(lambda: connection.execute(ours, [database_url.database]).fetchone() == (0,))


def test_clients_that_ping_without_calls_are_not_cut(
    server_address: str, pings: "concurrent.futures.Future[list[bool]]"
) -> None:
    """Every 5 s is allowed, twice as often as clients are promised; a flood of pings shows what being cut looks like.

    The last test of the module, because its pings are sent while the others run.
    """
    assert MIN_PING_INTERVAL_MS <= 10_000
    flood = Pinger(server_address)
    assert not all(flood.ping(number) for number in range(100))
    flood.socket.close()
    assert pings.result(60) == [True] * PINGS
