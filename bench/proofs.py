"""What proofs cost: rates with and without chains and seals, how soon is sealed, how fast all of it is checked.

The service without chains is the project's own last revision before there were any, checked out beside this one and run
by the same interpreter on the same PostgreSQL, so that code, columns and seals are all part of the difference.
"""

import os
import random
import resource
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from io import BytesIO
from pathlib import Path

import psutil
import psycopg
from psycopg.conninfo import make_conninfo

from bench import filling, report
from bench.growth import Serving
from bench.processes import Server, running
from bench.scenarios import Figures, Target
from bench.trades import TradeMaker, make_challenges
from challenge_client import ChallengeClient, Trade, TradeSubmission
from challenge_engine.audit_reading import stored_challenges
from challenge_engine.auditing import Auditor
from challenge_engine.database import normalise_url
from challenge_engine.embedded import EmbeddedPostgres
from challenge_engine.keys import SealKey, verify_signature
from challenge_engine.proving import prove
from challenge_engine.snapshots import snapshot
from challenge_engine.verifying import replay, verify
from challenge_rules.proof import check_proof, encode_proof

UNCHAINED_REVISION = "8ba9380"
BATCH_TRADES = 36_000
UNARY_TRADES = 6_400
CHALLENGES = 600
REPLAYED = (2_000, 100)
"""Challenges, and trades of each."""
PROVED = (10, 100, 1_000, 10_000)
"""Trades of a challenge that is proved."""


def run(
    postgres: EmbeddedPostgres,
    postmaster: psutil.Process,
    serving: Serving,
    folder: Path,
    key: SealKey,
    *,
    rounds: int,
) -> None:
    """Load both services in turn; then replay, verify and prove."""
    with ExitStack() as stack:
        server, conninfo = stack.enter_context(serving(postgres, "chained"))
        chained = _target(server, postmaster, conninfo)
        server, conninfo = stack.enter_context(_unchained(postgres, folder))
        unchained = _target(server, postmaster, conninfo)
        for target in (chained, unchained):
            target.prepare()
            target.unary(1_280)
        measured = []
        for number in range(1, rounds + 1):
            report.say(f"round {number} of {rounds}")
            measured.append(_round(chained, unchained))
        report.tell(measured, title=f"make bench-proofs, {rounds} rounds", name="chain")
        report.tell([_seal_lags(chained.conninfo)], title="from a trade's record to its seal", name="seals")
    report.tell([_checks(postgres, serving, key)], title="replay and verify", name="replay")
    report.tell([_proofs(postgres, serving, key)], title="proofs, by the number of trades", name="proofs")


def _target(server: Server, postmaster: psutil.Process, conninfo: str) -> Target:
    return Target(server, postmaster, conninfo, make_challenges(server.address, CHALLENGES), TradeMaker())


def _round(chained: Target, unchained: Target) -> Figures:
    figures: Figures = {}
    order = [("chained", chained), ("unchained", unchained)]
    random.shuffle(order)
    for name, target in order:
        found = target.batch(BATCH_TRADES) | target.unary(UNARY_TRADES)
        kept = [f"{kind}_{key}" for kind in ("batch", "unary") for key in ("per_s", "server_us", "database_us")]
        figures |= {f"{name}_{key}": found[key] for key in kept}
    for kind in ("batch", "unary"):
        figures[f"{kind}_with_to_without"] = figures[f"chained_{kind}_per_s"] / figures[f"unchained_{kind}_per_s"]
    return dict(sorted(figures.items()))


@contextmanager
def _unchained(postgres: EmbeddedPostgres, folder: Path) -> Iterator[tuple[Server, str]]:
    """The service of the last revision without chains, on a new database."""
    packed = subprocess.run(["git", "archive", UNCHAINED_REVISION], stdout=subprocess.PIPE, check=False)
    if packed.returncode:
        raise SystemExit(f"revision {UNCHAINED_REVISION} is not in this clone: fetch the whole history")
    source = folder / "unchained"
    with tarfile.open(fileobj=BytesIO(packed.stdout)) as archive:
        archive.extractall(source, filter="data")
    url = normalise_url(postgres.url).set(database="unchained")
    with psycopg.connect(postgres.conninfo, autocommit=True) as connection:
        connection.execute("CREATE DATABASE unchained")
    text = url.render_as_string(hide_password=False)
    path = os.pathsep.join(str(source / room) for room in ("engine", "server", "client"))
    environment = os.environ | {
        "PYTHONPATH": path,
        "CHALLENGE_DATABASE_URL": text,
        "CHALLENGE_LOG_LEVEL": "error",
    }
    subprocess.run([sys.executable, "-P", "-m", "challenge_server", "migrate"], env=environment, check=True)
    with running("challenge_server", "serve", "--listen", "127.0.0.1:0", environment=environment) as server:
        yield server, make_conninfo(postgres.conninfo, dbname="unchained")


