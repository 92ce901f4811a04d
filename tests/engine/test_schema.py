"""The schema: what the migrations make, what it refuses, and what is said of a database that does not fit."""

import asyncio
import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from psycopg import sql as psql
from psycopg.types.json import Jsonb
from sqlalchemy import create_engine, inspect
from sqlalchemy.engine import URL

from challenge_engine.database import NEWEST_REVISION, REVISIONS, Database, DatabaseError, check_usable, normalise_url
from challenge_engine.migrating import known_revisions, migrate
from challenge_engine.schema import metadata
from tests.engine.harness import conninfo, eventually, new_id, value

_numbers = itertools.count(1)
HASH = bytes(32)

CHALLENGE: dict[str, Any] = {
    "status": "PENDING",
    "initial_balance": 100,
    "max_daily_drawdown_pct": 5,
    "max_total_drawdown_pct": 10,
    "profit_target_pct": 10,
    "currency_code": "USD",
    "labels": Jsonb({}),
    "rules_version": 1,
    "equity": 100,
    "peak_equity": 100,
    "daily_start_equity": 100,
    "created_at": "2025-01-01T00:00Z",
    "chain_head": HASH,
}
MOMENT = "2025-01-02T00:00Z"
STARTED: dict[str, Any] = {
    "status": "ACTIVE",
    "last_sequence": 1,
    "activated_at": MOMENT,
    "last_executed_at": MOMENT,
    "trading_day": "2025-01-02",
}
ENDED = STARTED | {"status": "FAILED", "status_reason": "MAX_DAILY_DRAWDOWN", "closed_at": MOMENT}
TRADE: dict[str, Any] = {
    "sequence": 1,
    "trade_id": "t1",
    "realized_pnl": 1,
    "executed_at": MOMENT,
    "symbol": "",
    "initial_balance": 100,
    "equity": 101,
    "peak_equity": 101,
    "daily_start_equity": 100,
    "previous_status": "PENDING",
    "status": "ACTIVE",
    "recorded_at": MOMENT,
    "chain_hash": HASH,
}
CREATED: dict[str, Any] = {
    "challenge_sequence": 1,
    "event_type": "CHALLENGE_CREATED",
    "new_status": "PENDING",
    "equity": 100,
    "evaluations": Jsonb([]),
    "terms": Jsonb({}),
    "occurred_at": MOMENT,
    "recorded_at": MOMENT,
    "chain_hash": HASH,
}
CHANGED = CREATED | {
    "challenge_sequence": 2,
    "event_type": "CHALLENGE_STATUS_CHANGED",
    "old_status": "PENDING",
    "new_status": "ACTIVE",
    "trade_id": "t1",
    "trade_sequence": 1,
    "terms": None,
    "chain_hash": None,
}
FAILED_CHANGE = CHANGED | {"old_status": "ACTIVE", "new_status": "FAILED", "reason": "MAX_TOTAL_DRAWDOWN"}


TERMS = Jsonb(
    {
        "initial_balance": "100",
        "max_daily_drawdown_pct": "5",
        "max_total_drawdown_pct": "10",
        "profit_target_pct": "10",
        "currency_code": "USD",
        "labels": {},
        "rules_version": 1,
        "created_at": MOMENT,
    }
)


def unchained(row: dict[str, Any]) -> dict[str, Any]:
    """A row as it was before there were chains."""
    return {name: content for name, content in row.items() if not name.startswith("chain_")}


@pytest.fixture(scope="module")
def history(session_database_url: URL) -> Iterator[psycopg.Connection]:
    """A session on a shared database; each test rolls back what it did."""
    with psycopg.connect(conninfo(session_database_url)) as connection:
        yield connection


@contextmanager
def undone(connection: psycopg.Connection) -> Iterator[None]:
    try:
        yield
    finally:
        connection.rollback()


