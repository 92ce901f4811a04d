"""The processes under test: started, measured, stopped."""

import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import psutil

READY = re.compile(r"ready on (\S+)")
STOP_S = 60


@dataclass(frozen=True)
class Server:
    """A server process, and the processes it started."""

    address: str
    process: psutil.Process

    def cpu_s(self) -> float:
        """Processor time used so far."""
        return tree_cpu_s(self.process)

    def memory_bytes(self) -> int:
        """Resident memory of all its Python processes."""
        return sum(process.memory_info().rss for process in _tree(self.process) if process.name() != "postgres")


@contextmanager
def running(module: str, *arguments: str, environment: Mapping[str, str]) -> Iterator[Server]:
    """`python -m module arguments`, from the moment it says that it is ready until the end of the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments], stdout=subprocess.PIPE, env=dict(environment), text=True
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        ready = READY.search(line)
        if ready is None:
            raise RuntimeError(f"{module} did not start: {line!r}")
        yield Server(ready[1], psutil.Process(process.pid))
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def tree_cpu_s(root: psutil.Process) -> float:
    """Processor time of a process and its descendants, also of those that have ended."""
    total = 0.0
    for process in _tree(root):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


def _tree(root: psutil.Process) -> list[psutil.Process]:
    return [root, *root.children(recursive=True)]


@dataclass
class CpuMeter:
    """Processor time used by the server, the database and this process between start and stop."""

    server: Server
    postgres: psutil.Process
    server_s: float = 0.0
    database_s: float = 0.0
    loader_s: float = 0.0
    _before: tuple[float, float, float] = field(default=(0.0, 0.0, 0.0), repr=False)

    def __enter__(self) -> "CpuMeter":
        self._before = self._now()
        return self

    def __exit__(self, *_: object) -> None:
        after = self._now()
        self.server_s, self.database_s, self.loader_s = (
            late - early for early, late in zip(self._before, after, strict=True)
        )

    def _now(self) -> tuple[float, float, float]:
        return self.server.cpu_s(), tree_cpu_s(self.postgres), time.process_time()
