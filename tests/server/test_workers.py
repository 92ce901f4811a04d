"""`serve --workers N`: several processes on one port, as callers and operators meet them."""

import asyncio
import concurrent.futures
import contextlib
import fcntl
import itertools
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path

import grpc
import psycopg
import pytest
from sqlalchemy.engine import URL

from challenge_engine.database import usable_connections
from challenge_engine.embedded import EmbeddedPostgres
from challenge_engine.embedded_cluster import DataDirectory, try_lock
from challenge_server import workers
from challenge_server.application import MAX_CONNECTIONS
from challenge_server.settings import MAX_WORKERS, Address, AddressError, DatabaseSettings, ServeSettings, SettingsError
from challenge_server.workers import Worker, require_connections
from propfirm.challenge.v1 import challenge_pb2 as pb
from propfirm.challenge.v1.challenge_pb2_grpc import ChallengeServiceStub
from tests.conftest import ServerProcess
from tests.engine.test_embedded import processes_of
from tests.server.calls import (
    PATIENCE_S,
    after,
    batch,
    command,
    connected,
    eventually,
    list_trades,
    make_challenge,
    submission,
    url_text,
)
from tests.server.test_serve import Load, failed, refused_to_create

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes and sockets through /proc")

Start = Callable[..., ServerProcess]
LISTENING, ESTABLISHED = "0A", "01"
MAX_CONNECTION_ATTEMPTS = 200
EVIL_START = """
import os, sys
from pathlib import Path
if "challenge_server.workers" in sys.orig_argv and Path(os.environ["EVIL"]).exists():
    print("an evil start", file=sys.stderr)
    os._exit(3)
"""


def children_of(parent: int) -> set[int]:
    """The processes that a process has started and that are alive."""
    found = set()
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit():
                state, started_by = (entry / "stat").read_text().rpartition(") ")[2].split()[:2]
                if int(started_by) == parent and state != "Z":
                    found.add(int(entry.name))
    return found


def workers_of(server: ServerProcess) -> set[int]:
    """The living workers of a server; an embedded PostgreSQL is no child of it."""
    return children_of(server.process.pid)


def is_alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    return False


def sockets(pid: int, address: str, state: str) -> set[str]:
    """The TCP sockets of a process on our port, by their inodes."""
    wanted = f"{int(address.rpartition(':')[2]):04X}"
    on_port = set()
    for table in ("tcp", "tcp6"):
        for row in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = row.split()
            if fields[1].endswith(f":{wanted}") and fields[3] == state:
                on_port.add(f"socket:[{fields[9]}]")
    found = set()
    with contextlib.suppress(OSError):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                found.add(str(descriptor.readlink()))
    return on_port & found


def all_listen(server: ServerProcess, count: int) -> bool:
    """Whether so many workers live and can be connected to."""
    pids = workers_of(server)
    return len(pids) == count and all(sockets(pid, server.address, LISTENING) for pid in pids)


def have_started(server: ServerProcess, count: int) -> None:
    """Wait until so many workers have begun to serve since the server started."""
    eventually(lambda: server.stderr().count("serves, process") >= count)


@contextlib.contextmanager
def a_connection_to_each(server: ServerProcess) -> Iterator[list[ChallengeServiceStub]]:
    """A stub for every worker: connections are made until each worker has been given one by the kernel."""
    with contextlib.ExitStack() as stack:
        pids = workers_of(server)
        stubs: dict[int, ChallengeServiceStub] = {}
        for _ in range(MAX_CONNECTION_ATTEMPTS):
            before = {pid: sockets(pid, server.address, ESTABLISHED) for pid in pids}
            stub = stack.enter_context(connected(server.address))
            stub.ListEvents(pb.ListEventsRequest(page_size=1), timeout=PATIENCE_S)
            (served_by,) = (pid for pid in pids if sockets(pid, server.address, ESTABLISHED) - before[pid])
            stubs[served_by] = stub
            if len(stubs) == len(pids):
                break
        assert set(stubs) == pids
        yield list(stubs.values())


