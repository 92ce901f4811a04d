"""One real PostgreSQL for the whole run, and a fresh, migrated database for every test that asks for one."""

import faulthandler
import itertools
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import psycopg
import pytest
from _pytest.faulthandler import fault_handler_stderr_fd_key
from hypothesis import HealthCheck, settings
from psycopg import sql
from sqlalchemy.engine import URL

from challenge_engine.database import normalise_url
from challenge_engine.embedded import EmbeddedPostgres
from challenge_engine.keys import make_key
from challenge_engine.migrating import migrate

settings.register_profile(
    "default", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
settings.load_profile("default")

READY = re.compile(r"challenge-engine ready on (\S+)\n")
START_DEADLINE_S = 60
SEAL_KEY_VARIABLE = "CHALLENGE_SEAL_KEY"
TEMPLATE = "migrated"
_numbers = itertools.count(1)


def pytest_configure(config: pytest.Config) -> None:
    """One key for every server that a test starts: without one, or a word about it, a database by URL is not served."""
    directory = tempfile.TemporaryDirectory(prefix="challenge-key-")
    config.add_cleanup(directory.cleanup)
    path = Path(directory.name) / "seal-key.pem"
    make_key(path)
    os.environ[SEAL_KEY_VARIABLE] = str(path)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    """Watch over the end of a test, too: pytest itself no longer does once the test has failed."""
    file = item.config.stash.get(fault_handler_stderr_fd_key, None)
    patience_s = float(item.config.getini("faulthandler_timeout"))
    if file is not None and patience_s > 0:
        faulthandler.dump_traceback_later(patience_s, file=file, exit=True)
    return (yield)


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL that lives as long as the test run, with a migrated database to copy."""
    with EmbeddedPostgres.open(tmp_path_factory.mktemp("postgres") / "data") as running:
        _be_quick(running)
        _create_database(running, TEMPLATE)
        migrate(_url(running, TEMPLATE))
        yield running


def _be_quick(running: EmbeddedPostgres) -> None:
    """Wait for no disk: nothing pulls this one's plug. Tests of durability have clusters of their own."""
    with psycopg.connect(running.conninfo, autocommit=True) as connection:
        for setting in ("fsync", "full_page_writes"):
            connection.execute(sql.SQL("ALTER SYSTEM SET {} = off").format(sql.Identifier(setting)))
        connection.execute("SELECT pg_reload_conf()")


@pytest.fixture
def database_url(postgres: EmbeddedPostgres) -> Iterator[URL]:
    """A fresh database with the schema."""
    with _fresh_database(postgres) as url:
        yield url


@pytest.fixture(scope="session")
def session_database_url(postgres: EmbeddedPostgres) -> Iterator[URL]:
    """A database that tests share; each makes challenges of its own."""
    with _fresh_database(postgres) as url:
        yield url


class _fresh_database:  # noqa: N801 -- used like a function
    def __init__(self, running: EmbeddedPostgres) -> None:
        self._running = running
        self._name = f"test_{next(_numbers)}"

    def __enter__(self) -> URL:
        _create_database(self._running, self._name, TEMPLATE)
        return _url(self._running, self._name)

    def __exit__(self, *_: object) -> None:
        with psycopg.connect(self._running.conninfo, autocommit=True) as connection:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(self._name)))


def _create_database(running: EmbeddedPostgres, name: str, template: str = "template1") -> None:
    with psycopg.connect(running.conninfo, autocommit=True) as connection:
        connection.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template))
        )


def _url(running: EmbeddedPostgres, name: str) -> URL:
    return normalise_url(running.url).set(database=name)


class ServerProcess:
    """A `challenge-engine serve` of its own process."""

    def __init__(self, *arguments: str, environment: dict[str, str] | None = None) -> None:
        self.arguments = arguments
        # A file, not a pipe: a server that logs more than a pipe holds would wait for a reader.
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 -- kept open for as long as the server runs
        self.process = subprocess.Popen(
            [sys.executable, "-m", "challenge_server", "serve", *arguments],
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=os.environ | (environment or {}),
        )
        self.address = ""
        self.stdout = ""

    def wait_ready(self) -> str:
        """HOST:PORT once the server says so; fails with its standard error when it ends instead."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + START_DEADLINE_S
        while not (match := READY.search(self.stdout)):
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.process.stdout], [], [], left)[0]:
                self.kill()
                pytest.fail(f"the server was not ready after {START_DEADLINE_S} s: {self.stderr()}")
            chunk = os.read(self.process.stdout.fileno(), 4096)
            if not chunk:
                pytest.fail(f"the server ended with {self.process.wait()}: {self.stderr()}")
            self.stdout += chunk.decode()
        self.address = match[1]
        return self.address

    def stop(self, signal_number: int = signal.SIGTERM) -> int:
        """Ask the server to stop; returns its exit code."""
        self.process.send_signal(signal_number)
        return self.process.wait(START_DEADLINE_S)

    def kill(self) -> None:
        """End the server at once."""
        self.process.kill()
        self.process.wait()

    def stderr(self) -> str:
        """All the server has said on standard error so far."""
        return os.pread(self._stderr.fileno(), os.fstat(self._stderr.fileno()).st_size, 0).decode()

    def close(self) -> None:
        """End the server if it still runs, and let go of what it said."""
        if self.process.poll() is None:
            self.kill()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._stderr.close()


@pytest.fixture
def start_server() -> Iterator[Callable[..., ServerProcess]]:
    """Starts server processes with the arguments of `serve`, and ends those that are left."""
    started: list[ServerProcess] = []

    def start(*arguments: str, environment: dict[str, str] | None = None) -> ServerProcess:
        server = ServerProcess("--listen", "127.0.0.1:0", *arguments, environment=environment)
        started.append(server)
        server.wait_ready()
        return server

    yield start
    for server in started:
        server.close()


@pytest.fixture(scope="session")
def server_address(real_server_address: str) -> str:
    """The same; modules that hold other servers to the contract, too, override this one."""
    return real_server_address


@pytest.fixture(scope="session")
def real_server_address(session_database_url: URL, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """HOST:PORT of a server that tests share; each makes challenges of its own."""
    server = ServerProcess(
        "--listen",
        "127.0.0.1:0",
        "--log-level",
        "error",
        "--database-url",
        session_database_url.render_as_string(hide_password=False),
    )
    yield server.wait_ready()
    assert server.stop() == 0
    server.close()


FAKE = """
import sys
from challenge_client.testing import FakeChallengeServer

with FakeChallengeServer() as fake:
    print(fake.address, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="session")
def fake_address() -> Iterator[str]:
    """HOST:PORT of the fake server of `challenge_client.testing`, for suites that hold both servers to the contract.

    In a process of its own: gRPC's threads do not go well with the forks that other tests need.
    """
    command = [sys.executable, "-c", FAKE]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.communicate()
        assert process.returncode == 0


@pytest.fixture(scope="session")
def project_root() -> Path:
    """The folder that holds pyproject.toml."""
    return Path(__file__).parent.parent
