"""What every command on one data directory must agree on: its files, its locks, and whether PostgreSQL runs in it.

Four locks keep the commands apart, all of them `flock`s, which the kernel drops with the process that held them:

- `users.lock` is shared by everyone who uses the database; when somebody has it exclusively, nobody uses it and
  PostgreSQL is being stopped.
- `close.lock` is held by whoever is finding out whether anybody is left. Making a shared `flock` exclusive drops the
  shared one first, and two who leave at the same time could each take the other for one who stays.
- `start.lock` is held by the one command that is making the cluster or starting PostgreSQL.
- `supervisor.lock` is held by the supervisor for as long as it lives.

Only the standard library is used here, because the supervisor lives as long as the database and should stay small.
"""

import fcntl
import os
import pwd
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

PORT = 5432
STOP_PATIENCE_S = 300.0
QUIT_PATIENCE_S = 60.0
ORPHAN_PATIENCE_S = 5.0
POLL_S = 0.02
ANSWER_PATIENCE_S = 5.0
CANNOT_CONNECT_NOW = b"C57P03\0"
"""The field of PostgreSQL's answer with the SQLSTATE that says that it is starting, stopping or recovering."""
LOG_TAIL_BYTES = 4000
SUPERVISOR_ENDED = b"ended"
SOCKET_DIRECTORY_PREFIX = "chpg-"

ON_LINUX = sys.platform.startswith("linux")


class EmbeddedPostgresError(RuntimeError):
    """The embedded PostgreSQL cannot be used; the message says why."""


@dataclass(frozen=True, slots=True)
class Account:
    """The account PostgreSQL runs as, since it refuses to run as root."""

    name: str
    uid: int
    gid: int

    @classmethod
    def named(cls, name: str) -> "Account":
        """Look an account up; raises `KeyError` when there is none of that name."""
        entry = pwd.getpwnam(name)
        return cls(name, entry.pw_uid, entry.pw_gid)

    @classmethod
    def own(cls) -> "Account":
        """The account this process runs as."""
        uid = os.geteuid()
        return cls(account_name(uid), uid, os.getegid())

    @property
    def is_other(self) -> bool:
        """Whether programs have to change their account to run as this one."""
        return self.uid != os.geteuid()

    def data_argument(self, cluster: Path) -> str:
        """The `-D` of a program that `popen` starts inside `cluster`.

        Another account may not be allowed to walk through the parents of the data directory. We enter it before we
        change the account, and the magic link leads there again without a look at the parents.
        """
        return "/proc/self/cwd" if self.is_other and ON_LINUX else str(cluster)

    def popen(self, command: Sequence[str | Path], *, cwd: Path, output: IO[bytes] | int) -> subprocess.Popen[bytes]:
        """Start a program of PostgreSQL as this account, in a session of its own.

        It gets an environment of its own too: settings such as PGPORT would reach into it, and secrets of ours are none
        of the account's business.
        """
        identity: dict[str, Any] = {"user": self.uid, "group": self.gid, "extra_groups": []} if self.is_other else {}
        environment = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}
        if "LD_LIBRARY_PATH" in os.environ:
            environment["LD_LIBRARY_PATH"] = os.environ["LD_LIBRARY_PATH"]
        return subprocess.Popen(  # noqa: S603 - the programs are those of PostgreSQL
            command,
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **identity,
        )


@dataclass(frozen=True, slots=True)
class Postmaster:
    """A running PostgreSQL, as its `postmaster.pid` tells; the later lines of that file appear while it starts."""

    pid: int
    port: int
    socket_directory: str
    status: str


