"""The peer in C: pgbench running the textbook transaction of a ledger, one trade in each, and pg_test_fsync.

Lock the account, insert the trade, update the account, commit: prepared statements on plain tables with a primary key
each and nothing else. No checks, no evidence, no events, no search for replays, and no network but the socket.
"""

import re
import subprocess
from pathlib import Path

import psycopg

from challenge_engine.embedded import binary

ACCOUNTS = 1000
CLIENTS = (1, 2, 4, 8, 16, 32, 64)

SCHEMA = """
    CREATE TABLE account (account_id integer PRIMARY KEY, equity numeric(24, 8) NOT NULL,
        peak_equity numeric(24, 8) NOT NULL, last_sequence bigint NOT NULL) WITH (fillfactor = 50);
    CREATE TABLE trade (account_id integer NOT NULL, sequence bigint NOT NULL, realized_pnl numeric(24, 8) NOT NULL,
        equity numeric(24, 8) NOT NULL, executed_at timestamptz NOT NULL, PRIMARY KEY (account_id, sequence));
    INSERT INTO account SELECT number, 100000, 100000, 0 FROM generate_series(1, %d) AS number;
    VACUUM ANALYZE account;
"""

SCRIPT = r"""
\set account random(1, %d)
BEGIN;
SELECT equity, peak_equity, last_sequence + 1 AS sequence FROM account WHERE account_id = :account FOR UPDATE \gset
INSERT INTO trade VALUES (:account, :sequence, 0.01, :equity + 0.01, now());
UPDATE account SET equity = :equity + 0.01, peak_equity = greatest(:peak_equity, :equity + 0.01),
    last_sequence = :sequence WHERE account_id = :account;
COMMIT;
"""


class Textbook:
    """A database of its own with the tables of the textbook, and pgbench to run on it."""

    def __init__(self, conninfo: str, folder: Path) -> None:
        self._conninfo = conninfo
        self._script = folder / "textbook.sql"
        self._script.write_text(SCRIPT % ACCOUNTS)
        self._folder = folder
        self.best_clients = 1
        with psycopg.connect(conninfo, autocommit=True) as connection:
            for statement in (SCHEMA % ACCOUNTS).split(";\n"):
                if statement.strip():
                    connection.execute(statement.encode())

    def find_best(self, seconds: int) -> dict[int, float]:
        """Transactions a second by number of clients; remembers the best."""
        found = {clients: self.rate(clients, seconds) for clients in CLIENTS}
        self.best_clients = max(found, key=lambda clients: found[clients])
        return found

    def rate(self, clients: int, seconds: int) -> float:
        """Transactions a second with so many clients."""
        ended = subprocess.run(
            [binary("pgbench"), "-n", "-M", "prepared", "-c", str(clients), "-j", str(min(clients, 2)),
             "-T", str(seconds), "-f", str(self._script), self._conninfo],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        found = re.search(r"^tps = ([0-9.]+)", ended.stdout, re.MULTILINE)
        assert found is not None, ended.stdout
        return float(found[1])

    def fsyncs_per_s(self) -> float:
        """What pg_test_fsync says of fdatasync of one 8 KiB write, the way PostgreSQL commits on Linux."""
        ended = subprocess.run(
            [binary("pg_test_fsync"), "-s", "1", "-f", str(self._folder / "fsync")],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        found = re.search(r"^\s+fdatasync\s+([0-9.]+) ops/sec", ended.stdout, re.MULTILINE)
        assert found is not None, ended.stdout
        return float(found[1])