def insert(connection: psycopg.Connection, table: str, row: dict[str, Any]) -> None:
    connection.execute(
        psql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
            psql.Identifier(table),
            psql.SQL(", ").join(map(psql.Identifier, row)),
            psql.SQL(", ").join(map(psql.Placeholder, row)),
        ),
        row,
    )


def challenge(connection: psycopg.Connection, **changes: Any) -> str:
    challenge_id = new_id()
    insert(connection, "challenges", {"challenge_id": challenge_id, **CHALLENGE, **changes})
    return challenge_id


@contextmanager
def empty_database(url: URL) -> Iterator[URL]:
    name = f"empty_{next(_numbers)}"
    with psycopg.connect(conninfo(url), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        try:
            yield url.set(database=name)
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


class TestMigrating:
    def test_a_migrated_database_is_what_the_metadata_says(self, session_database_url: URL):
        engine = create_engine(session_database_url)
        with engine.connect() as connection:
            context = MigrationContext.configure(
                connection, opts={"compare_type": True, "compare_server_default": True}
            )
            assert compare_metadata(context, metadata) == []
            assert set(inspect(connection).get_table_names()) == {*metadata.tables, "alembic_version"}
        engine.dispose()

    def test_migrating_twice_is_harmless(self, database_url: URL):
        with psycopg.connect(conninfo(database_url), autocommit=True) as connection:
            challenge(connection)
            log_id = connection.execute("SELECT log_id FROM event_log").fetchall()
            assert migrate(database_url) == NEWEST_REVISION
            assert connection.execute("SELECT count(*) FROM challenges").fetchone() == (1,)
            assert connection.execute("SELECT log_id FROM event_log").fetchall() == log_id

    def test_a_database_of_the_first_revision_keeps_its_log_and_its_events_gain_what_they_lack(
        self, session_database_url: URL
    ):
        with empty_database(session_database_url) as url:
            migrate(url, "0001")
            with psycopg.connect(conninfo(url)) as connection:
                challenge_id = new_id()
                insert(connection, "challenges", {"challenge_id": challenge_id, **unchained(CHALLENGE)})
                for position, event in ((1, CREATED | {"terms": TERMS}), (2, CHANGED)):
                    insert(connection, "challenge_events", {"challenge_id": challenge_id, **unchained(event)})
                    insert(
                        connection,
                        "event_positions",
                        {"position": position, "challenge_id": challenge_id, "challenge_sequence": position},
                    )
                log_id = connection.execute("SELECT log_id FROM event_log").fetchall()
            migrate(url)
            with psycopg.connect(conninfo(url)) as connection:
                found = connection.execute("SELECT new_status FROM event_positions ORDER BY position").fetchall()
                assert found == [("PENDING",), ("ACTIVE",)]
                assert connection.execute("SELECT log_id FROM event_log").fetchall() == log_id
                with pytest.raises(psycopg.errors.RestrictViolation):
                    connection.execute("UPDATE event_positions SET new_status = 'FUNDED'")

    def test_migrations_at_the_same_time_queue_up(self, session_database_url: URL):
        with empty_database(session_database_url) as url, ThreadPoolExecutor(3) as pool:
            assert list(pool.map(migrate, [url] * 3)) == [NEWEST_REVISION] * 3
            check_usable(url)

    def test_a_database_without_the_schema_is_told_how_to_get_it(self, session_database_url: URL):
        with empty_database(session_database_url) as url:
            with pytest.raises(DatabaseError, match=r"revision none, .* run: challenge-engine migrate"):
                check_usable(url)
            migrate(url)
            check_usable(url)

    def test_a_database_of_a_newer_release_is_neither_used_nor_migrated(self, session_database_url: URL):
        with empty_database(session_database_url) as url:
            migrate(url)
            with psycopg.connect(conninfo(url), autocommit=True) as connection:
                connection.execute("UPDATE alembic_version SET version_num = '9999'")
            with pytest.raises(DatabaseError, match=r"revision 9999, .* newer release: upgrade challenge-engine"):
                check_usable(url)
            with pytest.raises(DatabaseError, match=r"revision 9999, .* newer release: upgrade challenge-engine"):
                migrate(url)

    def test_each_log_has_an_identity_of_its_own(self, session_database_url: URL):
        ids = []
        for _ in range(2):
            with empty_database(session_database_url) as url:
                migrate(url)
                with psycopg.connect(conninfo(url)) as connection:
                    ids += connection.execute("SELECT log_id FROM event_log").fetchall()
        assert len(set(ids)) == 2


class TestUrls:
    @pytest.mark.parametrize("prefix", ["postgresql", "postgres", "postgresql+psycopg"])
    def test_every_common_spelling_means_psycopg(self, prefix: str):
        url = normalise_url(f"{prefix}://me:secret@host:5433/name?sslmode=require")
        assert url.drivername == "postgresql+psycopg"
        assert (url.username, url.password, url.host, url.port, url.database) == (
            "me", "secret", "host", 5433, "name",
        )  # fmt: skip
        assert url.query == {"sslmode": "require"}

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "host:5432/name",
            "me:secret@host/name",
            "://me:secret@host/name",
            "mysql://me:secret@host/name",
            "sqlite:///secret.db",
            "postgresql+asyncpg://me:secret@host/name",
            "postgresql://me:secret@host:port/name",
            "postgresql://me:secret@host:5432:5433/name",
            "postgresql://me:secret@[::1/name",
        ],
    )
    def test_anything_else_is_a_clear_error_that_does_not_repeat_the_password(self, text: str):
        with pytest.raises(DatabaseError, match="postgresql://") as refused:
            normalise_url(text)
        assert "secret" not in str(refused.value)
        assert refused.value.__cause__ is None