@dataclass(frozen=True, slots=True)
class DataDirectory:
    """The files of one embedded PostgreSQL."""

    path: Path

    @property
    def cluster(self) -> Path:
        """PGDATA."""
        return self.path / "cluster"

    @property
    def log(self) -> Path:
        """What PostgreSQL, initdb and the supervisor have to say."""
        return self.path / "postgresql.log"

    @property
    def socket_record(self) -> Path:
        """The name of the socket directory, so that one that a killed PostgreSQL left behind is found again."""
        return self.path / "socket-directory"

    def open_lock(self, name: str) -> IO[bytes]:
        """Open a lock file anew: an `flock` belongs to the open file, and no child inherits this one."""
        descriptor = os.open(self.path / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        return os.fdopen(descriptor, "r+b", buffering=0)

    def supervisor_has_ended(self) -> bool:
        """Whether the latest supervisor ended by itself; a killed one could not say so in its lock file."""
        return (self.path / "supervisor.lock").read_bytes() == SUPERVISOR_ENDED

    def open_log(self) -> IO[bytes]:
        """Open the log for appending; a child inherits it and needs no permission of its own."""
        descriptor = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        return os.fdopen(descriptor, "ab", buffering=0)

    def log_size(self) -> int:
        """Where the next message will begin, in bytes."""
        return self.log.stat().st_size if self.log.exists() else 0

    def log_tail(self, start: int = 0) -> str:
        """The last lines of the log, and nothing from before byte `start`."""
        if not self.log.exists():
            return ""
        with self.log.open("rb") as file:
            file.seek(max(start, self.log_size() - LOG_TAIL_BYTES))
            return file.read().decode(errors="replace").strip()

    def postmaster(self) -> Postmaster | None:
        """The PostgreSQL that runs on this cluster, if one does."""
        try:
            lines = (self.cluster / "postmaster.pid").read_text(errors="replace").splitlines()
            lines += [""] * 8
            found = Postmaster(int(lines[0]), int(lines[3] or PORT), lines[4], lines[7].strip())
        except (OSError, ValueError):
            return None
        return found if self.is_postmaster(found.pid) else None

    def is_postmaster(self, pid: int) -> bool:
        """Whether this process is alive and works on our cluster; the number may have been given to another since."""
        if pid <= 0:
            return False
        if ON_LINUX:
            return _works_in(pid, self.cluster)
        try:
            os.kill(pid, 0)
        except OSError:
            return False
        return True

    def socket_directory(self) -> Path | None:
        """The recorded socket directory, if it still exists."""
        with suppress(FileNotFoundError):
            recorded = Path(self.socket_record.read_text())
            if recorded.name.startswith(SOCKET_DIRECTORY_PREFIX) and recorded.is_dir() and not recorded.is_symlink():
                return recorded
        return None

    def remove_socket_directory(self) -> None:
        """Remove the socket directory; only for those who know that no PostgreSQL is using it."""
        if recorded := self.socket_directory():
            shutil.rmtree(recorded, ignore_errors=True)
        self.socket_record.unlink(missing_ok=True)


def account_name(uid: int) -> str:
    """The name of an account for messages; some containers run as a number without a name."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def try_lock(file: IO[bytes], operation: int) -> bool:
    """Take an `flock` unless that would mean waiting; a lock that `file` already had is lost when this fails."""
    try:
        fcntl.flock(file, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def stop_process(pid: int, is_alive: Callable[[], bool], running: Postmaster | None) -> None:
    """Stop a postmaster and wait until it has gone: a fast shutdown, and an immediate one only if that does not end.

    PostgreSQL 18 never ends a fast shutdown that is requested while it recovers from the crash of a backend: it waits
    for a checkpointer that it has told nothing. An immediate shutdown loses nothing then; the recovery starts again.
    """
    requests = [(signal.SIGINT, STOP_PATIENCE_S), (signal.SIGQUIT, QUIT_PATIENCE_S)]
    for request, patience_s in requests[1:] if running and _recovers_from_crash(running) else requests:
        if is_alive():
            with suppress(ProcessLookupError):
                os.kill(pid, request)
        if _wait_until(lambda: not is_alive(), patience_s):
            return
    raise EmbeddedPostgresError(f"PostgreSQL (process {pid}) did not stop, not even when told to stop immediately")


def _recovers_from_crash(postmaster: Postmaster) -> bool:
    """Whether it has been ready before and now turns connections away.

    Asked in PostgreSQL's own protocol, version 3.0, because the supervisor is to do without psycopg.
    """
    if postmaster.status != "ready":
        return False
    settings = b"user\0challenge\0database\0postgres\0\0"
    with socket.socket(socket.AF_UNIX) as connection, suppress(OSError):
        connection.settimeout(ANSWER_PATIENCE_S)
        connection.connect(f"{postmaster.socket_directory}/.s.PGSQL.{postmaster.port}")
        connection.sendall(struct.pack("!II", 8 + len(settings), 3 << 16) + settings)
        return CANNOT_CONNECT_NOW in connection.recv(1024)
    return False


def end_orphans(directory: Path) -> None:
    """End what a killed postmaster or initdb left running in `directory`.

    They end by themselves, initdb when it has finished and backends when they notice that their postmaster has died.
    But a busy backend may take long to notice, and PostgreSQL does not start while one of them has the shared memory.
    """
    for request in (None, signal.SIGQUIT, signal.SIGKILL):
        orphans = _postgresql_processes(directory)
        if request is not None:
            for pid in orphans:
                with suppress(ProcessLookupError):
                    os.kill(pid, request)
        if _wait_until(lambda: not _postgresql_processes(directory), ORPHAN_PATIENCE_S):
            return
    raise EmbeddedPostgresError(f"processes of an earlier PostgreSQL do not end: {_postgresql_processes(directory)}")


def _works_in(pid: int, directory: Path) -> bool:
    try:
        return Path(f"/proc/{pid}/cwd").samefile(directory)
    except OSError:
        return False


def _postgresql_processes(directory: Path) -> list[int]:
    """Processes of PostgreSQL that work in `directory`; without /proc there is no telling."""
    if not ON_LINUX:
        return []
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and _works_in(int(entry.name), directory):
            with suppress(OSError):
                # The kernel appends " (deleted)" when the file has been replaced since.
                program = (entry / "exe").readlink().name.split(" ")[0]
                if program in ("postgres", "initdb"):
                    found.append(int(entry.name))
    return found


def _wait_until(condition: Callable[[], bool], patience_s: float) -> bool:
    deadline = time.monotonic() + patience_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True