def _seal_lags(conninfo: str) -> Figures:
    """Of every sealed head the time from when its trade was recorded to when its checkpoint was signed."""
    with psycopg.connect(conninfo) as connection:
        connection.execute("SET enable_seqscan = on")
        row = connection.execute(
            """
            SELECT count(*), percentile_cont(ARRAY[0.5, 0.95, 0.99, 1.0]) WITHIN GROUP (ORDER BY lag) FROM (
                SELECT extract(epoch FROM c.sealed_at - t.recorded_at) * 1000 AS lag
                FROM checkpoint_leaves l JOIN trades t USING (challenge_id, sequence)
                CROSS JOIN LATERAL (
                    SELECT sealed_at FROM checkpoints WHERE tree_size > l.leaf_index ORDER BY tree_size LIMIT 1
                ) c
            ) lags
            """
        ).fetchone()
    assert row is not None
    leaves, lags = row
    return {"leaves": leaves} | dict(zip(("p50_ms", "p95_ms", "p99_ms", "most_ms"), map(float, lags), strict=True))


def _checks(postgres: EmbeddedPostgres, serving: Serving, key: SealKey) -> Figures:
    """How fast stored trades are decided again, by processor time and by the clock, and in how much memory."""
    challenges, trades = REPLAYED
    url = normalise_url(postgres.url).set(database="replayed")
    with serving(postgres, "replayed", "--no-seal") as (_, conninfo):
        filling.fill(conninfo, challenges=challenges, trades_per_challenge=trades)
    small = replay(url, challenge_ids=[filling.challenge_id(number) for number in range(100)])
    assert small.is_clean, small.findings[:3]
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    figures: Figures = {}
    for name, check in (("replay", partial(replay, url)), ("verify", partial(verify, url, keys=[key.public]))):
        wall, processor = time.perf_counter(), time.process_time()
        found = check()
        assert found.trades == challenges * trades
        figures[f"{name}_per_s"] = found.trades / (time.perf_counter() - wall)
        figures[f"{name}_per_cpu_s"] = found.trades / (time.process_time() - processor)
    with snapshot(url) as session:
        auditor = Auditor()
        assert all(not auditor.audit(stored).findings for stored in stored_challenges(session))
    figures["memory_growth_mib"] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib) / 1024
    return figures


def _proofs(postgres: EmbeddedPostgres, serving: Serving, key: SealKey) -> Figures:
    """Of proofs of so many trades: their size, how long it takes to write one, and to check it."""
    figures: Figures = {}
    url = normalise_url(postgres.url).set(database="proved")
    with serving(postgres, "proved") as (server, _):
        for trades in PROVED:
            (challenge_id,) = make_challenges(server.address, 1)
            _trade(server.address, challenge_id, trades)
            began = time.perf_counter()
            history, seal, count = prove(url, challenge_id, patience_s=30)
            proof = encode_proof(history, seal)
            figures[f"{trades}_prove_ms"] = (time.perf_counter() - began) * 1000
            assert history.state.last_sequence == count == trades
            began = time.perf_counter()
            check_proof(proof, [key.public], verify_signature)
            figures[f"{trades}_check_ms"] = (time.perf_counter() - began) * 1000
            figures[f"{trades}_kib"] = len(proof) / 1024
    return figures


def _trade(address: str, challenge_id: str, trades: int) -> None:
    start = datetime(2025, 1, 1, tzinfo=UTC)
    dice = random.Random(3)
    with ChallengeClient(address) as client:
        made = (
            TradeSubmission(
                challenge_id,
                Trade(
                    f"ticket-{number:08}",
                    Decimal(dice.randint(-2_000, 2_000)) / 100,
                    start + timedelta(minutes=number),
                    "EURUSD",
                ),
            )
            for number in range(trades)
        )
        assert sum(1 for _ in client.submit_trades(made)) == trades
