"""Does the rate hold when millions of trades are stored, and does the server's memory stay flat?"""

import random
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack

import psutil

from bench import filling, report
from bench.processes import Server
from bench.scenarios import Figures, Target
from bench.trades import TradeMaker
from challenge_engine.embedded import EmbeddedPostgres

Serving = Callable[..., AbstractContextManager[tuple[Server, str]]]

LOADED_CHALLENGES = 2_000
"""Drawn at random from all, so that the load meets cold and scattered rows."""
SIZES = {"empty": (LOADED_CHALLENGES, 0), "1m": (100_000, 10), "10m": (100_000, 100)}
"""Challenges, and trades of each."""
BATCH_TRADES = 48_000
UNARY_TRADES = 6_400
IDLE_CALLS = 400
MEMORY_TRADES = 1_000_000
MEMORY_STEP = 50_000


def run(postgres: EmbeddedPostgres, postmaster: psutil.Process, serving: Serving, *, rounds: int) -> None:
    """Fill one database for each size, load them in turn, and watch the memory of the server of the empty one."""
    with ExitStack() as stack:
        targets: dict[str, Target] = {}
        for name, (challenges, trades) in SIZES.items():
            server, conninfo = stack.enter_context(serving(postgres, f"growth_{name}"))
            began = time.monotonic()
            ids = filling.fill(conninfo, challenges=challenges, trades_per_challenge=trades)
            report.say(f"{name}: {challenges * trades:,} trades stored by COPY in {time.monotonic() - began:.0f} s")
            sample = random.sample(ids, LOADED_CHALLENGES)
            targets[name] = Target(server, postmaster, conninfo, sample, TradeMaker())
            targets[name].prepare()
            targets[name].unary(1_280)
        measured: list[Figures] = []
        for number in range(1, rounds + 1):
            report.say(f"round {number} of {rounds}")
            measured.append(_round(targets))
        report.tell(measured, title=f"make bench-growth, {rounds} rounds", name="growth")
        memory = _memory(targets["empty"])
        report.tell([memory], title=f"the server's memory over {MEMORY_TRADES:,} trades", name="memory")


def _round(targets: dict[str, Target]) -> Figures:
    figures: Figures = {}
    order = list(targets.items())
    # Whoever comes first may find a quieter machine.
    random.shuffle(order)
    for name, target in order:
        found = target.batch(BATCH_TRADES) | target.unary(UNARY_TRADES) | target.idle(IDLE_CALLS)
        kept = ("batch_per_s", "batch_server_us", "batch_database_us", "unary_per_s", "idle_p50_ms")
        figures |= {f"{name}_{key}": found[key] for key in kept}
    for name in targets:
        for key in ("batch_per_s", "unary_per_s"):
            figures[f"{name}_to_empty_{key}"] = figures[f"{name}_{key}"] / figures[f"empty_{key}"]
    return dict(sorted(figures.items()))


def _memory(target: Target) -> Figures:
    """Resident memory of the server in MiB, first and last and extremes, while it takes a million trades."""
    seen: list[float] = []
    for _ in range(MEMORY_TRADES // MEMORY_STEP):
        target.batch(MEMORY_STEP)
        seen.append(target.server.memory_bytes() / 2**20)
    return {"first_mib": seen[0], "last_mib": seen[-1], "least_mib": min(seen), "most_mib": max(seen)}