class TestSessions:
    async def test_sessions_are_in_utc_and_wait_for_nothing_without_a_bound(self, session_database_url: URL):
        names = (
            "TimeZone",
            "lock_timeout",
            "statement_timeout",
            "idle_in_transaction_session_timeout",
            "default_transaction_isolation",
        )
        with empty_database(session_database_url) as url:
            with psycopg.connect(conninfo(url), autocommit=True) as connection:
                connection.execute(f"ALTER DATABASE {url.database} SET TimeZone = 'Asia/Tokyo'")
                connection.execute(f"ALTER DATABASE {url.database} SET default_transaction_isolation = 'serializable'")
            database = Database(url)
            found = {name: (await database.fetch(f"SHOW {name}"))[0][0] for name in names}
            await database.close()
        assert found["TimeZone"] == "UTC"
        assert found["default_transaction_isolation"] == "read committed"
        assert "0" not in {found[name] for name in names[1:4]}

    async def test_a_connection_that_comes_back_unfinished_is_good_again(self, database_url: URL):
        """Uncommitted, after an exception, or with its caller gone in the middle of a statement."""
        database = Database(database_url, pool_size=1)
        log_id = await database.fetch("SELECT log_id FROM event_log")
        async with database.connection() as connection:
            await connection.execute("UPDATE event_log SET log_id = gen_random_uuid()")

        async def fail_midway() -> None:
            async with database.connection() as connection:
                await connection.execute("UPDATE event_log SET log_id = gen_random_uuid()")
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await fail_midway()
        with pytest.raises(psycopg.errors.UndefinedTable):
            await database.fetch("SELECT FROM nothing")
        left = asyncio.create_task(database.fetch("SELECT pg_sleep(600)"))

        async def sleeps() -> bool:
            return bool(await value(database_url, "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"))

        await eventually(sleeps)
        left.cancel()
        with pytest.raises(asyncio.CancelledError):
            await left
        assert await database.fetch("SELECT log_id FROM event_log") == log_id
        await database.close()


