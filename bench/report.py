"""Tells what was measured: a table for people, JSON for programs."""

import datetime
import json
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path

import grpc
import psutil
from rich.console import Console
from rich.table import Table

from bench.scenarios import Figures

RESULTS = Path("bench/results")


def say(line: str) -> None:
    """A line on standard output, at once."""
    print(line, flush=True)


def machine() -> dict[str, object]:
    """What it was measured on."""
    found = Path("/proc/cpuinfo")
    lines = found.read_text().splitlines() if found.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": models[0] if models else platform.processor(),
        "cores": psutil.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "grpcio": grpc.__version__,
    }


def tell(measured: Sequence[Figures], *, title: str, name: str) -> None:
    """Print medians with the smallest and the largest value, and keep every round as JSON."""
    table = Table(title=title)
    for heading in ("figure", "median", "smallest", "largest"):
        table.add_column(heading, justify="left" if heading == "figure" else "right")
    for key in measured[0]:
        values = [figures[key] for figures in measured]
        table.add_row(key, *(f"{value:,.2f}" for value in (statistics.median(values), min(values), max(values))))
    Console().print(table)
    RESULTS.mkdir(exist_ok=True)
    moment = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
    path = RESULTS / f"{name}-{moment}.json"
    path.write_text(json.dumps({"title": title, "machine": machine(), "rounds": measured}, indent=2) + "\n")
    say(f"written to {path}")
