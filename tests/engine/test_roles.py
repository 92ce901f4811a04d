"""The roles that deploy/roles.sql makes: each can do its own work and nothing else, and nobody changes history."""

import logging
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from psycopg import sql as psql
from sqlalchemy.engine import URL

from challenge_engine import audit_queries, queries, relay_queries
from challenge_engine.archiving import archive
from challenge_engine.checkpoint_reading import checkpoint_reader
from challenge_engine.database import DatabaseError, check_usable, normalise_url
from challenge_engine.embedded import EmbeddedPostgres, binary
from challenge_engine.exporting import export_log, import_log
from challenge_engine.keys import SealKey, make_key
from challenge_engine.migrating import migrate
from challenge_engine.reading import ChallengeFilter
from challenge_engine.rebuilding import rebuild
from challenge_engine.recorded_trades import recorded_trades
from challenge_engine.relaying import check_relayable
from challenge_engine.schema import metadata
from challenge_engine.sealing import Sealer
from challenge_engine.verifying import verify
from tests.conftest import SEAL_KEY_VARIABLE, ServerProcess
from tests.engine.harness import NOW, conninfo, lives, new_id, running_engine, submission, tampering, told, value
from tests.engine.test_schema import CREATED, ENDED, HASH, MOMENT, STARTED, TRADE, challenge, empty_database, insert
from tests.relay.harness import MemorySink, relay_once

OWNER, SERVICE, RELAY, AUDITOR = "challenge_owner", "challenge_service", "challenge_relay", "challenge_auditor"
ARCHIVER = "challenge_archiver"
ARCHIVIST = "archivist"
"""Somebody to whom challenge_archiver has been granted."""
SUPERUSER = "challenge"
HISTORY = (
    "challenges", "trades", "challenge_events", "event_positions", "checkpoint_leaves", "checkpoint_tiles",
    "checkpoints", "archives",
)  # fmt: skip
FAR = 10**6
"""A position, and a size of the tree, that no test gets to."""
TERMS = (
    "challenge_id", "initial_balance", "max_daily_drawdown_pct", "max_total_drawdown_pct", "profit_target_pct",
    "currency_code", "labels", "rules_version", "created_at",
)  # fmt: skip