class TestConstraints:
    def test_the_rows_that_the_others_vary_are_accepted(self, history: psycopg.Connection):
        with undone(history):
            challenge_id = challenge(history)
            for changes in (STARTED, ENDED):
                challenge(history, **changes)
            insert(history, "trades", {"challenge_id": challenge_id, **TRADE})
            for number, event in enumerate((CREATED, CHANGED, FAILED_CHANGE), start=1):
                insert(
                    history,
                    "challenge_events",
                    {"challenge_id": challenge_id, **event, "challenge_sequence": number},
                )
            insert(
                history,
                "event_positions",
                {"position": 10**6, "challenge_id": challenge_id, "challenge_sequence": 1, "new_status": "PENDING"},
            )

    @pytest.mark.parametrize(
        ("constraint", "changes"),
        [
            ("challenges_status_known", STARTED | {"status": "PAUSED"}),
            ("challenges_reason_fits_status", {"status_reason": "PROFIT_TARGET"}),
            ("challenges_reason_fits_status", STARTED | {"status_reason": "MAX_DAILY_DRAWDOWN"}),
            ("challenges_reason_fits_status", ENDED | {"status_reason": None}),
            ("challenges_reason_fits_status", ENDED | {"status_reason": "PROFIT_TARGET"}),
            ("challenges_reason_fits_status", ENDED | {"status": "FUNDED"}),
            ("challenges_reason_fits_status", ENDED | {"status": "FUNDED", "status_reason": None}),
            ("challenges_closed_when_terminal", ENDED | {"closed_at": None}),
            ("challenges_closed_when_terminal", STARTED | {"closed_at": MOMENT}),
            ("challenges_closed_by_last_trade", ENDED | {"closed_at": "2025-01-03T00:00Z"}),
            ("challenges_active_after_first_trade", {"last_sequence": 1}),
            ("challenges_active_after_first_trade", STARTED | {"last_sequence": 0}),
            ("challenges_active_after_first_trade", STARTED | {"status": "PENDING"}),
            ("challenges_active_after_first_trade", STARTED | {"activated_at": None}),
            ("challenges_active_after_first_trade", STARTED | {"last_executed_at": None}),
            ("challenges_active_after_first_trade", STARTED | {"trading_day": None}),
            ("challenges_active_after_first_trade", {"activated_at": MOMENT}),
            ("challenges_initial_balance_minimum", {"initial_balance": "0.00999999"}),
            ("challenges_equity_not_negative", {"equity": "-0.00000001"}),
            ("challenges_peak_is_highest", {"equity": "100.00000001"}),
            ("challenges_peak_is_highest", {"daily_start_equity": "100.00000001"}),
            ("challenges_peak_is_highest", {"peak_equity": "99", "equity": 99, "daily_start_equity": 99}),
            ("challenges_daily_start_positive", {"daily_start_equity": 0}),
            ("challenges_limits_in_range", {"max_daily_drawdown_pct": 0}),
            ("challenges_limits_in_range", {"max_total_drawdown_pct": 0}),
            ("challenges_limits_in_range", {"profit_target_pct": 0}),
            ("challenges_limits_in_range", {"profit_target_pct": "10000.0001"}),
            ("challenges_sequences_not_negative", STARTED | {"last_sequence": -1}),
            ("challenges_sequences_not_negative", {"event_count": 0}),
        ],
    )
    def test_a_challenge_that_cannot_be_is_refused(
        self, history: psycopg.Connection, constraint: str, changes: dict[str, Any]
    ):
        with undone(history), pytest.raises(psycopg.errors.CheckViolation) as refused:
            challenge(history, **changes)
        assert refused.value.diag.constraint_name == constraint

    @pytest.mark.parametrize("limit", ["max_daily_drawdown_pct", "max_total_drawdown_pct"])
    def test_a_drawdown_limit_of_100_has_no_room_in_its_column(self, history: psycopg.Connection, limit: str):
        with undone(history), pytest.raises(psycopg.errors.NumericValueOutOfRange):
            challenge(history, **{limit: 100})

    @pytest.mark.parametrize(
        ("constraint", "changes"),
        [
            ("trades_sequence_from_one", {"sequence": 0, "previous_status": "ACTIVE"}),
            ("trades_status_change_allowed", {"previous_status": "ACTIVE"}),
            ("trades_status_change_allowed", {"sequence": 2}),
            ("trades_status_change_allowed", {"sequence": 2, "previous_status": "FAILED"}),
            ("trades_status_change_allowed", {"status": "PENDING"}),
            ("trades_reason_fits_status", {"reason": "PROFIT_TARGET"}),
            ("trades_reason_fits_status", {"status": "FAILED"}),
            ("trades_reason_fits_status", {"status": "FAILED", "reason": "PROFIT_TARGET"}),
            ("trades_reason_fits_status", {"status": "FUNDED"}),
            ("trades_reason_fits_status", {"status": "FUNDED", "reason": "MAX_TOTAL_DRAWDOWN"}),
            ("trades_figures_in_order", {"equity": -1}),
            ("trades_figures_in_order", {"peak_equity": "100.99999999"}),
            ("trades_figures_in_order", {"daily_start_equity": 0}),
        ],
    )
    def test_a_trade_that_cannot_be_is_refused(
        self, history: psycopg.Connection, constraint: str, changes: dict[str, Any]
    ):
        with undone(history):
            challenge_id = challenge(history)
            with pytest.raises(psycopg.errors.CheckViolation) as refused:
                insert(history, "trades", {"challenge_id": challenge_id, **TRADE, **changes})
            assert refused.value.diag.constraint_name == constraint

    @pytest.mark.parametrize(
        "event",
        [
            CREATED | {"event_type": "SOMETHING_ELSE", "chain_hash": None},
            CREATED | {"challenge_sequence": 2},
            CREATED | {"old_status": "PENDING"},
            CREATED | {"new_status": "ACTIVE"},
            CREATED | {"trade_id": "t1"},
            CREATED | {"trade_sequence": 1},
            CREATED | {"terms": None},
            CHANGED | {"challenge_sequence": 1},
            CHANGED | {"terms": Jsonb({})},
            CHANGED | {"trade_id": None},
            CHANGED | {"trade_sequence": None},
            CHANGED | {"reason": "PROFIT_TARGET"},
            CHANGED | {"old_status": None},
            CHANGED | {"old_status": "ACTIVE"},
            CHANGED | {"new_status": "FAILED", "reason": "MAX_DAILY_DRAWDOWN"},
            FAILED_CHANGE | {"reason": None},
            FAILED_CHANGE | {"reason": "PROFIT_TARGET"},
            FAILED_CHANGE | {"new_status": "FUNDED"},
            FAILED_CHANGE | {"old_status": "FUNDED"},
            FAILED_CHANGE | {"old_status": "FAILED", "new_status": "ACTIVE", "reason": None},
        ],
    )
    def test_an_event_that_cannot_be_is_refused(self, history: psycopg.Connection, event: dict[str, Any]):
        with undone(history):
            challenge_id = challenge(history)
            with pytest.raises(psycopg.errors.CheckViolation) as refused:
                insert(history, "challenge_events", {"challenge_id": challenge_id, **event})
            assert refused.value.diag.constraint_name == "challenge_events_shape"

    @pytest.mark.parametrize(
        ("table", "row", "constraint"),
        [
            ("challenges", CHALLENGE | {"chain_head": b"short"}, "challenges_chain_head_is_sha256"),
            ("trades", TRADE | {"chain_hash": bytes(33)}, "trades_chain_hash_is_sha256"),
            ("challenge_events", CREATED | {"chain_hash": None}, "challenge_events_creation_is_chained"),
            ("challenge_events", CHANGED | {"chain_hash": HASH}, "challenge_events_creation_is_chained"),
        ],
    )
    def test_a_link_of_a_chain_is_a_sha256_and_stands_where_one_belongs(
        self, history: psycopg.Connection, table: str, row: dict[str, Any], constraint: str
    ):
        with undone(history):
            challenge_id = new_id() if table == "challenges" else challenge(history)
            with pytest.raises(psycopg.errors.CheckViolation) as refused:
                insert(history, table, {"challenge_id": challenge_id, **row})
            assert refused.value.diag.constraint_name == constraint

    @pytest.mark.parametrize(
        ("table", "first", "second"),
        [
            ("trades", TRADE, {"trade_id": "t2"}),
            ("trades", TRADE, {"sequence": 2, "previous_status": "ACTIVE"}),
            ("challenge_events", CREATED, {}),
        ],
    )
    def test_what_must_be_unique_is_refused_twice(self, history: psycopg.Connection, table, first, second):
        with undone(history):
            challenge_id = challenge(history)
            insert(history, table, {"challenge_id": challenge_id, **first})
            with pytest.raises(psycopg.errors.UniqueViolation):
                insert(history, table, {"challenge_id": challenge_id, **first, **second})

    @pytest.mark.parametrize(("position", "challenge_sequence"), [(10**6, 2), (10**6 + 1, 1)])
    def test_a_position_and_an_event_belong_to_each_other_alone(
        self, history: psycopg.Connection, position: int, challenge_sequence: int
    ):
        with undone(history):
            challenge_id = challenge(history)
            for event in (CREATED, CHANGED):
                insert(history, "challenge_events", {"challenge_id": challenge_id, **event})
            row = {"challenge_id": challenge_id, "challenge_sequence": 1, "position": 10**6, "new_status": "PENDING"}
            insert(history, "event_positions", row)
            with pytest.raises(psycopg.errors.UniqueViolation):
                insert(
                    history,
                    "event_positions",
                    row | {"position": position, "challenge_sequence": challenge_sequence},
                )

    def test_a_position_counts_from_one(self, history: psycopg.Connection):
        with undone(history):
            challenge_id = challenge(history)
            insert(history, "challenge_events", {"challenge_id": challenge_id, **CREATED})
            with pytest.raises(psycopg.errors.CheckViolation):
                insert(
                    history,
                    "event_positions",
                    {"challenge_id": challenge_id, "challenge_sequence": 1, "position": 0, "new_status": "PENDING"},
                )

    @pytest.mark.parametrize(
        ("table", "row"),
        [
            ("trades", TRADE),
            ("challenge_events", CREATED),
            ("event_positions", {"position": 10**6, "challenge_sequence": 1, "new_status": "PENDING"}),
        ],
    )
    def test_nothing_refers_to_what_is_not_there(self, history: psycopg.Connection, table: str, row: dict[str, Any]):
        with undone(history), pytest.raises(psycopg.errors.ForeignKeyViolation):
            insert(history, table, {"challenge_id": new_id(), **row})

    def test_the_log_has_one_identity(self, history: psycopg.Connection):
        for only_row in (True, False):
            with undone(history), pytest.raises(psycopg.errors.IntegrityError):
                insert(history, "event_log", {"only_row": only_row})

    def test_the_version_follows_from_the_sequence_and_cannot_be_written(self, history: psycopg.Connection):
        with undone(history):
            challenge_id = challenge(history, **STARTED)
            found = history.execute("SELECT version FROM challenges WHERE challenge_id = %s", (challenge_id,))
            assert found.fetchone() == (2,)
            with pytest.raises(psycopg.errors.GeneratedAlways):
                history.execute("UPDATE challenges SET version = 7 WHERE challenge_id = %s", (challenge_id,))


