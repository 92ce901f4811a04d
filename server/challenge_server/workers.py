"""Several processes on one port: a parent that starts workers, starts again those that end, and stops them.

A worker is a fresh interpreter, because the threads of gRPC do not survive a fork. Its standard input brings its orders
as one line of JSON: unlike arguments, which every user can read, that may hold the password of the database. The parent
writes no more, and the end of that input, by the parent's will or its death, tells the worker to stop. Its standard
output takes one word back: that it serves, or why it cannot.
"""

import asyncio
import json
import logging
import os
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from typing import IO, Any, NoReturn

from sqlalchemy.engine import URL

from challenge_engine.database import DatabaseError, usable_connections
from challenge_engine.embedded import EmbeddedPostgresError
from challenge_engine.keys import KeyFileError
from challenge_server import application
from challenge_server.logs import log_to_stderr
from challenge_server.settings import Address, AddressError, DatabaseSettings, ServeSettings, SettingsError

logger = logging.getLogger(__name__)

SERVING = "serving"
START_PATIENCE_S = 120.0
STOP_PATIENCE_S = application.STOP_GRACE_S + 15.0
"""A worker's own grace, and what it needs to give the last events their positions and to close its connections."""
MIN_PAUSE_S = 0.5
MAX_PAUSE_S = 30.0
HEALTHY_AFTER_S = 60.0
"""A worker that lived this long before it ended is started again after the shortest pause."""


class WorkerError(RuntimeError):
    """A worker cannot start; the message says why."""


def require_connections(workers: int, usable: int) -> None:
    """Raise `SettingsError` unless a database with so many usable connections is enough for the workers."""
    needed = workers * application.MAX_CONNECTIONS
    if needed > usable:
        raise SettingsError(
            f"--workers {workers} may use {needed} connections, {application.MAX_CONNECTIONS} each, but the database"
            f" allows {usable}, without those it reserves: use fewer workers, or raise max_connections"
        )


def supervise(
    url: URL, database: DatabaseSettings, settings: ServeSettings, log_level: str, *, ready: Callable[[int], None]
) -> None:
    """Serve with several workers until SIGTERM or SIGINT, then stop them cleanly.

    `ready` is called with the port once every worker serves. Raises `SettingsError` when the database allows too few
    connections, `AddressError`, and `WorkerError` when a worker ends before it has ever served.
    """
    require_connections(settings.workers, usable_connections(url))
    asyncio.run(_keep_workers(database, settings, log_level, ready))


