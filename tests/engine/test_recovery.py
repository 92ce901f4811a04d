"""Point-in-time recovery, rehearsed with the operator's scripts: the database comes back as it was at the moment."""

import asyncio
import itertools
import json
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from sqlalchemy.engine import URL

from challenge_engine import queries, rows
from challenge_engine.database import normalise_url
from challenge_engine.embedded import EmbeddedPostgres, binary
from challenge_engine.embedded_binaries import choose_account, usable_binaries
from challenge_engine.embedded_cluster import Account
from challenge_engine.event_log import ALL_EVENTS, Cursors
from challenge_engine.migrating import migrate
from challenge_engine.trading import system_clock
from challenge_rules import ChallengeEngine, ChallengeEvent, ChallengeRulesEngine, Decision, TradeSubmission
from challenge_rules.errors import (
    CursorMismatchError,
    DatabaseUnavailableError,
    OutcomeUnknownError,
    WriteConflictError,
)
from tests.engine.harness import (
    PATIENCE_S,
    RunningEngine,
    conninfo,
    eventually,
    make_terms,
    running_engine,
    sql,
    submission,
    value,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the scripts need the GNU core utilities")

SCRIPTS = Path(__file__).parents[2] / "deploy" / "pitr"
CALLERS = 8
RESTORE_POINT = "before the accident"
HISTORY = ("trades", "challenge_events", "event_positions")
"""The tables whose rows are written once and never changed, so that a row's xmin is the transaction that made it."""
WAL_LINE = re.compile(r"tx: +(\d+), .* desc: (COMMIT|ABORT|RESTORE_POINT) (.*)")


def run(script: str, *arguments: str | Path, **environment: str | Path) -> "subprocess.CompletedProcess[str]":
    """Run one of the scripts as an operator does."""
    return subprocess.run(
        [SCRIPTS / script, *arguments],
        env={
            "PATH": os.environ["PATH"],
            "PGBIN": str(binary("psql").parent),
            **{k: str(v) for k, v in environment.items()},
        },
        capture_output=True,
        text=True,
        check=False,
    )


@dataclass
class Cluster:
    """A PostgreSQL of the test's own, run by the account that may."""

    path: Path
    account: Account
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def sockets(self) -> Path:
        return self.path.with_name(f"{self.path.name}-sockets")

    @property
    def log(self) -> Path:
        return self.path.with_name(f"{self.path.name}.log")

    @property
    def url(self) -> URL:
        location = {"host": str(self.sockets), "port": "5432"}
        return URL.create("postgresql+psycopg", "challenge", database="challenge", query=location)

    def program(self, name: str, *arguments: str) -> "subprocess.Popen[bytes]":
        binaries, _ = usable_binaries(self.account)
        with self.log.open("ab") as log:
            command: list[str | Path] = [binaries / name, "-D", self.account.data_argument(self.path), *arguments]
            return self.account.popen(command, cwd=self.path, output=log)

    def start(self, **settings: str) -> None:
        """Return when it is open for work, recovered if it had to. It waits for no disk: nobody pulls its plug."""
        made_for(self.account, self.sockets)
        always = {"listen_addresses": "", "unix_socket_directories": str(self.sockets), "fsync": "off"}
        settings = always | settings
        self.process = self.program(
            "postgres", *(part for name, what in settings.items() for part in ("-c", f"{name}={what}"))
        )
        deadline = time.monotonic() + PATIENCE_S
        while not self.is_open():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)

    def is_open(self) -> bool:
        try:
            with psycopg.connect(conninfo(self.url.set(database="postgres"))) as connection:
                return connection.execute("SELECT pg_is_in_recovery()").fetchone() == (False,)
        except psycopg.OperationalError:
            return False

    def stop(self, request: signal.Signals = signal.SIGINT) -> None:
        """Stop it: fast, or with SIGQUIT as a crash does."""
        if self.process is not None:
            self.process.send_signal(request)
            self.process.wait(PATIENCE_S)
            self.process = None


def quoted(what: str) -> str:
    """As a value in postgresql.conf, which knows escapes."""
    return "'" + what.replace("\\", "\\\\").replace("'", "''") + "'"