class TestTriggers:
    @pytest.mark.parametrize("ended", [ENDED, ENDED | {"status": "FUNDED", "status_reason": "PROFIT_TARGET"}])
    @pytest.mark.parametrize(
        "change",
        [
            "status = 'ACTIVE', status_reason = NULL, closed_at = NULL",
            "equity = 1",
            "event_count = 9",
            "equity = equity",
        ],
    )
    def test_a_challenge_that_has_ended_never_changes(self, history: psycopg.Connection, ended, change: str):
        with undone(history):
            challenge_id = challenge(history, **ended)
            with pytest.raises(psycopg.errors.RestrictViolation):
                history.execute(f"UPDATE challenges SET {change} WHERE challenge_id = %s", (challenge_id,))

    @pytest.mark.parametrize(
        ("before", "change", "allowed"),
        [
            ({}, STARTED, True),
            ({}, ENDED, True),
            (STARTED, STARTED | {"last_sequence": 2}, True),
            (STARTED, ENDED, True),
            (STARTED, {"status": "PENDING", "last_sequence": 0}, False),
        ],
    )
    def test_the_status_only_goes_forward(self, history: psycopg.Connection, before, change, allowed: bool):
        with undone(history):
            challenge_id = challenge(history, **before)
            statement = psql.SQL("UPDATE challenges SET {} WHERE challenge_id = {}").format(
                psql.SQL(", ").join(
                    psql.SQL("{} = {}").format(psql.Identifier(name), psql.Placeholder(name)) for name in change
                ),
                psql.Literal(challenge_id),
            )
            if allowed:
                assert history.execute(statement, change).rowcount == 1
            else:
                with pytest.raises(psycopg.errors.RestrictViolation, match="PENDING, ACTIVE, FAILED or FUNDED"):
                    history.execute(statement, change)

    @pytest.mark.parametrize(
        "change",
        [
            "challenge_id = gen_random_uuid()",
            "initial_balance = 99",
            "max_daily_drawdown_pct = 6",
            "max_total_drawdown_pct = 11",
            "profit_target_pct = 11",
            "currency_code = 'EUR'",
            """labels = '{"a": "b"}'""",
            "rules_version = 2",
            "created_at = now()",
        ],
    )
    def test_the_terms_are_fixed(self, history: psycopg.Connection, change: str):
        with undone(history):
            challenge_id = challenge(history, **STARTED)
            with pytest.raises(psycopg.errors.RestrictViolation, match="terms"):
                history.execute(f"UPDATE challenges SET {change} WHERE challenge_id = %s", (challenge_id,))

    @pytest.mark.parametrize("table", ["challenges", "trades", "challenge_events", "event_positions"])
    def test_history_is_neither_deleted_nor_emptied_nor_changed(self, history: psycopg.Connection, table: str):
        statements = [f"DELETE FROM {table}", f"TRUNCATE {table} CASCADE"]
        if table != "challenges":
            statements.append(f"UPDATE {table} SET challenge_id = challenge_id")
        for statement in statements:
            with undone(history):
                challenge_id = challenge(history)
                insert(history, "trades", {"challenge_id": challenge_id, **TRADE})
                insert(history, "challenge_events", {"challenge_id": challenge_id, **CREATED})
                insert(
                    history,
                    "event_positions",
                    {
                        "position": 10**6,
                        "challenge_id": challenge_id,
                        "challenge_sequence": 1,
                        "new_status": "PENDING",
                    },
                )
                with pytest.raises(psycopg.errors.RestrictViolation):
                    history.execute(statement)

    def test_every_trigger_fires_in_the_session_of_a_replica_too(self, history: psycopg.Connection):
        """`test_roles` shows what that refuses."""
        found = history.execute("SELECT tgenabled, count(*) > 20 FROM pg_trigger WHERE NOT tgisinternal GROUP BY 1")
        assert found.fetchall() == [("A", True)]


def test_the_revisions_that_are_known_are_those_of_the_migrations():
    assert list(REVISIONS) == known_revisions()