async def _keep_workers(
    database: DatabaseSettings, settings: ServeSettings, log_level: str, ready: Callable[[int], None]
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with settings.listen.reserved() as address:
        settings = replace(settings, listen=address)
        # One of them writes the directory of checkpoints.
        others = replace(settings, checkpoint_dir=None)
        workers = [
            Worker(number, database, settings if number == 1 else others, log_level)
            for number in range(1, settings.workers + 1)
        ]
        stopped = asyncio.create_task(stop.wait(), name="stop")
        serving = asyncio.create_task(_all_serve(workers), name="serving")
        keeping = [asyncio.create_task(worker.keep(), name=f"worker-{worker.number}") for worker in workers]
        try:
            await asyncio.wait([stopped, serving, *keeping], return_when=asyncio.FIRST_COMPLETED)
            if serving.done():
                ready(address.port)
            await asyncio.wait([stopped, *keeping], return_when=asyncio.FIRST_COMPLETED)
            if not stop.is_set():
                next(task for task in keeping if task.done()).result()
            logger.info("stopping: the workers finish what they accepted")
        finally:
            await _end([stopped, serving, *keeping])
            await stop_all(workers)


async def _all_serve(workers: Sequence["Worker"]) -> None:
    for worker in workers:
        await worker.has_served.wait()


async def _end(tasks: Sequence["asyncio.Task[Any]"]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class Worker:
    """One worker as its parent sees it: a process, and another one whenever that ends."""

    def __init__(self, number: int, database: DatabaseSettings, settings: ServeSettings, log_level: str) -> None:
        self.number = number
        self.has_served = asyncio.Event()
        orders = {"database": asdict(database), "settings": asdict(settings), "log_level": log_level}
        self._orders = json.dumps(orders, default=str).encode() + b"\n"
        self._process: Process | None = None

    async def keep(self) -> NoReturn:
        """Have a process that serves until this is cancelled; raises `WorkerError` if the first one never does."""
        pause_s = MIN_PAUSE_S
        while True:
            began_s = time.monotonic()
            ended = await self._live()
            if not self.has_served.is_set():
                raise WorkerError(f"worker {self.number} cannot start: {ended}")
            if time.monotonic() - began_s > HEALTHY_AFTER_S:
                pause_s = MIN_PAUSE_S
            logger.error("worker %d has gone: %s; starting it again in %g s", self.number, ended, pause_s)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, MAX_PAUSE_S)

    async def stop(self) -> None:
        """Tell the process to stop, and wait until it has gone."""
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            await self._process.wait()

    def kill(self) -> None:
        """End the process at once."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    async def _live(self) -> str:
        """The life of one process; returns why it ended."""
        try:
            process = self._process = await self._spawn()
        except OSError as error:
            return f"no process can be started: {error}"
        word = await self._word_of(process)
        if word == SERVING:
            logger.info("worker %d serves, process %d", self.number, process.pid)
            self.has_served.set()
        code = await process.wait()
        if word not in ("", SERVING):
            return word
        return f"exit code {code}" if code >= 0 else f"signal {-code} ({signal.strsignal(-code)})"

    async def _spawn(self) -> Process:
        # Ctrl-C reaches every process of the terminal, but it is for the parent to tell the workers. A new process has
        # no handlers yet; what is blocked, however, it inherits.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", "-m", "challenge_server.workers", str(self.number), stdin=PIPE, stdout=PIPE
            )
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        assert process.stdin is not None
        process.stdin.write(self._orders)
        return process

    async def _word_of(self, process: Process) -> str:
        """What a new process says before it closes its output; nothing if it ends without a word."""
        assert process.stdout is not None
        try:
            async with asyncio.timeout(START_PATIENCE_S):
                return (await process.stdout.read()).decode()
        except TimeoutError:
            process.kill()
            return f"it did not serve within {START_PATIENCE_S:g} s"


async def stop_all(workers: Sequence["Worker"]) -> None:
    """Let every worker finish what it accepted, and kill those that do not end."""
    stopping = {asyncio.create_task(worker.stop()): worker for worker in workers}
    _, unfinished = await asyncio.wait(stopping, timeout=STOP_PATIENCE_S)
    for task in unfinished:
        logger.error("worker %d did not stop within %g s and is killed", stopping[task].number, STOP_PATIENCE_S)
        stopping[task].kill()
    await asyncio.gather(*stopping)


def main() -> None:
    """One worker process; its number is its argument, for those who list processes."""
    parent = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    line = sys.stdin.buffer.readline()
    if not line:
        return  # The parent was killed meanwhile.
    orders = json.loads(line)
    log_to_stderr(orders["log_level"], f"worker {sys.argv[1]}")
    database = DatabaseSettings.parse(**orders["database"])
    listen, seal_keys = Address(**orders["settings"]["listen"]), tuple(orders["settings"]["seal_keys"])
    settings = ServeSettings(**orders["settings"] | {"listen": listen, "seal_keys": seal_keys})
    try:
        # A worker counts as a user of the embedded PostgreSQL, and finishes its work even if the parent is killed.
        with application.open_database(database, logger.info) as url:
            application.run(_work(url, settings, parent))
    except (AddressError, DatabaseError, EmbeddedPostgresError, KeyFileError) as error:
        if parent.closed:
            logger.error("%s", error)  # noqa: TRY400 -- the message says it all
        else:
            _tell(parent, str(error))
        sys.exit(1)
    except Exception:
        logger.exception("the worker cannot go on")
        sys.exit(1)


async def _work(url: URL, settings: ServeSettings, parent: IO[str]) -> None:
    """Serve until a signal comes, or the end of the standard input."""
    loop = asyncio.get_running_loop()
    orders = sys.stdin.fileno()

    def stop() -> None:
        loop.remove_reader(orders)
        signal.raise_signal(signal.SIGTERM)

    loop.add_reader(orders, stop)
    await application.serve(url, settings, ready=lambda _: _tell(parent, SERVING))


def _tell(parent: IO[str], word: str) -> None:
    # A parent that was killed meanwhile hears nothing any more.
    with suppress(BrokenPipeError), parent:
        parent.write(word)


if __name__ == "__main__":
    main()
