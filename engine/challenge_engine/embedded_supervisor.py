"""The process that keeps the embedded PostgreSQL running for as long as anybody uses it, and stops it afterwards.

A command that is killed cannot stop PostgreSQL, so somebody who outlives it has to. The supervisor watches
`users.lock`: the kernel drops the lock of a command however it ends, and once nobody holds it PostgreSQL is shut down.
Run by `challenge_engine.embedded` as `python -m challenge_engine.embedded_supervisor`.
"""

import argparse
import fcntl
import os
import select
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from challenge_engine.embedded_cluster import (
    ON_LINUX,
    PORT,
    SOCKET_DIRECTORY_PREFIX,
    SUPERVISOR_ENDED,
    Account,
    DataDirectory,
    EmbeddedPostgresError,
    end_orphans,
    stop_process,
    try_lock,
)

SUPERVISOR_POLL_S = 0.25
MAX_RESTARTS = 5
"""How often in a row a crashed PostgreSQL is started again."""
HEALTHY_AFTER_S = 60.0
"""A PostgreSQL that ran this long before it crashed starts a new row."""
MAX_SOCKET_PATH_BYTES = 107
MAX_CONNECTIONS = 400
SHARED_BUFFERS = "512MB"
"""The upper levels of the indexes of ten million trades and more; taken page by page, as they are used."""
MAX_WAL_SIZE = "2GB"
"""Checkpoints come by time, not by size: after each, every page that is written to is logged whole once."""


def spawn(directory: DataDirectory, binaries: Path, account: Account) -> None:
    """Start a supervisor that outlives us; it has its lock when this returns, unless another supervisor had it."""
    package_root = str(Path(__file__).resolve().parent.parent)
    inherited = os.environ.get("PYTHONPATH")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([package_root, *([inherited] if inherited else [])])}
    command = [sys.executable, "-m", "challenge_engine.embedded_supervisor", str(directory.path), str(binaries)]
    with directory.open_log() as log:
        subprocess.run(  # noqa: S603 - this is our own interpreter
            [*command, *(["--account", account.name] if account.is_other else [])],
            cwd="/",
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            check=False,
        )


class Supervisor:
    """Starts PostgreSQL, or adopts one that lost its supervisor, and watches over it until nobody uses it."""

    def __init__(self, directory: DataDirectory, binaries: Path, account: Account) -> None:
        self._directory = directory
        self._postgres = binaries / "postgres"
        self._account = account
        self._child: subprocess.Popen[bytes] | None = None
        self._pid = 0
        self._started_s = 0.0
        self._was_ready = False
        self._users = directory.open_lock("users")
        self._close = directory.open_lock("close")
        self._wakeup = _wakeup_on_signals()

    def run(self) -> None:
        """Return once PostgreSQL has been stopped, by us or by somebody else, or cannot be kept running."""
        self._start_or_adopt()
        restarts = 0
        while True:
            # While somebody holds the close lock a user is leaving, and an end of PostgreSQL may be his doing.
            if try_lock(self._close, fcntl.LOCK_EX):
                if try_lock(self._users, fcntl.LOCK_EX):
                    self._stop()
                    return
                fcntl.flock(self._close, fcntl.LOCK_UN)
                if not self._is_alive():
                    if self._ended_for_good():
                        return
                    restarts = 1 if time.monotonic() - self._started_s > HEALTHY_AFTER_S else restarts + 1
                    if restarts > MAX_RESTARTS:
                        _say(f"PostgreSQL crashed again after {MAX_RESTARTS} restarts; giving up")
                        return
                    _say("PostgreSQL has gone although it is in use; starting it again")
                    self._start_or_adopt()
            self._nap()

    def _start_or_adopt(self) -> None:
        directory = self._directory
        running = directory.postmaster()
        if running and running.status == "stopping":
            # Whoever asked it to stop was killed before it had stopped.
            pid = running.pid
            stop_process(pid, lambda: directory.is_postmaster(pid), running)
            running = None
        self._started_s = time.monotonic()
        self._was_ready = False
        if running:
            self._child, self._pid = None, running.pid
            _say(f"watching over PostgreSQL (process {running.pid}), which was running already")
            return
        end_orphans(directory.cluster)
        if ON_LINUX:
            # PostgreSQL takes any living process of its account for the owner of this file, also one that was given
            # the number of an earlier postmaster. We have looked at what that process is.
            (directory.cluster / "postmaster.pid").unlink(missing_ok=True)
        settings = {
            "listen_addresses": "",
            "port": str(PORT),
            "unix_socket_directories": '"' + self._socket_directory().replace('"', '""') + '"',
            "unix_socket_permissions": "0700",
            "timezone": "UTC",
            "log_timezone": "UTC",
            # While a restored backup is recovering, PostgreSQL would else let readers in and call itself ready.
            "hot_standby": "off",
            "shared_buffers": SHARED_BUFFERS,
            "max_wal_size": MAX_WAL_SIZE,
        }
        if ON_LINUX:
            # Enough for a server of many processes. Elsewhere each may cost the postmaster a file descriptor.
            settings["max_connections"] = str(MAX_CONNECTIONS)
        with directory.open_log() as log:
            self._child = self._account.popen(
                [
                    self._postgres,
                    "-D",
                    self._account.data_argument(directory.cluster),
                    *(part for name, value in settings.items() for part in ("-c", f"{name}={value}")),
                ],
                cwd=directory.cluster,
                output=log,
            )
        self._pid = self._child.pid

    def _socket_directory(self) -> str:
        """A private directory for the socket; that of a crashed PostgreSQL again, because its users know its name."""
        if recorded := self._directory.socket_directory():
            found = recorded.stat()
            if found.st_uid == self._account.uid and stat.S_IMODE(found.st_mode) == 0o700:
                for leftover in recorded.glob(".s.PGSQL.*"):
                    leftover.unlink(missing_ok=True)
                return str(recorded)
        self._directory.remove_socket_directory()
        made = Path(tempfile.mkdtemp(prefix=SOCKET_DIRECTORY_PREFIX, dir=_socket_parent(self._account)))
        self._directory.socket_record.write_text(str(made))
        if self._account.is_other:
            os.chown(made, self._account.uid, self._account.gid)
        return str(made)

    def _is_alive(self) -> bool:
        alive = self._directory.is_postmaster(self._pid) if self._child is None else self._child.poll() is None
        if alive and not self._was_ready:
            running = self._directory.postmaster()
            self._was_ready = running is not None and running.pid == self._pid and running.status == "ready"
        return alive

    def _ended_for_good(self) -> bool:
        """Whether it is no use to start it again; of an adopted PostgreSQL we cannot know how it ended."""
        if self._child is None:
            return False
        status = self._child.returncode
        if status > 0 and not self._was_ready:
            _say(f"PostgreSQL ended with status {status} before it was ready")
            return True
        return status == 0

    def _stop(self) -> None:
        if self._is_alive():
            stop_process(self._pid, self._is_alive, self._directory.postmaster())
        self._directory.remove_socket_directory()

    def _nap(self) -> None:
        if select.select([self._wakeup], [], [], SUPERVISOR_POLL_S)[0]:
            self._wakeup.recv(4096)