def made_for(account: Account, directory: Path) -> Path:
    """A private directory of the account's."""
    directory.mkdir(mode=0o700, exist_ok=True)
    os.chown(directory, account.uid, account.gid)
    return directory


@dataclass
class Place:
    """Where one rehearsal happens. Not below `tmp_path`: as root, PostgreSQL's account may not enter that."""

    path: Path
    account: Account
    clusters: list[Cluster] = field(default_factory=list)

    def cluster(self, name: str) -> Cluster:
        made = Cluster(self.path / name, self.account)
        self.clusters.append(made)
        return made

    @property
    def owner(self) -> tuple[str, ...]:
        """The option of `restore` that only root needs."""
        return ("--owner", self.account.name) if self.account.is_other else ()

    def archiving(self, name: str) -> tuple[Path, str]:
        """A new archive and the archive_command for it, with a script that PostgreSQL's account can reach."""
        archive = made_for(self.account, self.path / name)
        script = Path(shutil.copy(SCRIPTS / "archive-wal", self.path))
        script.chmod(0o755)
        return archive, f"{script} {shlex.quote(str(archive)).replace('%', '%%')} %p %f"


@pytest.fixture
def place() -> Iterator[Place]:
    with tempfile.TemporaryDirectory(prefix="recovery-", dir="/tmp") as name:
        path = Path(name).resolve()
        path.chmod(0o755)
        made = Place(path, choose_account(path / "none"))
        yield made
        for cluster in made.clusters:
            cluster.stop(signal.SIGQUIT)


def archived_cluster(place: Place, name: str, archive_command: str) -> Cluster:
    """A new, running cluster that archives its WAL, in files of 1 MB, and keeps it all beside."""
    cluster = place.cluster(name)
    made_for(place.account, cluster.path)
    options = "--auth=trust --username=challenge --locale=C --encoding=UTF8 --no-instructions --no-sync --wal-segsize=1"
    assert cluster.program("initdb", *options.split()).wait() == 0, cluster.log.read_text()
    settings = {"archive_mode": "on", "archive_command": archive_command, "wal_keep_size": "1GB"}
    with (cluster.path / "postgresql.conf").open("a") as configuration:
        for setting, what in settings.items():
            configuration.write(f"{setting} = {quoted(what)}\n")
    # More connections than its configuration says, as the embedded PostgreSQL allows on the command line too.
    cluster.start(max_connections="200")
    with psycopg.connect(conninfo(cluster.url.set(database="postgres")), autocommit=True) as connection:
        connection.execute("CREATE DATABASE challenge")
    migrate(cluster.url)
    return cluster


@dataclass
class Load:
    """Callers that trade all at once by way of two processes' worth of engines, and note what was acknowledged."""

    engines: tuple[RunningEngine, ...]
    dice: random.Random
    acknowledged: list[tuple[TradeSubmission, Decision]] = field(default_factory=list)

    async def call(self) -> None:
        """Trade challenge after challenge until the database has gone."""
        try:
            while True:
                terms = make_terms(created_at=system_clock())
                await self.dice.choice(self.engines).trading.create_challenge(terms)
                await self._trade(terms.challenge_id)
        except (DatabaseUnavailableError, OutcomeUnknownError):
            return

    async def _trade(self, challenge_id: str) -> None:
        for number in itertools.count(1):
            asked = submission(challenge_id, f"t{number}", str(self.dice.randint(-2500, 2600)), number * 4000)
            while True:
                try:
                    decision = await self.dice.choice(self.engines).trading.submit(asked)
                except WriteConflictError:
                    continue
                break
            self.acknowledged.append((asked, decision))
            if decision.status.is_terminal:
                return

    async def some_more(self) -> None:
        """Return after a random number of further trades."""
        goal = len(self.acknowledged) + self.dice.randint(40, 120)

        async def reached() -> bool:
            return len(self.acknowledged) >= goal

        await eventually(reached)