@pytest.fixture(scope="module")
def three(session_database_url: URL) -> Iterator[ServerProcess]:
    """A server with three workers that tests share; it says nothing else than that it is ready, and only once."""
    url = url_text(session_database_url)
    server = ServerProcess("--listen", "127.0.0.1:0", "--log-level", "error", "--workers", "3", "--database-url", url)
    server.wait_ready()
    yield server
    assert server.stop() == 0
    assert server.process.stdout is not None
    assert server.stdout + server.process.stdout.read().decode() == f"challenge-engine ready on {server.address}\n"
    assert server.stderr() == ""
    server.close()


@pytest.fixture
def evil_start(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """A file, and an environment in which no worker can start while that file exists."""
    (tmp_path / "sitecustomize.py").write_text(EVIL_START)
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    return tmp_path / "evil", {"PYTHONPATH": path, "EVIL": str(tmp_path / "evil")}


# Serving


def test_when_the_server_is_ready_every_worker_serves_and_the_parent_does_not(three: ServerProcess) -> None:
    assert all_listen(three, 3)
    assert not sockets(three.process.pid, three.address, LISTENING)
    with a_connection_to_each(three) as stubs:
        challenge_id = make_challenge(stubs[0])
        for number, stub in enumerate(stubs * 2, 1):
            decision = stub.SubmitTrade(submission(challenge_id, str(number), "1", after(number)), timeout=5).decision
            assert (decision.sequence, decision.equity) == (number, str(100_000 + number))
        for stub in stubs:
            assert len(list_trades(stub, challenge_id)) == 6


def test_workers_that_write_to_the_same_challenges_number_without_gaps_and_add_exactly(three: ServerProcess) -> None:
    """Each sends trades of its own over all challenges, in another order; every trade comes at its own moment."""
    rounds, challenges = 40, 4
    with a_connection_to_each(three) as stubs:
        ids = [make_challenge(stubs[0]) for _ in range(challenges)]
        moments = itertools.count(1)

        def work(stub: ChallengeServiceStub, name: int) -> list[pb.Decision]:
            taken = []
            for number in range(rounds):
                order = ids[name:] + ids[:name]
                results = batch(
                    stub,
                    *(submission(challenge_id, f"{name}-{number}", "0.00000001", after(next(moments)))
                      for challenge_id in order),
                )  # fmt: skip
                taken += [result.decision for result in results if result.HasField("decision")]
                late = [result.rejection.reason for result in results if result.HasField("rejection")]
                assert set(late) <= {pb.ERROR_REASON_TRADE_OUT_OF_ORDER}
            return taken

        with concurrent.futures.ThreadPoolExecutor(len(stubs)) as pool:
            answers = [answer for taken in pool.map(work, stubs, range(len(stubs))) for answer in taken]
        for challenge_id in ids:
            ours = sorted((a for a in answers if a.challenge_id == challenge_id), key=lambda a: a.sequence)
            assert [answer.sequence for answer in ours] == list(range(1, len(ours) + 1))
            equities = [Decimal(100_000) + number * Decimal("0.00000001") for number in range(1, len(ours) + 1)]
            assert [Decimal(answer.equity) for answer in ours] == equities
            for stub in stubs:
                assert [item.decision for item in list_trades(stub, challenge_id)] == ours


def test_an_event_of_one_worker_reaches_the_streams_of_all(three: ServerProcess) -> None:
    with a_connection_to_each(three) as stubs:
        challenge_id = make_challenge(stubs[0])
        request = pb.StreamEventsRequest(challenge_ids=[challenge_id], from_beginning={})
        streams = [stub.StreamEvents(request, timeout=PATIENCE_S) for stub in stubs]
        stubs[0].SubmitTrade(submission(challenge_id, pnl="10000"), timeout=PATIENCE_S)
        for stream in streams:
            events = (message.event for message in stream if message.HasField("event"))
            assert [event.challenge_sequence for event in itertools.islice(events, 3)] == [1, 2, 3]
            stream.cancel()


def test_the_password_is_in_no_argument_and_every_line_of_a_worker_tells_which(
    start_server: Start, database_url: URL
) -> None:
    url = url_text(database_url.set(password="hunter2"))
    server = start_server("--workers", "2", environment={"CHALLENGE_DATABASE_URL": url})
    for pid in (server.process.pid, *workers_of(server)):
        assert b"hunter2" not in Path(f"/proc/{pid}/cmdline").read_bytes()
    with a_connection_to_each(server) as stubs:
        for stub in stubs:
            stub.SubmitTrade(submission(make_challenge(stub)), timeout=PATIENCE_S)
    assert server.stop() == 0
    said = server.stderr()
    assert "hunter2" not in said
    labels = [re.search(r" INFO (\[worker \d\] )?(\S+): ", line) for line in said.splitlines()]
    assert {label[1] for label in labels if label and label[2] == "challenge_server.application"} >= {
        "[worker 1] ", "[worker 2] ",
    }  # fmt: skip
    assert {label[1] for label in labels if label and label[2] == "challenge_server.workers"} == {None}


# The port


async def test_a_reserved_port_is_taken_for_everybody_but_those_who_share_it() -> None:
    for host in ("127.0.0.1", "localhost", "0.0.0.0"):
        async with Address(host, 0).reserved() as address:
            assert address.port > 0
            for attempt in (address.require_free, address.reserved().__aenter__):
                with pytest.raises(AddressError, match="the port is taken"):
                    await attempt()
            with socket.socket() as joining:
                joining.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                joining.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                joining.bind(("127.0.0.1", address.port))
                joining.listen()
                with socket.create_connection(joining.getsockname(), timeout=PATIENCE_S):
                    joining.accept()[0].close()
        # What lingers of that connection is in nobody's way.
        await address.require_free()
        async with address.reserved() as again:
            assert again == address


def test_a_port_that_a_server_with_workers_has_is_taken(three: ServerProcess, session_database_url: URL) -> None:
    url = url_text(session_database_url)
    for count in ("1", "3"):
        said = failed("serve", "--listen", three.address, "--database-url", url, "--workers", count)
        assert f"cannot listen on {three.address}: the port is taken" in said


def test_a_port_that_another_server_has_is_taken_for_workers(server_address: str, session_database_url: URL) -> None:
    for address in (server_address, server_address.replace("127.0.0.1", "localhost")):
        said = failed("serve", "--listen", address, "--database-url", url_text(session_database_url), "--workers", "2")
        assert f"cannot listen on {address}: the port is taken" in said


# Stop


def test_a_stop_under_load_keeps_what_was_acknowledged_and_leaves_no_process(
    embedded_dir: Path, start_server: Start
) -> None:
    """By either signal; SIGINT as a terminal sends it for Ctrl-C, to every process of the group."""
    acknowledged: dict[str, list[pb.Decision]] = {}
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        server = start_server("--data-dir", str(embedded_dir), "--workers", "2")
        pids = workers_of(server)
        load = Load(server.address, threads=8)
        load.wait_for(10)
        for pid in pids if signal_number == signal.SIGINT else ():
            os.kill(pid, signal.SIGINT)
        assert server.stop(signal_number) == 0
        assert not any(map(is_alive, pids))
        assert not processes_of(embedded_dir)["postgres"]
        load.join()
        acknowledged |= load.acknowledged
        assert {error.code() for error in load.errors} == {grpc.StatusCode.UNAVAILABLE}
        assert "Traceback" not in server.stderr()
        assert "ERROR" not in server.stderr()
    again = start_server("--data-dir", str(embedded_dir), "--log-level", "error")
    with connected(again.address) as stub:
        for challenge_id, decisions in acknowledged.items():
            assert [item.decision for item in list_trades(stub, challenge_id)] == decisions
    assert again.stop() == 0


def test_a_server_that_is_told_to_stop_before_it_is_ready_stops(session_database_url: URL) -> None:
    """By Ctrl-C, which reaches workers that have no handlers yet."""
    url = url_text(session_database_url)
    server = ServerProcess("--listen", "127.0.0.1:0", "--workers", "2", "--database-url", url)
    pids = eventually(lambda: workers_of(server))
    for pid in pids:
        os.kill(pid, signal.SIGINT)
    assert server.stop(signal.SIGINT) == 0
    assert not any(map(is_alive, pids))
    assert server.process.stdout is not None
    assert server.process.stdout.read() == b""
    assert "Traceback" not in server.stderr()
    server.close()


def test_when_the_parent_is_killed_the_workers_finish_and_no_postgresql_is_left(
    embedded_dir: Path,
    start_server: Start,
) -> None:
    """A call that waits for a lock is still answered: a worker counts as a user of PostgreSQL, which waits for it."""
    server = start_server("--data-dir", str(embedded_dir), "--workers", "2")
    pids = workers_of(server)
    load = Load(server.address)
    load.wait_for(10)
    running = DataDirectory(embedded_dir).postmaster()
    assert running is not None
    with connected(server.address) as stub:
        challenge_id = make_challenge(stub)
        conninfo = {"host": running.socket_directory, "user": "challenge", "dbname": "challenge"}
        with psycopg.connect(**conninfo, autocommit=True) as watcher, psycopg.connect(**conninfo) as blocker:
            blocker.execute("SELECT FROM challenges WHERE challenge_id = %s FOR UPDATE", [challenge_id])
            accepted = stub.SubmitTrade.future(submission(challenge_id), timeout=PATIENCE_S)
            waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
            eventually(lambda: watcher.execute(waiting).fetchone() != (0,))
            server.kill()
            draining = eventually(lambda: refused_to_create(stub))
            assert draining.reason == "DRAINING"
            with DataDirectory(embedded_dir).open_lock("users") as users:
                assert not try_lock(users, fcntl.LOCK_EX)
        assert accepted.result().decision.sequence == 1
        eventually(lambda: not any(map(is_alive, pids)))
        eventually(lambda: not any(processes_of(embedded_dir).values()))
    load.join()
    assert {error.code() for error in load.errors} == {grpc.StatusCode.UNAVAILABLE}
    again = start_server("--data-dir", str(embedded_dir), "--log-level", "error")
    with connected(again.address) as stub:
        for ident, decisions in load.acknowledged.items():
            assert [item.decision for item in list_trades(stub, ident)][: len(decisions)] == decisions
        assert len(list_trades(stub, challenge_id)) == 1
    assert again.stop() == 0


async def test_a_worker_that_does_not_stop_is_killed(
    session_database_url: URL, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(workers, "STOP_PATIENCE_S", 0.2)
    before = children_of(os.getpid())
    async with Address("127.0.0.1", 0).reserved() as address:
        worker = Worker(1, DatabaseSettings(url_text(session_database_url)), ServeSettings(address, workers=2), "error")
        keeping = asyncio.create_task(worker.keep())
        await asyncio.wait_for(worker.has_served.wait(), PATIENCE_S)
        keeping.cancel()
        (pid,) = children_of(os.getpid()) - before
        os.kill(pid, signal.SIGSTOP)
        await workers.stop_all([worker])
        assert not is_alive(pid)
    assert "worker 1 did not stop within 0.2 s and is killed" in caplog.text


# Ends that nobody asked for


def test_killed_workers_are_replaced_calls_go_on_and_the_port_stays_ours(
    start_server: Start, database_url: URL
) -> None:
    """Callers of a killed one meet UNAVAILABLE, send the same again, and nothing is lost or done twice."""
    server = start_server("--workers", "2", "--database-url", url_text(database_url))
    pids = workers_of(server)
    codes = set()
    enough = threading.Event()

    def work(stub: ChallengeServiceStub, challenge_id: str, kept: list[pb.Decision]) -> None:
        while not enough.is_set():
            number = len(kept) + 1
            try:
                request = submission(challenge_id, str(number), "0.01", after(number))
                kept.append(stub.SubmitTrade(request, timeout=PATIENCE_S).decision)
            except grpc.RpcError as error:
                codes.add(error.code())

    with a_connection_to_each(server) as stubs, concurrent.futures.ThreadPoolExecutor(2) as pool:
        ids = [make_challenge(stub) for stub in stubs]
        acknowledged: list[list[pb.Decision]] = [[] for _ in stubs]
        running = [pool.submit(work, *each) for each in zip(stubs, ids, acknowledged, strict=True)]
        try:
            eventually(lambda: min(map(len, acknowledged)) >= 10)
            os.kill(min(pids), signal.SIGKILL)
            sent = list(map(len, acknowledged))
            eventually(lambda: all(len(kept) > before + 1 for kept, before in zip(acknowledged, sent, strict=True)))
            have_started(server, 3)
        finally:
            enough.set()
        for future in running:
            future.result(PATIENCE_S)
        assert codes == {grpc.StatusCode.UNAVAILABLE}
        for challenge_id, kept in zip(ids, acknowledged, strict=True):
            for recorded in (list_trades(stub, challenge_id) for stub in stubs):
                assert [item.decision.sequence for item in recorded] == list(range(1, len(kept) + 1))
                assert [item.decision.equity for item in recorded] == [decision.equity for decision in kept]

    pids = workers_of(server)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: not any(map(is_alive, pids)))
    host, _, port = server.address.rpartition(":")
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(OSError, match="in use"):
            other.bind((host, int(port)))
    have_started(server, 5)
    assert all_listen(server, 2)
    assert server.stop() == 0
    ends = re.findall(r"ERROR \S+: worker \d has gone: (.*); starting it again in ", server.stderr())
    assert ends == ["signal 9 (Killed)"] * 3


def test_a_worker_that_does_not_start_again_is_tried_with_a_growing_pause(
    evil_start: tuple[Path, dict[str, str]], start_server: Start, database_url: URL
) -> None:
    evil, environment = evil_start
    server = start_server("--workers", "2", "--database-url", url_text(database_url), environment=environment)
    evil.touch()
    (victim, survivor) = workers_of(server)
    os.kill(victim, signal.SIGKILL)
    eventually(lambda: "starting it again in 1 s" in server.stderr())
    with connected(server.address) as stub:
        make_challenge(stub)
    evil.unlink()
    have_started(server, 3)
    pauses = re.findall(r"worker \d has gone: (.*); starting it again in (\S+) s", server.stderr())
    assert pauses[:2] == [("signal 9 (Killed)", "0.5"), ("exit code 3", "1")]
    assert survivor in workers_of(server)
    assert server.stop() == 0


def test_a_worker_that_cannot_start_at_all_is_a_clear_error(
    evil_start: tuple[Path, dict[str, str]], session_database_url: URL
) -> None:
    evil, environment = evil_start
    evil.touch()
    url = url_text(session_database_url)
    server = ServerProcess(
        "--listen", "127.0.0.1:0", "--workers", "2", "--database-url", url, environment=environment
    )  # fmt: skip
    assert server.process.wait(PATIENCE_S) == 1
    assert server.process.stdout is not None
    assert server.process.stdout.read() == b""
    said = server.stderr()
    assert "Traceback" not in said
    assert re.fullmatch(r"challenge-engine: error: worker \d cannot start: exit code 3", said.splitlines()[-1])
    server.close()


# Settings


@pytest.mark.parametrize("number", ["0", "17", "x", "-1", "1.5", "٣", "", "9" * 5000])
@pytest.mark.parametrize(("option", "largest"), [("--workers", "16"), ("--max-group", "256")])
def test_a_number_out_of_its_range_is_refused(option: str, largest: str, number: str, tmp_path: Path) -> None:
    number = "257" if (option, number) == ("--max-group", "17") else number
    said = failed("serve", option, number, "--data-dir", str(tmp_path / "data"))
    assert f"{option} must be a whole number from 1 to {largest}, got '{number[:100]}'" in said
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("variable", ["CHALLENGE_WORKERS", "CHALLENGE_MAX_GROUP"])
def test_a_number_of_the_environment_is_checked_too(variable: str) -> None:
    option = variable.replace("CHALLENGE_", "--").lower().replace("_", "-")
    assert option in failed("serve", environment={variable: "0"})


def test_workers_need_as_many_connections_as_they_may_use() -> None:
    require_connections(4, 4 * MAX_CONNECTIONS)
    with pytest.raises(SettingsError, match=r"^--workers 4 may use 96 connections, 24 each, .* allows 95, "):
        require_connections(4, 4 * MAX_CONNECTIONS - 1)


def test_the_embedded_postgresql_allows_the_connections_of_all_workers(postgres: EmbeddedPostgres) -> None:
    require_connections(MAX_WORKERS, usable_connections(postgres.url))


def test_a_database_that_allows_too_few_connections_is_refused(embedded_dir: Path) -> None:
    with (
        EmbeddedPostgres.open(embedded_dir) as postgres,
        psycopg.connect(postgres.conninfo, autocommit=True) as connection,
    ):
        connection.execute("ALTER SYSTEM SET superuser_reserved_connections = 330")
        connection.execute("ALTER SYSTEM SET reserved_connections = 8")
    ended = command("serve", "--listen", "127.0.0.1:0", "--data-dir", str(embedded_dir), "--workers", "3")
    assert (ended.returncode, ended.stdout) == (1, "")
    said = ended.stderr.splitlines()[-1]
    assert "error: --workers 3 may use 72 connections, 24 each, but the database allows 62" in said