def _wakeup_on_signals() -> socket.socket:
    """A socket that becomes readable when PostgreSQL ends.

    The signals that ask a program to leave only wake us up: our work ends when the last user has left. They get
    handlers and are not ignored, since PostgreSQL would inherit that.
    """
    receiver, sender = socket.socketpair()
    receiver.settimeout(0)
    sender.settimeout(0)
    signal.set_wakeup_fd(sender.detach(), warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    return receiver


def _socket_parent(account: Account) -> str:
    """A directory for temporary files that the account can reach, with a name short enough for a socket below it."""
    longest = MAX_SOCKET_PATH_BYTES - len(f"/{SOCKET_DIRECTORY_PREFIX}12345678/.s.PGSQL.{PORT}")
    candidates = (tempfile.gettempdir(), "/tmp", "/var/tmp")  # noqa: S108 - mkdtemp makes a private one there
    for candidate in candidates:
        path = Path(candidate).resolve()
        if len(os.fsencode(path)) <= longest and all(_may_enter(account, part) for part in (path, *path.parents)):
            return str(path)
    raise EmbeddedPostgresError(f"none of {', '.join(candidates)} is short and open to account {account.name}")


def _may_enter(account: Account, directory: Path) -> bool:
    if not directory.is_dir():
        return False
    if not account.is_other:
        return os.access(directory, os.X_OK)
    found = directory.stat()
    return bool(found.st_mode & (stat.S_IXUSR if found.st_uid == account.uid else stat.S_IXOTH))


def _say(message: str) -> None:
    """Write to the log, which is our standard error, in the manner of PostgreSQL."""
    now = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    sys.stderr.write(f"{now} [{os.getpid()}] supervisor:  {message}\n")
    sys.stderr.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """Take the supervisor's lock, leave the caller behind, and supervise."""
    parser = argparse.ArgumentParser(prog="challenge_engine.embedded_supervisor", description=__doc__)
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("binaries", type=Path, help="directory with the programs of PostgreSQL")
    parser.add_argument("--account", help="run PostgreSQL as this account")
    options = parser.parse_args(arguments)
    directory = DataDirectory(options.data_dir)
    lock = directory.open_lock("supervisor")
    if not try_lock(lock, fcntl.LOCK_EX):
        return 0
    # The lock is shared with the child and stays with it when the parent leaves; nobody has to wait for us any more.
    if os.fork():
        os._exit(0)
    lock.truncate(0)
    try:
        account = Account.named(options.account) if options.account else Account.own()
        Supervisor(directory, options.binaries, account).run()
    finally:
        lock.write(SUPERVISOR_ENDED)
    return 0


if __name__ == "__main__":
    sys.exit(main())