async def the_next_second(url: URL) -> None:
    """Return in another second of the database's clock: a backup knows no finer when it was begun."""
    begins = await value(url, "SELECT date_trunc('second', clock_timestamp()) + interval '1 second'")

    async def begun() -> bool:
        return bool(await value(url, "SELECT clock_timestamp() >= %s", (begins,)))

    await eventually(begun)


async def archive_what_there_is(url: URL, archive: Path) -> None:
    """Return when the WAL of all that has been committed is in the archive."""
    segment: Path = archive / await value(url, "SELECT pg_walfile_name(pg_switch_wal())")

    async def archived() -> bool:
        return await asyncio.to_thread(segment.exists)

    await eventually(archived)


@dataclass
class Ending:
    """What an original left behind that came to its end in the middle of everything."""

    backup: Path
    moment: datetime
    cursor: str
    acknowledged: list[tuple[TradeSubmission, Decision]]


async def rehearse(place: Place, original: Cluster, archive: Path) -> Ending:
    """Trade, back up, and note a moment and a restore point meanwhile; then crash."""
    dice = random.Random()
    async with (
        running_engine(original.url, clock=system_clock) as one,
        running_engine(original.url, clock=system_clock) as two,
    ):
        load = Load((one, two), dice)
        async with asyncio.TaskGroup() as callers:
            for _ in range(CALLERS):
                callers.create_task(load.call())
            await load.some_more()
            backups = place.path / "backups"
            backups.mkdir(mode=0o700)
            taken = await asyncio.to_thread(run, "base-backup", backups, PGHOST=original.sockets, PGUSER="challenge")
            assert taken.returncode == 0, taken.stderr
            await the_next_second(original.url)
            await load.some_more()
            moment = await value(original.url, "SELECT clock_timestamp()")
            await load.some_more()
            await archive_what_there_is(original.url, archive)
            await load.some_more()
            await sql(original.url, "SELECT pg_create_restore_point(%s)", (RESTORE_POINT,))
            end = await one.log.end()
            cursor = Cursors(end.log_id, ALL_EVENTS).at(end.place)
            await archive_what_there_is(original.url, archive)
            await load.some_more()
            await archive_what_there_is(original.url, archive)
            await load.some_more()
            await asyncio.to_thread(original.stop, signal.SIGQUIT)
    return Ending(Path(taken.stdout.strip()), moment, cursor, load.acknowledged)


def transactions_after(cluster: Cluster, moment: datetime | None) -> set[int]:
    """The transactions that committed after a moment, or after the restore point when no moment is given.

    By the order in the WAL, where recovery stops at the first end of a transaction that is later than the moment. By
    their times alone this cannot be told: a transaction takes its time just before it gets its place in the WAL.
    """
    wal = cluster.path / "pg_wal"
    segments = [path.name for path in wal.iterdir() if len(path.name) == 24]
    options: list[str | Path] = ["--path", wal, "--rmgr=Transaction", "--rmgr=XLOG"]
    command = [binary("pg_waldump"), *options, min(segments), max(segments)]
    # It ends with an error, since nothing follows the last record.
    dump = subprocess.run(command, env={"TZ": "UTC"}, capture_output=True, text=True, check=False).stdout
    done: set[int] = set()
    undone: set[int] = set()
    stopped = False
    for xid, kind, what in WAL_LINE.findall(dump):
        if kind == "RESTORE_POINT":
            stopped = stopped or (moment is None and what == RESTORE_POINT)
            continue
        ended = datetime.fromisoformat(what.partition(" UTC")[0]).replace(tzinfo=UTC)
        stopped = stopped or (moment is not None and ended > moment)
        if kind == "COMMIT":
            (undone if stopped else done).add(int(xid))
    assert done
    assert undone
    return undone


async def history(url: URL) -> dict[str, list[tuple[int, str]]]:
    """Every row of the tables that only grow, as JSON, with the transaction that made it."""
    found = {}
    for table in HISTORY:
        made = await sql(url, f"SELECT xmin::text::bigint, to_jsonb(t) FROM {table} t")
        found[table] = sorted(((xid, json.dumps(row, sort_keys=True)) for xid, row in made), key=lambda one: one[1])
    return found


