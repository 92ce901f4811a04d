"""What is measured: each scenario loads one server and returns figures by name."""

import random
import statistics
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import psutil
import psycopg

from bench import echo_server, http2_loader
from bench.http2_loader import Outcome
from bench.processes import CpuMeter, Server
from bench.trades import SERVICE, TradeMaker

Figures = dict[str, float]

BATCH_SIZE = 100
BATCH_LANES = 12
CHALLENGES_IN_A_BATCH = 50
UNARY_LANES = 64
CONNECTIONS = 16
HOT_BATCH_SIZE = 500
PACED_LANES = 512
FIRST_TRADES = 3
SAMPLE_S = 0.05

SUBMIT_TRADE = SERVICE + "SubmitTrade"
BATCH_SUBMIT_TRADES = SERVICE + "BatchSubmitTrades"
ECHO_BODY = http2_loader.message(b"")


class NotAcceptedError(RuntimeError):
    """A measured trade was not accepted: the figure would be of something else."""


@dataclass
class Target:
    """A server, its database and its challenges, to be loaded."""

    server: Server
    postgres: psutil.Process
    conninfo: str
    challenge_ids: Sequence[str]
    maker: TradeMaker

    def prepare(self) -> None:
        """Give every challenge its first trades: one that has just begun writes an event as well."""
        lanes = self.maker.batches(
            [self.challenge_ids], FIRST_TRADES * len(self.challenge_ids) // BATCH_SIZE, BATCH_SIZE
        )
        self._measure("first", BATCH_SUBMIT_TRADES, lanes, BATCH_SIZE)

    def batch(self, trades: int) -> Figures:
        """Accepted trades a second by batches of 100, each lane with challenges of its own."""
        ids = random.sample(self.challenge_ids, BATCH_LANES * CHALLENGES_IN_A_BATCH)
        groups = [ids[number::BATCH_LANES] for number in range(BATCH_LANES)]
        calls = max(1, trades // BATCH_LANES // BATCH_SIZE)
        lanes = self.maker.batches(groups, calls, BATCH_SIZE)
        return self._measure("batch", BATCH_SUBMIT_TRADES, lanes, BATCH_SIZE, connections=BATCH_LANES)

    def unary(self, trades: int, name: str = "unary") -> Figures:
        """Accepted trades a second by single calls, 64 in flight, each lane with a challenge of its own."""
        ids = random.sample(self.challenge_ids, UNARY_LANES)
        lanes = self.maker.unary(ids, trades // UNARY_LANES)
        return self._measure(name, SUBMIT_TRADE, lanes, connections=CONNECTIONS)

    def hot(self, trades: int) -> Figures:
        """Accepted trades a second on one challenge, by batches, one call after the other."""
        ids = random.sample(self.challenge_ids, 1)
        lanes = self.maker.batches([ids], trades // HOT_BATCH_SIZE, HOT_BATCH_SIZE)
        return self._measure("hot", BATCH_SUBMIT_TRADES, lanes, HOT_BATCH_SIZE)

    def idle(self, trades: int) -> Figures:
        """Latency of one client that sends single trades one after the other."""
        lanes = self.maker.unary(random.sample(self.challenge_ids, 1), trades)
        return self._measure("idle", SUBMIT_TRADE, lanes)

    def paced(self, rate: float, trades: int) -> Figures:
        """Latency of single calls that come evenly at a rate, over many challenges."""
        ids = random.sample(self.challenge_ids, min(PACED_LANES, trades))
        lanes = self.maker.unary(ids, max(1, trades // len(ids)))
        return self._measure("half", SUBMIT_TRADE, lanes, connections=CONNECTIONS, rate=rate)

    def accepted(self) -> int:
        """How many trades the database holds, by the counters of the challenges."""
        with psycopg.connect(self.conninfo) as connection:
            row = connection.execute("SELECT coalesce(sum(last_sequence), 0)::bigint FROM challenges").fetchone()
        assert row is not None
        return int(row[0])

    def _measure(
        self,
        name: str,
        path: str,
        lanes: list[list[bytes]],
        trades_per_call: int = 1,
        *,
        connections: int = 1,
        rate: float | None = None,
    ) -> Figures:
        sent = sum(map(len, lanes)) * trades_per_call
        before = self.accepted()
        with WaitSampler(self.conninfo) as sampler, CpuMeter(self.server, self.postgres) as cpu:
            outcome = http2_loader.run(self.server.address, path, lanes, connections=connections, rate=rate)
        accepted = self.accepted() - before
        if accepted != sent:
            raise NotAcceptedError(f"{name}: {sent} trades sent, {accepted} accepted; {outcome}")
        return {
            f"{name}_per_s": accepted / outcome.seconds,
            **latencies(name, outcome),
            f"{name}_server_us": cpu.server_s / accepted * 1e6,
            f"{name}_database_us": cpu.database_s / accepted * 1e6,
            f"{name}_loader_us": cpu.loader_s / accepted * 1e6,
            f"{name}_lock_wait_pct": sampler.share("Lock"),
            f"{name}_wal_wait_pct": sampler.share("IO", "LWLock"),
        }


def echo(server: Server, calls: int, *, lanes: int, name: str) -> Figures:
    """Empty calls a second, and their latency."""
    bodies = [[ECHO_BODY] * (calls // lanes) for _ in range(lanes)]
    outcome = http2_loader.run(server.address, echo_server.METHOD, bodies, connections=min(lanes, CONNECTIONS))
    if outcome.failed or outcome.answered != sum(map(len, bodies)):
        raise NotAcceptedError(f"{name}: not every call was answered; {outcome}")
    return {f"{name}_per_s": outcome.answered / outcome.seconds, **latencies(name, outcome)}


def latencies(name: str, outcome: Outcome) -> Figures:
    """The percentiles that matter, in milliseconds."""
    cuts = statistics.quantiles(outcome.latencies_s, n=100, method="inclusive")
    return {f"{name}_p{percentile}_ms": cuts[percentile - 1] * 1000 for percentile in (50, 95, 99)}


class WaitSampler:
    """What the service's database sessions wait for while a transaction of theirs is open, looked at now and then."""

    QUERY = """
        SELECT wait_event_type FROM pg_stat_activity
        WHERE datname = current_database() AND backend_type = 'client backend' AND state <> 'idle'
            AND pid <> pg_backend_pid()
    """

    def __init__(self, conninfo: str) -> None:
        self._conninfo = conninfo
        self._seen: Counter[str | None] = Counter()
        self._samples = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "WaitSampler":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def share(self, *wait_event_types: str) -> float:
        """Sessions waiting for this, on average at a moment, in per cent of one session."""
        return 100 * sum(self._seen[each] for each in wait_event_types) / max(1, self._samples)

    def _run(self) -> None:
        with psycopg.connect(self._conninfo, autocommit=True) as connection:
            while not self._stop.wait(SAMPLE_S):
                self._seen.update(row[0] for row in connection.execute(self.QUERY).fetchall())
                self._samples += 1
