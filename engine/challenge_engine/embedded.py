"""A real PostgreSQL of our own, for whoever names no database.

Any number of commands share one data directory: the first starts PostgreSQL, the last one out stops it, and a
supervisor does so for those that are killed. `embedded_cluster` tells how they keep out of each other's way.
"""

import fcntl
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import IO, Self
from urllib.parse import quote

import psycopg
from psycopg import pq, sql
from psycopg.conninfo import make_conninfo

from challenge_engine.embedded_binaries import binary, choose_account, usable_binaries
from challenge_engine.embedded_cluster import (
    Account,
    DataDirectory,
    EmbeddedPostgresError,
    Postmaster,
    account_name,
    end_orphans,
    stop_process,
    try_lock,
)
from challenge_engine.embedded_supervisor import spawn

__all__ = ["EmbeddedPostgres", "EmbeddedPostgresError", "binary", "default_data_dir"]

USER = DATABASE = "challenge"
START_POLL_S = 0.02
PROGRESS_INTERVAL_S = 1.0
HANDOVER_PATIENCE_S = 60.0
"""How long a supervisor may live without a PostgreSQL; between two of them it needs a moment."""
MAX_ATTEMPTS = 5
"""How often one command tries again when a supervisor is killed, or PostgreSQL crashes, while it is being opened."""
LOG_LIMIT_BYTES = 16 * 1024 * 1024
"""A log that is longer than this when PostgreSQL starts is put aside, in place of the one before."""
_UNFINISHED = ".unfinished-"

Progress = Callable[[str], None]