def without(whole: dict[str, list[tuple[int, str]]], transactions: set[int]) -> dict[str, list[tuple[int, str]]]:
    return {table: [row for row in found if row[0] not in transactions] for table, found in whole.items()}


async def stored_events(url: URL) -> dict[str, list[ChallengeEvent]]:
    """The events of each challenge in their order."""
    found = await sql(
        url, f"SELECT {queries.EVENT_COLUMNS} FROM challenge_events e ORDER BY challenge_id, challenge_sequence"
    )
    events = [rows.event_from_row(row) for row in found]
    return {key: list(group) for key, group in itertools.groupby(events, key=lambda event: event.challenge_id)}


async def check_that_replay_gives_what_is_stored(engine: RunningEngine) -> None:
    """Of every challenge: the trades and terms lead to the stored decisions, events and state."""
    challenges = await stored_events(engine.url)
    assert set(challenges) == {row[0] for row in await sql(engine.url, "SELECT challenge_id::text FROM challenges")}
    for challenge_id, stored in challenges.items():
        terms = stored[0].terms
        assert terms is not None
        pure = ChallengeEngine(ChallengeRulesEngine(terms.rules_version))
        state, created = pure.create(terms)
        events = [created]
        trades, _ = await engine.reader.list_trades(challenge_id, first=1, last=0, limit=10_000, page_token="")
        for recorded in trades:
            assert recorded.decision.recorded_at is not None
            outcome = pure.decide(state, recorded.trade, recorded_at=recorded.decision.recorded_at)
            assert outcome.decision == recorded.decision
            state = outcome.state
            events.extend(outcome.events)
        assert state == await engine.state(challenge_id)
        assert events == stored


def in_substance(decision: Decision) -> Decision:
    """A decision without what belongs to the moment of its making."""
    return replace(decision, replayed=False, recorded_at=None)


@pytest.mark.timeout(240)
async def test_a_crashed_database_comes_back_as_it_was_at_the_moment_asked_for(place: Place) -> None:
    """Exactly, in the middle of load; and when callers send again what was undone, it is decided as before."""
    # A name with everything that a shell or PostgreSQL could stumble over.
    archive, archive_command = place.archiving("wal, 100% of 'it' \\ all")
    original = archived_cluster(place, "original", archive_command)
    ending = await rehearse(place, original, archive)

    then, before, last = place.cluster("then"), place.cluster("before"), place.path / "last"
    to_moment = ("--to-time", ending.moment.astimezone(UTC).isoformat().replace("+00:00", "Z"))
    everything = ("--latest", "--unarchived", original.path / "pg_wal")
    for target, option in (
        (then.path, to_moment),
        (before.path, ("--to-name", RESTORE_POINT)),
        (last / "cluster", everything),
    ):
        made = run("restore", ending.backup, archive, target, *option, *place.owner)
        assert made.returncode == 0, made.stderr
    check_that_restore_refuses_what_it_should(place, ending, archive)

    original.start(archive_mode="off")
    whole, events = await history(original.url), await stored_events(original.url)
    original.stop()
    for restored, moment in ((then, ending.moment), (before, None)):
        expected = without(whole, transactions_after(original, moment))
        assert 0 < len(expected["trades"]) < len(ending.acknowledged)
        restored.start()
        assert await history(restored.url) == expected
        assert await value(restored.url, "SHOW archive_mode") == "off"
        async with running_engine(restored.url, clock=system_clock) as engine:
            await check_that_replay_gives_what_is_stored(engine)
            with pytest.raises(CursorMismatchError):
                await engine.log.place_of(ALL_EVENTS, ending.cursor)
            if restored is then:
                await check_that_callers_can_send_again(engine, ending, events)
        restored.stop()
    await check_that_the_embedded_one_goes_on(place, last, ending, whole)