RunScript = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def run_script(project_root: Path) -> RunScript:
    """Runs deploy/roles.sql on a database, with psql's own arguments after it."""

    def run(url: URL, *arguments: str, environment: dict[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
        script = project_root / "deploy" / "roles.sql"
        return subprocess.run(
            [binary("psql"), "-X", "-d", conninfo(url), "-f", script, *arguments],
            env=os.environ | (environment or {}), capture_output=True, text=True, check=False,
        )  # fmt: skip

    return run


@contextmanager
def roles_removed(connection: psycopg.Connection) -> Iterator[None]:
    """Roles belong to the whole cluster: those that were not there before go when their database has gone."""
    names = "SELECT rolname FROM pg_roles"
    before = connection.execute(names).fetchall()
    try:
        yield
    finally:
        for row in set(connection.execute(names).fetchall()) - set(before):
            connection.execute(psql.SQL("DROP ROLE {}").format(psql.Identifier(*row)))


@pytest.fixture(scope="module")
def url(postgres: EmbeddedPostgres, run_script: RunScript) -> Iterator[URL]:
    """A database as docs/roles.md sets it up, by the URL of a superuser; tests leave in it what a service records."""
    with (
        psycopg.connect(postgres.conninfo, autocommit=True) as connection,
        roles_removed(connection),
        empty_database(normalise_url(postgres.url)) as made,
    ):
        first = run_script(made)
        assert (first.returncode, first.stderr) == (0, "")
        assert "challenge-engine migrate by the URL of challenge_owner" in first.stdout
        migrate(made.set(username=OWNER))
        second = run_script(made)
        assert (second.returncode, second.stdout, second.stderr) == (0, "", "")
        connection.execute(f"CREATE ROLE {ARCHIVIST} LOGIN IN ROLE {ARCHIVER}")
        yield made


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> SealKey:
    """What the checkpoints of that database are signed by."""
    return make_key(tmp_path_factory.mktemp("key") / "key.pem")


@pytest.fixture
def superuser(url: URL) -> Iterator[psycopg.Connection]:
    """A superuser's session, which may become any role. What it does is undone."""
    with psycopg.connect(conninfo(url)) as connection:
        yield connection
        connection.rollback()


def quietly(_step: str, _done: int, _total: int) -> None:
    """For those who do not want to hear of progress."""


def become(connection: psycopg.Connection, role: str) -> None:
    connection.execute(psql.SQL("SET LOCAL ROLE {}").format(psql.Identifier(role)))


def refused(connection: psycopg.Connection, error: type[psycopg.Error], statement: str) -> None:
    with pytest.raises(error), connection.transaction():
        connection.execute(statement.encode())


def plant(connection: psycopg.Connection) -> tuple[str, str]:
    """A row in every table of history; the ids of a challenge that has ended, with a trade, and of an archive."""
    challenge_id, archive_id = challenge(connection, **ENDED), new_id()
    insert(connection, "trades", {"challenge_id": challenge_id, **TRADE})
    insert(connection, "challenge_events", {"challenge_id": challenge_id, **CREATED})
    place = {"challenge_id": challenge_id, "challenge_sequence": 1, "position": FAR, "new_status": "PENDING"}
    insert(connection, "event_positions", place)
    leaf = {"leaf_index": FAR, "challenge_id": challenge_id, "sequence": 1, "chain_head": HASH}
    insert(connection, "checkpoint_leaves", leaf)
    insert(connection, "checkpoint_tiles", {"level": 8, "tile_index": FAR, "hash": HASH})
    insert(connection, "checkpoints", {"tree_size": FAR, "note": "", "sealed_at": MOMENT})
    row = {"archive_id": archive_id, "file_name": "", "sha256": HASH, "challenge_count": 1, "trade_count": 1}
    insert(connection, "archives", row | {"note": "", "sealed_at": MOMENT})
    return challenge_id, archive_id


def column_of(connection: psycopg.Connection, table: str) -> str:
    """A column that an UPDATE may name: of challenges one that changes with a trade, of the others the first."""
    if table == "challenges":
        return "equity"
    found = connection.execute(
        "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum = 1", (table,)
    ).fetchone()
    assert found is not None
    return str(found[0])


async def record(url: URL, key: SealKey) -> None:
    """What a service does, by its own role: three challenges, trades, positions, reads, and seals."""
    async with running_engine(url.set(username=SERVICE)) as engine:
        failed, funded, pending = await lives(engine)
        answers = await engine.batch(
            submission(pending, "t1"), submission(pending, "t1"), submission(failed, "t1", "-6000"),
            submission(funded, "t2", "1", 1), submission(pending, "t2", "-1", 1, validate_only=True),
        )  # fmt: skip
        assert list(map(told, answers)) == [1, -1, -1, "CHALLENGE_TERMINAL", 2]
        statuses = {each: str((await engine.state(each)).status) for each in (failed, funded, pending)}
        assert statuses == {failed: "FAILED", funded: "FUNDED", pending: "ACTIVE"}
        listed, _ = await engine.reader.list_challenges(ChallengeFilter(), limit=500, page_token="")
        assert set(statuses) <= {view.state.terms.challenge_id for view in listed}
        placed = [event.challenge_id for event in await engine.all_positioned()]
        assert [placed.count(each) for each in (failed, funded, pending)] == [3, 3, 2]
        assert await engine.database.is_writable()
        # Without a key it seals nothing and keeps the queue short.
        for keys, sealed in (([], 0), ([key], 3)):
            sealer = Sealer(engine.database, keys, clock=lambda: NOW)
            assert await sealer.seal_all() == sealed
            await sealer.stop()


class TestWork:
    async def test_the_service_does_all_its_work_by_a_role_that_owns_nothing(self, url: URL, key: SealKey):
        check_usable(url.set(username=SERVICE))
        await record(url, key)
        owned = "SELECT count(*) FROM pg_shdepend WHERE refobjid = %s::regrole AND deptype = 'o'"
        assert await value(url, owned, (SERVICE,)) == 0

    async def test_an_auditor_verifies_everything_rebuilds_it_to_compare_and_reconciles(self, url: URL, key: SealKey):
        await record(url, key)
        auditor = url.set(username=AUDITOR)
        check_usable(auditor, audit_queries.MISSING_PRIVILEGES)
        report = verify(auditor, keys=[key.public])
        assert (report.findings, report.waiting) == ([], 0)
        assert report.checkpoints == report.signed_checkpoints >= 1
        assert rebuild(auditor, swap=False, progress=quietly).is_equal
        with recorded_trades(auditor) as reader, checkpoint_reader(auditor) as checkpoints:
            assert reader is not None
            assert checkpoints.newest() is not None

    async def test_what_an_auditor_exported_an_owner_imports_and_an_owner_puts_right(
        self, url: URL, key: SealKey, run_script: RunScript, tmp_path: Path
    ):
        await record(url, key)
        export_log(url.set(username=AUDITOR), tmp_path, progress=quietly)
        with empty_database(url) as copy:
            owner = copy.set(username=OWNER)
            assert run_script(copy).returncode == 0
            migrate(owner)
            assert run_script(copy).returncode == 0
            import_log(owner, tmp_path, progress=quietly)
            async with tampering(copy) as connection:
                await connection.execute("UPDATE challenges SET event_count = event_count + 1 WHERE archive_id IS NULL")
            assert rebuild(owner, swap=True, progress=quietly).is_swapped
            assert verify(copy.set(username=AUDITOR), keys=[key.public]).findings == []
            check_usable(copy.set(username=SERVICE))

    async def test_a_relay_reads_the_log_and_keeps_its_cursor(self, url: URL, key: SealKey):
        await record(url, key)
        relay = url.set(username=RELAY)
        check_relayable(relay)
        end = await value(url, "SELECT max(position) FROM event_positions")
        for order in ({}, {}, {"reset": True}):
            sink = MemorySink()
            assert await relay_once(relay, sink, **order) == end
        assert sink.positions == list(range(1, end + 1))

    async def test_who_was_granted_challenge_archiver_archives_what_has_ended(
        self, url: URL, key: SealKey, tmp_path: Path
    ):
        await record(url, key)
        archived = archive(
            url.set(username=ARCHIVIST), tmp_path, older_than=timedelta(days=1), keys=[key], progress=quietly
        )
        assert (archived.refused, archived.challenges >= 2) == ([], True)
        left = "SELECT count(*) FROM trades JOIN challenges USING (challenge_id) WHERE archive_id IS NOT NULL"
        assert await value(url, left) == 0
        report = verify(url.set(username=AUDITOR), keys=[key.public], archives=tmp_path)
        assert report.findings == []


class TestPrivileges:
    @pytest.mark.parametrize(
        ("role", "missing"), [(SERVICE, queries.MISSING_PRIVILEGES), (RELAY, relay_queries.MISSING_PRIVILEGES)]
    )
    def test_a_role_is_granted_what_its_command_asks_for_and_no_more(
        self, superuser: psycopg.Connection, role: str, missing: str
    ):
        """Each grant that is taken away is named as missing."""
        granted = superuser.execute(
            """
            SELECT relname::text, NULL, privilege_type FROM pg_class, aclexplode(relacl)
            WHERE relnamespace = 'public'::regnamespace AND grantee = %(role)s::regrole
            UNION ALL
            SELECT relname::text, attname::text, privilege_type
            FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid, aclexplode(attacl)
            WHERE relnamespace = 'public'::regnamespace AND grantee = %(role)s::regrole
            """,
            {"role": role},
        ).fetchall()
        assert ("alembic_version", None, "SELECT") in granted
        for table, column, privilege in granted:
            if table == "alembic_version":
                continue
            columns = psql.SQL("({})").format(psql.Identifier(column)) if column else psql.SQL("")
            superuser.execute("SAVEPOINT granted")
            superuser.execute(
                psql.SQL("REVOKE {}{} ON {} FROM {}").format(
                    psql.SQL(privilege), columns, psql.Identifier(table), psql.Identifier(role)
                )
            )
            become(superuser, role)
            found = superuser.execute(missing.encode()).fetchall()
            assert found == [(f"{privilege} on {table}" + (f" ({column})" if column else ""),)]
            superuser.execute("ROLLBACK TO granted")

    @pytest.mark.parametrize(
        ("role", "writes"),
        [
            (AUDITOR, set()),
            (
                ARCHIVER,
                {("archives", "INSERT"), ("challenges", "UPDATE"), ("trades", "DELETE")},
            ),
        ],
    )
    def test_who_only_reads_may_write_nothing_and_who_archives_only_what_that_takes(
        self, superuser: psycopg.Connection, role: str, writes: set[tuple[str, str]]
    ):
        found = superuser.execute(
            """
            SELECT relname, privilege FROM pg_class
            CROSS JOIN unnest('{INSERT,UPDATE,DELETE,TRUNCATE,REFERENCES,TRIGGER}'::text[]) AS privilege
            WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v', 'm') AND CASE
                WHEN privilege IN ('INSERT', 'UPDATE', 'REFERENCES')
                THEN has_any_column_privilege(%(role)s, pg_class.oid, privilege)
                ELSE has_table_privilege(%(role)s, pg_class.oid, privilege) END
            """,
            {"role": role},
        ).fetchall()
        assert set(found) == writes
        become(superuser, role)
        for table in (*metadata.tables, "alembic_version"):
            superuser.execute(psql.SQL("SELECT FROM {}").format(psql.Identifier(table)))

    @pytest.mark.parametrize("table", HISTORY)
    def test_the_service_has_no_privilege_to_change_history_or_what_protects_it(self, url: URL, table: str):
        with psycopg.connect(conninfo(url.set(username=SERVICE))) as service:
            statements = [
                f"DELETE FROM {table}",
                f"TRUNCATE {table} CASCADE",
                f"ALTER TABLE {table} DISABLE TRIGGER USER",
                f"ALTER TABLE {table} DISABLE TRIGGER {table}_not_emptied",
                f"DROP TRIGGER {table}_not_emptied ON {table}",
                f"CREATE TRIGGER mine BEFORE INSERT ON {table} EXECUTE FUNCTION challenge_engine_refuse('mine')",
                f"CREATE RULE mine AS ON INSERT TO {table} DO INSTEAD NOTHING",
                f"DROP TABLE {table} CASCADE",
            ]
            if table != "challenges":
                column = column_of(service, table)
                statements.append(f"UPDATE {table} SET {column} = {column}")
            for statement in statements:
                refused(service, psycopg.errors.InsufficientPrivilege, statement)

    @pytest.mark.parametrize(
        "statement",
        [
            *(f"UPDATE challenges SET {column} = {column}" for column in (*TERMS, "archive_id")),
            "INSERT INTO challenges (challenge_id, status) VALUES (gen_random_uuid(), 'FUNDED')",
            "INSERT INTO challenges (challenge_id, archive_id) VALUES (gen_random_uuid(), gen_random_uuid())",
            "INSERT INTO archives (archive_id) VALUES (gen_random_uuid())",
            "SET session_replication_role = replica",
            f"SET ROLE {OWNER}",
            f"SET ROLE {ARCHIVER}",
            "CREATE TABLE mine ()",
            "CREATE TEMPORARY TABLE challenges ()",
            "CREATE SCHEMA mine",
            "CREATE OR REPLACE FUNCTION challenge_engine_refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN END'",
            "ALTER FUNCTION challenge_engine_refuse() SET search_path = ''",
            "DROP SCHEMA public CASCADE",
        ],
    )
    def test_the_service_can_neither_change_terms_nor_archive_nor_get_round_the_triggers(
        self, url: URL, statement: str
    ):
        with psycopg.connect(conninfo(url.set(username=SERVICE))) as service:
            refused(service, psycopg.errors.InsufficientPrivilege, statement)


class TestTriggers:
    @pytest.mark.parametrize("table", HISTORY)
    @pytest.mark.parametrize("role", [OWNER, SUPERUSER])
    @pytest.mark.parametrize("replication_role", ["origin", "replica"])
    def test_triggers_refuse_owner_and_superuser_also_in_a_session_of_a_replica(
        self, superuser: psycopg.Connection, table: str, role: str, replication_role: str
    ):
        superuser.execute(f"SET LOCAL session_replication_role = {replication_role}")
        become(superuser, role)
        plant(superuser)
        column = column_of(superuser, table)
        for statement in (
            f"UPDATE {table} SET {column} = {column}",
            f"DELETE FROM {table}",
            f"TRUNCATE {table} CASCADE",
        ):
            refused(superuser, psycopg.errors.RestrictViolation, statement)

    def test_challenge_archiver_archives_once_what_has_ended_and_in_an_archive_that_there_is(
        self, superuser: psycopg.Connection
    ):
        ended, archive_id = plant(superuser)
        running = challenge(superuser, **STARTED)
        insert(superuser, "trades", {"challenge_id": running, **TRADE})
        become(superuser, ARCHIVER)

        def archiving(challenge_id: str, archive: str) -> str:
            return f"UPDATE challenges SET archive_id = {archive} WHERE challenge_id = '{challenge_id}'"

        def removal(challenge_id: str) -> str:
            return f"DELETE FROM trades WHERE challenge_id = '{challenge_id}'"

        refused(superuser, psycopg.errors.RestrictViolation, archiving(running, f"'{archive_id}'"))
        refused(superuser, psycopg.errors.ForeignKeyViolation, archiving(ended, "gen_random_uuid()"))
        refused(superuser, psycopg.errors.RestrictViolation, removal(ended))
        assert superuser.execute(archiving(ended, f"'{archive_id}'").encode()).rowcount == 1
        for another in (f"'{archive_id}'", "gen_random_uuid()", "NULL"):
            refused(superuser, psycopg.errors.RestrictViolation, archiving(ended, another))
        refused(superuser, psycopg.errors.InsufficientPrivilege, "UPDATE challenges SET equity = 1")
        refused(superuser, psycopg.errors.InsufficientPrivilege, "UPDATE archives SET file_name = ''")
        refused(superuser, psycopg.errors.InsufficientPrivilege, "DELETE FROM archives")
        refused(superuser, psycopg.errors.RestrictViolation, removal(running))
        assert superuser.execute(removal(ended).encode()).rowcount == 1

    @pytest.mark.parametrize("role", [OWNER, SERVICE, RELAY, AUDITOR, ARCHIVIST, SUPERUSER])
    def test_nobody_else_archives_not_even_who_could_become_challenge_archiver(
        self, superuser: psycopg.Connection, role: str
    ):
        archived, archive_id = plant(superuser)
        ended = challenge(superuser, **ENDED)
        become(superuser, ARCHIVER)
        superuser.execute("UPDATE challenges SET archive_id = %s WHERE challenge_id = %s", (archive_id, archived))
        become(superuser, role)
        may = role in (OWNER, ARCHIVIST, SUPERUSER)
        error = psycopg.errors.RestrictViolation if may else psycopg.errors.InsufficientPrivilege
        refused(superuser, error, f"UPDATE challenges SET archive_id = '{archive_id}' WHERE challenge_id = '{ended}'")
        refused(superuser, error, f"DELETE FROM trades WHERE challenge_id = '{archived}'")

    def test_temporary_tables_do_not_make_challenge_archiver_believe_in_an_archive(self, superuser: psycopg.Connection):
        ended, archive_id = plant(superuser)
        superuser.execute(
            psql.SQL("GRANT TEMPORARY ON DATABASE {} TO {}").format(
                psql.Identifier(superuser.info.dbname), psql.Identifier(ARCHIVER)
            )
        )
        become(superuser, ARCHIVER)
        superuser.execute("CREATE TEMPORARY TABLE archives ON COMMIT DROP AS SELECT * FROM public.archives")
        superuser.execute(
            "CREATE TEMPORARY TABLE challenges (challenge_id, archive_id) ON COMMIT DROP AS SELECT %s::uuid, %s::uuid",
            (ended, archive_id),
        )
        removal = f"DELETE FROM public.trades WHERE challenge_id = '{ended}'"
        refused(superuser, psycopg.errors.RestrictViolation, removal)


class TestScript:
    def test_passwords_come_from_the_environment_and_stay_when_there_are_none(self, url: URL, run_script: RunScript):
        stored = "SELECT rolname, left(rolpassword, 14) FROM pg_authid WHERE rolpassword IS NOT NULL"
        environment = {"CHALLENGE_SERVICE_PASSWORD": 'it\'s "one"', "CHALLENGE_RELAY_PASSWORD": ""}
        with psycopg.connect(conninfo(url), autocommit=True) as connection:
            for given in (environment, {}):
                ran = run_script(url, environment=given)
                assert (ran.returncode, ran.stderr) == (0, "")
                assert connection.execute(stored).fetchall() == [(SERVICE, "SCRAM-SHA-256$")]

    def test_one_role_that_migrated_and_served_hands_everything_over_to_the_owner(
        self, postgres: EmbeddedPostgres, run_script: RunScript
    ):
        with (
            psycopg.connect(postgres.conninfo, autocommit=True) as connection,
            roles_removed(connection),
            empty_database(normalise_url(postgres.url)) as url,
        ):
            connection.execute("CREATE ROLE jack LOGIN")
            with psycopg.connect(conninfo(url)) as inside:
                inside.execute("GRANT CREATE ON SCHEMA public TO jack, PUBLIC")
            migrate(url.set(username="jack"))
            ran = run_script(url, "-v", "owner=an owner", "-v", "service=jack", "-v", "auditor=the auditor")
            assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
            check_usable(url.set(username="jack"))
            check_usable(url.set(username="the auditor"), audit_queries.MISSING_PRIVILEGES)
            with psycopg.connect(conninfo(url.set(username="jack"))) as both:
                owners = both.execute(
                    """
                    SELECT DISTINCT pg_get_userbyid(relowner) FROM pg_class WHERE relnamespace = 'public'::regnamespace
                    UNION SELECT pg_get_userbyid(proowner) FROM pg_proc WHERE pronamespace = 'public'::regnamespace
                    UNION SELECT pg_get_userbyid(nspowner) FROM pg_namespace WHERE nspname = 'public'
                    """
                ).fetchall()
                assert owners == [("an owner",)]
                refused(both, psycopg.errors.InsufficientPrivilege, "CREATE TABLE mine ()")
                refused(both, psycopg.errors.InsufficientPrivilege, "ALTER TABLE trades DISABLE TRIGGER USER")
                refused(both, psycopg.errors.InsufficientPrivilege, "DELETE FROM trades")

    def test_who_owns_the_database_and_may_make_roles_needs_no_superuser(
        self, postgres: EmbeddedPostgres, run_script: RunScript
    ):
        """As the administrator of a database that somebody else hosts."""
        with (
            psycopg.connect(postgres.conninfo, autocommit=True) as connection,
            roles_removed(connection),
            empty_database(normalise_url(postgres.url)) as url,
        ):
            connection.execute("CREATE ROLE administrator LOGIN CREATEROLE")
            connection.execute(f"ALTER DATABASE {url.database} OWNER TO administrator")
            names = ("-v", "owner=the_owner", "-v", "service=a_service", "-v", "relay=a_relay", "-v", "auditor=auditor")
            for _ in range(2):
                ran = run_script(url.set(username="administrator"), *names)
                assert (ran.returncode, ran.stderr) == (0, "")
                migrate(url.set(username="the_owner"))
            ran = run_script(url.set(username="administrator"), *names)
            assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
            check_usable(url.set(username="a_service"))

    @pytest.mark.parametrize(
        ("made", "why"),
        [
            ("SUPERUSER", "is a superuser"),
            ("CREATEROLE", "has CREATEROLE"),
            (f"IN ROLE {OWNER}", f"is a member of {OWNER}"),
            ("IN ROLE pg_write_all_data", "may change challenge_events by way of another role"),
        ],
    )
    def test_a_service_that_could_change_history_all_the_same_is_refused_and_nothing_is_done(
        self, url: URL, run_script: RunScript, made: str, why: str
    ):
        with psycopg.connect(conninfo(url), autocommit=True) as connection:
            connection.execute(f"CREATE ROLE mighty LOGIN {made}")
            try:
                ran = run_script(url, "-v", "service=mighty", "-v", "auditor=never_made")
                assert ran.returncode != 0
                assert f"mighty {why}" in ran.stderr
                assert connection.execute("SELECT FROM pg_roles WHERE rolname = 'never_made'").fetchall() == []
                check_usable(url.set(username=SERVICE))
            finally:
                connection.execute("DROP ROLE mighty")


class TestWarning:
    def warnings(self, caplog: pytest.LogCaptureFixture) -> list[str]:
        return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]

    @pytest.mark.parametrize("role", [OWNER, SUPERUSER])
    def test_to_serve_by_a_role_that_could_rewrite_history_is_worth_one_warning(
        self, url: URL, caplog: pytest.LogCaptureFixture, role: str
    ):
        check_usable(url.set(username=role))
        (said,) = self.warnings(caplog)
        assert said.startswith(f"the database role {role} ")
        assert "docs/roles.md" in said

    def test_whoever_owns_the_database_may_own_the_schema_too(self, url: URL, caplog: pytest.LogCaptureFixture):
        with psycopg.connect(conninfo(url), autocommit=True) as connection:
            owner = psql.SQL("ALTER DATABASE {} OWNER TO {}").format
            name = psql.Identifier(str(url.database))
            connection.execute("ALTER SCHEMA public OWNER TO pg_database_owner")
            connection.execute(owner(name, psql.Identifier(SERVICE)))
            try:
                check_usable(url.set(username=SERVICE))
            finally:
                connection.execute(owner(name, psql.Identifier(SUPERUSER)))
                connection.execute(f"ALTER SCHEMA public OWNER TO {OWNER}")
        assert len(self.warnings(caplog)) == 1

    def test_the_roles_of_the_script_are_worth_none(self, url: URL, caplog: pytest.LogCaptureFixture):
        check_usable(url.set(username=SERVICE))
        check_usable(url, audit_queries.MISSING_PRIVILEGES)
        assert self.warnings(caplog) == []

    def test_serve_says_it_once_and_not_of_the_role_of_the_script(
        self, url: URL, start_server: Callable[..., ServerProcess]
    ):
        for role, times in ((SERVICE, 0), (SUPERUSER, 1)):
            named = url.set(username=role).render_as_string(hide_password=False)
            server = start_server("--database-url", named, "--no-seal", environment={SEAL_KEY_VARIABLE: ""})
            assert server.stop() == 0
            assert server.stderr().count("could rewrite history") == times


def test_a_role_that_lacks_one_column_is_told_which_and_what_grants_it(url: URL):
    with psycopg.connect(conninfo(url), autocommit=True) as connection:
        connection.execute(f"REVOKE UPDATE (chain_head) ON challenges FROM {SERVICE}")
        try:
            with pytest.raises(DatabaseError, match=r"UPDATE on challenges \(chain_head\); deploy/roles.sql grants"):
                check_usable(url.set(username=SERVICE))
        finally:
            connection.execute(f"GRANT UPDATE (chain_head) ON challenges TO {SERVICE}")