def default_data_dir() -> Path:
    """Where the database of this user lives, after the XDG base directory specification."""
    base = Path(os.environ.get("XDG_DATA_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".local" / "share") / "challenge-engine"


def _say_nothing(_message: str) -> None:
    """For those who do not want to hear of progress."""


class EmbeddedPostgres:
    """A PostgreSQL of our own in `data_dir`, shared by every command that opens it."""

    def __init__(self, directory: DataDirectory, users: IO[bytes]) -> None:
        self._directory = directory
        self._users: IO[bytes] | None = users
        self._closing = threading.Lock()
        self._postmaster = Postmaster(0, 0, "", "")

    @classmethod
    def open(cls, data_dir: Path, *, progress: Progress = _say_nothing) -> Self:
        """Block until PostgreSQL accepts connections, however long its recovery takes.

        A data directory without a cluster gets one. Raises `EmbeddedPostgresError` when PostgreSQL cannot be used.
        """
        directory = DataDirectory(Path(data_dir).absolute())
        try:
            _prepare(directory.path)
            users = directory.open_lock("users")
            _wait_for_lock(users, fcntl.LOCK_SH, lambda: progress("waiting for PostgreSQL to stop"))
        except OSError as error:
            raise EmbeddedPostgresError(f"cannot use the data directory {directory.path}: {error}") from error
        opened = cls(directory, users)
        try:
            with directory.open_lock("start") as start:
                _wait_for_lock(start, fcntl.LOCK_EX, lambda: progress("another command is starting PostgreSQL"))
                opened._postmaster = _Start(directory, progress).run()
        except BaseException as error:
            opened.close()
            if isinstance(error, OSError):
                raise EmbeddedPostgresError(f"cannot start PostgreSQL in {directory.path}: {error}") from error
            raise
        return opened

    @property
    def url(self) -> str:
        """For SQLAlchemy. It names the port, because libpq would take another one from PGPORT."""
        host = quote(self._postmaster.socket_directory, safe="")
        return f"postgresql+psycopg://{USER}@/{DATABASE}?host={host}&port={self._postmaster.port}"

    @property
    def conninfo(self) -> str:
        """For psycopg and libpq."""
        return _conninfo(self._postmaster, DATABASE)

    def close(self) -> None:
        """Leave; the last one out stops PostgreSQL and waits until it has gone. More calls do nothing."""
        with self._closing:
            users, self._users = self._users, None
        if users is None:
            return
        with users, self._directory.open_lock("close") as close:
            # Whoever holds this lock and is not the last needs no more than a moment.
            fcntl.flock(close, fcntl.LOCK_EX)
            if not try_lock(users, fcntl.LOCK_EX):
                return
            if running := self._directory.postmaster():
                stop_process(running.pid, lambda: self._directory.is_postmaster(running.pid), running)
            self._directory.remove_socket_directory()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Start:
    """One command's way to a PostgreSQL that accepts connections, under the start lock."""

    def __init__(self, directory: DataDirectory, progress: Progress) -> None:
        self._directory = directory
        self._progress = progress
        self._account = choose_account(directory.cluster)
        self._binaries, self._version = usable_binaries(self._account)
        self._log_start = directory.log_size()
        self._began_s = time.monotonic()
        self._told_at_s: float | None = None

    def run(self) -> Postmaster:
        """Return the PostgreSQL that is ready and has our database."""
        for leftover in self._directory.path.glob(f"{_UNFINISHED}*"):
            end_orphans(leftover)
            shutil.rmtree(leftover)
        if self._directory.cluster.exists():
            self._check_cluster()
        else:
            self._initdb()
        for attempt in range(1, MAX_ATTEMPTS + 1):
            postmaster = self._wait_until_ready()
            try:
                self._ensure_database(postmaster)
            except psycopg.Error as error:
                # It may have crashed since it was ready, and then it is recovering.
                if attempt == MAX_ATTEMPTS:
                    raise self._error(f"the embedded PostgreSQL cannot be used: {error}") from error
            else:
                break
        return postmaster

    def _check_cluster(self) -> None:
        cluster = self._directory.cluster
        _check_owner(cluster, self._account)
        found = (cluster / "PG_VERSION").read_text().strip()
        if found != self._version.split(".")[0]:
            raise EmbeddedPostgresError(
                f"{cluster} was made by PostgreSQL {found}, but this is PostgreSQL {self._version}; "
                "dump it with the old version and load it into a new data directory"
            )

    def _initdb(self) -> None:
        """Make the cluster under another name first, so that one that is half made is never taken for a whole one."""
        cluster, account = self._directory.cluster, self._account
        self._progress(f"creating the database cluster in {cluster}")
        unfinished = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=self._directory.path))
        if account.is_other:
            os.chown(unfinished, account.uid, account.gid)
        initdb = str(self._binaries / "initdb")
        options = ["--auth=trust", "-U", USER, "--locale=C", "--encoding=UTF8", "--no-instructions"]
        with self._directory.open_log() as log:
            process = account.popen(
                [initdb, "-D", account.data_argument(unfinished), *options], cwd=unfinished, output=log
            )
        try:
            failed = process.wait() != 0
        except BaseException:
            process.kill()
            process.wait()
            raise
        if failed:
            raise self._error("initdb could not create the database cluster")
        unfinished.rename(cluster)
        _sync_directory(self._directory.path)

    def _wait_until_ready(self) -> Postmaster:
        """See to it that a supervisor is alive and wait for its PostgreSQL, for as long as that is alive."""
        spawned = 0
        alone_since_s = self._began_s = time.monotonic()
        while True:
            supervised = self._is_supervised()
            running = self._directory.postmaster()
            if supervised and running and running.status == "ready" and self._accepts_connections(running):
                return running
            if not supervised:
                if spawned == MAX_ATTEMPTS or (spawned and self._directory.supervisor_has_ended()):
                    raise self._error("PostgreSQL ended while it was starting")
                if running is None:
                    self._progress("starting PostgreSQL")
                    self._put_long_log_aside()
                spawn(self._directory, self._binaries, self._account)
                spawned += 1
                alone_since_s = time.monotonic()
            if running:
                alone_since_s = time.monotonic()
                self._tell_how_it_goes()
            elif time.monotonic() - alone_since_s > HANDOVER_PATIENCE_S:
                raise self._error(
                    "another process watches over this data directory, but its PostgreSQL is not to be seen"
                )
            time.sleep(START_POLL_S)

    def _is_supervised(self) -> bool:
        with self._directory.open_lock("supervisor") as lock:
            return not try_lock(lock, fcntl.LOCK_EX)

    def _accepts_connections(self, postmaster: Postmaster) -> bool:
        return pq.PGconn.ping(_conninfo(postmaster, "postgres").encode()) == pq.Ping.OK

    def _tell_how_it_goes(self) -> None:
        """Report a recovery as soon as it shows, and anything else that takes long."""
        now_s = time.monotonic()
        if self._told_at_s is not None and now_s - self._told_at_s < PROGRESS_INTERVAL_S:
            return
        log = self._directory.log_tail(self._log_start)
        recovering = any(word in log for word in ("interrupted", "recovery", "redo"))
        if log and (recovering or now_s - self._began_s > PROGRESS_INTERVAL_S):
            self._told_at_s = now_s
            self._progress(f"PostgreSQL is {'recovering' if recovering else 'starting'}: {log.splitlines()[-1]}")

    def _ensure_database(self, postmaster: Postmaster) -> None:
        """Create the database; an earlier command may have been killed between initdb and this."""
        with psycopg.connect(_conninfo(postmaster, "postgres"), autocommit=True) as connection:
            if not connection.execute("SELECT FROM pg_database WHERE datname = %s", [DATABASE]).fetchall():
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))

    def _put_long_log_aside(self) -> None:
        log = self._directory.log
        if self._directory.log_size() > LOG_LIMIT_BYTES:
            log.replace(log.with_name(f"{log.name}.1"))
            self._log_start = 0

    def _error(self, message: str) -> EmbeddedPostgresError:
        tail = self._directory.log_tail(self._log_start)
        return EmbeddedPostgresError(f"{message}. The end of {self._directory.log}:\n{tail}")


def _conninfo(postmaster: Postmaster, database: str) -> str:
    return make_conninfo(host=postmaster.socket_directory, port=postmaster.port, user=USER, dbname=database)


def _prepare(data_dir: Path) -> None:
    """Make the data directory and the parents it lacks, for us alone; what exists keeps its permissions."""
    missing = [path for path in (data_dir, *data_dir.parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir(mode=0o700, exist_ok=True)
    _check_owner(data_dir, Account.own())


def _check_owner(path: Path, expected: Account) -> None:
    owner = path.stat().st_uid
    if owner != expected.uid:
        raise EmbeddedPostgresError(f"{path} belongs to {account_name(owner)}, but it should belong to {expected.name}")


def _wait_for_lock(file: IO[bytes], operation: int, before_waiting: Callable[[], None]) -> None:
    if not try_lock(file, operation):
        before_waiting()
        fcntl.flock(file, operation)


def _sync_directory(path: Path) -> None:
    """Make a renaming inside the directory survive a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