async def check_that_callers_can_send_again(
    engine: RunningEngine, ending: Ending, events: dict[str, list[ChallengeEvent]]
) -> None:
    """Whatever was acknowledged: it is recorded already, or decided as it was decided before."""
    kept = await value(engine.url, "SELECT count(*) FROM trades")
    for created, *_ in events.values():
        assert created.terms is not None
        await engine.trading.create_challenge(created.terms)
    answers = await engine.batch(*(asked for asked, _ in ending.acknowledged))
    decisions = [answer for answer in answers if isinstance(answer, Decision)]
    assert list(map(in_substance, decisions)) == [in_substance(decision) for _, decision in ending.acknowledged]
    assert sum(decision.replayed for decision in decisions) == kept
    await check_that_replay_gives_what_is_stored(engine)


async def check_that_the_embedded_one_goes_on(
    place: Place, data_dir: Path, ending: Ending, whole: dict[str, list[tuple[int, str]]]
) -> None:
    """With the WAL that was not archived nothing is lost; and archiving can be turned on again."""
    archive, archive_command = place.archiving("second archive")
    with EmbeddedPostgres.open(data_dir) as database:
        url = normalise_url(database.url)
        assert await history(url) == whole
        stored = {tuple(row) for row in await sql(url, "SELECT challenge_id::text, trade_id FROM trades")}
        assert {(asked.challenge_id, asked.trade.trade_id) for asked, _ in ending.acknowledged} <= stored
        for setting, wanted in (("archive_mode", "on"), ("archive_command", archive_command)):
            await sql(url, f"ALTER SYSTEM SET {setting} = {quoted(wanted)}")
    with EmbeddedPostgres.open(data_dir) as database:
        assert await value(normalise_url(database.url), "SHOW archive_mode") == "on"
        sockets = (data_dir / "socket-directory").read_text()
        taken = run("base-backup", ending.backup.parent, PGHOST=sockets, PGUSER="challenge")
        assert taken.returncode == 0, taken.stderr
    assert {path.suffix for path in archive.iterdir()} == {"", ".backup"}


def check_that_restore_refuses_what_it_should(place: Place, ending: Ending, archive: Path) -> None:
    """PostgreSQL itself would take the first two without a word, and end elsewhere."""
    target = place.path / "refused"

    def refused(*moment: str) -> str:
        made = run("restore", ending.backup, archive, target, *moment, *place.owner)
        assert made.returncode == 1
        assert not target.exists()
        assert not target.with_name("refused.partial").exists()
        return made.stderr

    assert "take an earlier one" in refused("--to-time", "2025-01-02T12:00:00+00")
    missing = sorted(path for path in archive.iterdir() if not path.suffix)[-2]
    hidden = missing.rename(place.path / missing.name)
    assert "the WAL has a gap" in refused("--latest")
    hidden.rename(missing)
    damaged = ending.backup / "PG_VERSION"
    whole = damaged.read_bytes()
    damaged.write_bytes(b"19\n")
    assert "the backup is damaged" in refused("--latest")
    damaged.write_bytes(whole)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    made = tmp_path / "archive of all"
    made.mkdir()
    return made


class TestArchiving:
    NAME = "00000001000000000000000A"

    def test_a_file_is_there_whole_and_private(self, tmp_path: Path, archive: Path) -> None:
        (tmp_path / "segment").write_bytes(b"WAL")
        assert run("archive-wal", archive, tmp_path / "segment", self.NAME).returncode == 0
        (found,) = archive.iterdir()
        assert (found.name, found.read_bytes(), found.stat().st_mode & 0o777) == (self.NAME, b"WAL", 0o600)

    def test_the_identical_file_is_accepted_again(self, tmp_path: Path, archive: Path) -> None:
        """PostgreSQL tries again when it crashed before it took note."""
        (tmp_path / "segment").write_bytes(b"WAL")
        for _ in range(2):
            assert run("archive-wal", archive, tmp_path / "segment", self.NAME).returncode == 0
        assert len(list(archive.iterdir())) == 1

    def test_a_different_file_is_never_overwritten(self, tmp_path: Path, archive: Path) -> None:
        (tmp_path / "segment").write_bytes(b"WAL")
        (archive / self.NAME).write_bytes(b"other")
        refused = run("archive-wal", archive, tmp_path / "segment", self.NAME)
        assert refused.returncode == 1
        assert "holds something else" in refused.stderr
        assert (archive / self.NAME).read_bytes() == b"other"
        assert len(list(archive.iterdir())) == 1

    def test_of_two_clusters_that_archive_at_once_one_is_refused(self, tmp_path: Path, archive: Path) -> None:
        for number in range(8):
            (tmp_path / str(number)).write_bytes(bytes([number]) * 1_000_000)
        with ThreadPoolExecutor() as pool:
            ended = list(pool.map(lambda n: run("archive-wal", archive, tmp_path / str(n), self.NAME), range(8)))
        (winner,) = (number for number, one in enumerate(ended) if one.returncode == 0)
        (found,) = archive.iterdir()
        assert found.read_bytes() == bytes([winner]) * 1_000_000

    @pytest.mark.parametrize("name", ["../x", ".hidden", "", "a/b"])
    def test_what_is_no_name_of_a_file_is_refused(self, tmp_path: Path, archive: Path, name: str) -> None:
        (tmp_path / "segment").write_bytes(b"WAL")
        assert run("archive-wal", archive, tmp_path / "segment", name).returncode == 1
        assert not list(archive.iterdir())

    def test_an_archive_that_is_not_there_is_not_made(self, tmp_path: Path) -> None:
        """It may be a disk that is not mounted."""
        (tmp_path / "segment").write_bytes(b"WAL")
        refused = run("archive-wal", tmp_path / "absent", tmp_path / "segment", self.NAME)
        assert refused.returncode == 1
        assert not (tmp_path / "absent").exists()


class TestRestoring:
    @pytest.fixture
    def backup(self, tmp_path: Path) -> Path:
        """What has the look of a backup."""
        made = tmp_path / "backup"
        (made / "pg_tblspc").mkdir(parents=True)
        (made / "backup_label").touch()
        (made / "backup_manifest").touch()
        return made

    def test_a_target_that_is_not_empty_is_left_as_it_is(self, tmp_path: Path, backup: Path, archive: Path) -> None:
        target = tmp_path / "target"
        target.mkdir()
        (target / "PG_VERSION").write_text("18\n")
        refused = run("restore", backup, archive, target, "--to-name", "x", "--owner", "postgres")
        assert (refused.returncode, refused.stderr) == (1, f"restore: {target} is not an empty directory\n")
        assert [path.name for path in target.iterdir()] == ["PG_VERSION"]

    @pytest.mark.parametrize(
        ("moment", "message"),
        [
            ([], "one moment"),
            (["--latest", "--to-name", "x"], "one moment"),
            (["--to-time", "2026-01-31 12:30:00"], "not a time with its zone"),
            (["--to-time", "2026-01-31"], "not a time with its zone"),
            (["--to-time", "yesterday"], "not a time with its zone"),
            (["--to-lsn", "7"], "not a place in the WAL"),
            (["--to-name", "a\nb = 1"], "line break"),
            (["--to-name"], "needs a value"),
            (["--to-xid", "7"], "no option --to-xid"),
        ],
    )
    def test_a_moment_that_is_none_is_refused(
        self, tmp_path: Path, backup: Path, archive: Path, moment: list[str], message: str
    ) -> None:
        refused = run("restore", backup, archive, tmp_path / "target", *moment)
        assert refused.returncode == 1
        assert message in refused.stderr
        assert not (tmp_path / "target").exists()

    def test_a_backup_that_was_not_finished_is_refused(self, tmp_path: Path, backup: Path, archive: Path) -> None:
        partial = backup.rename(backup.with_name("backup.partial"))
        refused = run("restore", partial, archive, tmp_path / "target", "--latest")
        assert refused.returncode == 1
        assert "was not finished" in refused.stderr


@pytest.mark.parametrize("script", ["archive-wal", "base-backup", "restore"])
def test_each_script_explains_itself(script: str) -> None:
    told = run(script, "--help")
    assert (told.returncode, told.stderr) == (0, "")
    assert told.stdout.startswith(f"Usage: {script} ")
    assert run(script).returncode != 0
