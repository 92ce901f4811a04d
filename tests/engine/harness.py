"""The engine's parts, wired as a server process wires them, and what tests need to ask of them and of PostgreSQL."""

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import psycopg
from sqlalchemy.engine import URL

from challenge_engine.database import Connection, Database
from challenge_engine.event_listener import EventListener
from challenge_engine.event_log import EventLog, PositionedEvent
from challenge_engine.event_tail import EventTail
from challenge_engine.positions import PositionAssigner
from challenge_engine.reading import ChallengeReader
from challenge_engine.submissions import Answer
from challenge_engine.trading import TradingService
from challenge_engine.wakeup import Wakeup
from challenge_rules import (
    ChallengeError,
    ChallengeEvent,
    ChallengeState,
    ChallengeTerms,
    Decision,
    Limits,
    Trade,
    TradeSubmission,
)
from challenge_rules.money import format_amount, parse_amount
from challenge_rules.timestamps import day_to_iso, to_iso
from tests.rules.account import decision_in_wire_form, evaluation_in_wire_form

T = TypeVar("T")

PATIENCE_S = 30.0
SECOND = 1_000_000
DAY = 86_400 * SECOND
NOON = 1_735_819_200 * SECOND  # 2025-01-02T12:00:00Z
NOW = NOON + 300 * DAY


@dataclass
class RunningEngine:
    """One process's worth of the engine, on its own pools. `emitted` is what its EventBus emitted, in order."""

    url: URL
    database: Database
    trading: TradingService
    positions: PositionAssigner
    listener: EventListener
    news: Wakeup
    log: EventLog
    tail: EventTail
    reader: ChallengeReader
    emitted: list[ChallengeEvent] = field(default_factory=list)

    async def create(self, balance: str = "100000", **terms: Any) -> str:
        """Make a challenge; its id."""
        made = make_terms(balance=balance, **terms)
        await self.trading.create_challenge(made)
        return made.challenge_id

    async def state(self, challenge_id: str) -> ChallengeState:
        """The stored state."""
        return (await self.reader.get(challenge_id)).state

    async def batch(self, *submissions: TradeSubmission) -> list[Answer]:
        """As `TradingService.submit_batch`."""
        return await self.trading.submit_batch(submissions)

    async def all_positioned(self) -> list[ChallengeEvent]:
        """Every event of the database in log order, once each has its position."""
        await self.positions.assign_all()
        return await events_by_position(self.url)


@asynccontextmanager
async def running_engine(
    url: URL, *, pool_size: int = 10, assign: bool = True, clock: Callable[[], int] = lambda: NOW, **trading: Any
) -> AsyncIterator[RunningEngine]:
    """Start an engine as a process would, and stop it in the order a process does."""
    database = Database(url, pool_size=pool_size)
    reads = Database(url, pool_size=3)
    news = Wakeup()
    positions = PositionAssigner(reads, news)
    log = EventLog(reads)
    engine = RunningEngine(
        url=url,
        database=database,
        trading=TradingService(database, on_commit=positions.wake, clock=clock, **trading),
        positions=positions,
        listener=EventListener(reads, news),
        news=news,
        log=log,
        tail=EventTail(log, news),
        reader=ChallengeReader(reads),
    )
    engine.trading.events.subscribe(engine.emitted.append)
    engine.trading.start()
    if assign:
        positions.start()
        engine.listener.start()
    try:
        yield engine
    finally:
        await engine.trading.stop()
        await positions.stop()
        if assign:
            await engine.listener.stop()
        await engine.tail.stop()
        await database.close()
        await reads.close()


async def lives(engine: RunningEngine) -> tuple[str, str, str]:
    """Three challenges: one fails at once, one is funded, one stays pending; 3 + 3 + 1 events, all with positions."""
    failed, funded, pending = [await engine.create() for _ in range(3)]
    await engine.trading.submit(submission(failed, "t1", "-6000"))
    await engine.trading.submit(submission(funded, "t1", "20000"))
    await engine.positions.assign_all()
    return failed, funded, pending


def gist(found: Iterable[PositionedEvent]) -> list[tuple[str, str]]:
    """Of each event its challenge and the status it led to."""
    return [(one.event.challenge_id, str(one.event.new_status)) for one in found]


def new_id() -> str:
    """A fresh challenge_id."""
    return str(uuid.uuid4())


def make_terms(
    challenge_id: str | None = None,
    balance: str = "100000",
    *,
    limits: Limits | None = None,
    currency_code: str = "USD",
    labels: tuple[tuple[str, str], ...] = (),
    created_at: int = NOON - DAY,
    rules_version: int = 1,
) -> ChallengeTerms:
    """Terms with the defaults of the contract."""
    return ChallengeTerms(
        challenge_id=challenge_id or new_id(),
        initial_balance=parse_amount(balance),
        limits=limits or Limits(),
        currency_code=currency_code,
        labels=labels,
        rules_version=rules_version,
        created_at=created_at,
    )


def submission(
    challenge_id: str,
    trade_id: str,
    pnl: str = "1",
    second: float = 0,
    *,
    symbol: str = "",
    expected_sequence: int | None = None,
    validate_only: bool = False,
) -> TradeSubmission:
    """A trade so many seconds after NOON."""
    trade = Trade(trade_id, parse_amount(pnl), NOON + round(second * SECOND), symbol)
    return TradeSubmission(challenge_id, trade, expected_sequence, validate_only)


def told(answer: Answer) -> str | int:
    """The gist of an answer: the sequence of a decision (negative for a replay), or the reason of a refusal."""
    if isinstance(answer, ChallengeError):
        return str(answer.reason)
    return -answer.sequence if answer.replayed else answer.sequence


def answer_in_wire_form(answer: Answer) -> dict[str, Any]:
    """An answer as `ModelChallenge.submit` gives it."""
    if isinstance(answer, Decision):
        return decision_in_wire_form(answer)
    return {"outcome": "rejection", "reason": str(answer.reason), **answer.metadata}


def state_in_wire_form(state: ChallengeState) -> dict[str, Any]:
    """A state as `ModelChallenge.snapshot` gives it."""
    return {
        "status": str(state.status),
        "status_reason": state.status_reason and str(state.status_reason),
        "initial_balance": format_amount(state.terms.initial_balance),
        "equity": format_amount(state.equity),
        "peak_equity": format_amount(state.peak_equity),
        "daily_start_equity": format_amount(state.daily_start_equity),
        "trading_day": None if state.trading_day is None else day_to_iso(state.trading_day),
        "last_sequence": state.last_sequence,
        "version": state.version,
        "activated_at": None if state.activated_at is None else to_iso(state.activated_at),
        "closed_at": None if state.closed_at is None else to_iso(state.closed_at),
        "last_executed_at": None if state.last_executed_at is None else to_iso(state.last_executed_at),
    }


def status_change_in_wire_form(event: ChallengeEvent) -> dict[str, Any]:
    """A status change as `ModelChallenge.events` holds it."""
    return {
        "old_status": event.old_status and str(event.old_status),
        "new_status": str(event.new_status),
        "reason": event.reason and str(event.reason),
        "trade_id": event.trade_id,
        "trade_sequence": event.trade_sequence,
        "equity": format_amount(event.equity),
        "evaluations": [evaluation_in_wire_form(row) for row in event.evaluations],
        "occurred_at": to_iso(event.occurred_at),
    }


def conninfo(url: URL) -> str:
    """A database URL as psycopg itself wants it."""
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


@asynccontextmanager
async def sql_session(url: URL, *, autocommit: bool = True) -> AsyncIterator[Connection]:
    """A connection of the test's own, as an auditor or another process has one."""
    async with await psycopg.AsyncConnection.connect(conninfo(url), autocommit=autocommit) as connection:
        yield connection


async def sql(url: URL, statement: str, parameters: Any = None) -> list[Any]:
    """The rows of one statement, committed."""
    async with sql_session(url) as connection:
        cursor = await connection.execute(statement, parameters)
        return await cursor.fetchall() if cursor.description else []


UNPROTECT = """
    SET LOCAL session_replication_role = replica;
    DO $$ DECLARE t record; BEGIN
        FOR t IN SELECT tgrelid::regclass AS name, tgname FROM pg_trigger WHERE tgenabled = 'A' LOOP
            EXECUTE format('ALTER TABLE %s DISABLE TRIGGER %I', t.name, t.tgname);
        END LOOP;
    END $$
"""
"""As a superuser who leaves out foreign keys and every trigger that keeps history as it is, until PROTECT."""

PROTECT = """
    DO $$ DECLARE t record; BEGIN
        FOR t IN SELECT tgrelid::regclass AS name, tgname FROM pg_trigger WHERE tgenabled = 'D' LOOP
            EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', t.name, t.tgname);
        END LOOP;
    END $$
"""


@asynccontextmanager
async def tampering(url: URL) -> AsyncIterator[Connection]:
    """A superuser's transaction that nothing protects history from; committed at the end."""
    async with sql_session(url, autocommit=False) as connection:
        await connection.execute(UNPROTECT)
        yield connection
        await connection.execute(PROTECT)
        await connection.commit()


async def value(url: URL, statement: str, parameters: Any = None) -> Any:
    """The one value of one statement."""
    ((only,),) = await sql(url, statement, parameters)
    return only


async def events_by_position(url: URL) -> list[ChallengeEvent]:
    """Every positioned event, read without the event log's own paging."""
    from challenge_engine import queries, rows

    found = await sql(
        url,
        f"SELECT {queries.EVENT_COLUMNS} FROM event_positions p"
        " JOIN challenge_events e USING (challenge_id, challenge_sequence) ORDER BY p.position",
    )
    return [rows.event_from_row(row) for row in found]


async def eventually(condition: Callable[[], Awaitable[T]], patience_s: float = PATIENCE_S) -> T:
    """What the condition gives once it is true; fails when it does not come true in time."""
    deadline = time.monotonic() + patience_s
    while not (result := await condition()):
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.005)
    return result


async def lock_waiters(url: URL, at_least: int = 1) -> None:
    """Return once so many sessions of the database wait for a lock."""

    async def waiting() -> bool:
        found = await value(
            url,
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'",
        )
        return bool(found >= at_least)

    await eventually(waiting)


@asynccontextmanager
async def locked_challenge(url: URL, challenge_id: str) -> AsyncIterator[None]:
    """Another transaction holds the challenge's row."""
    async with sql_session(url, autocommit=False) as connection:
        await connection.execute("SELECT FROM challenges WHERE challenge_id = %s FOR UPDATE", (challenge_id,))
        yield
        await connection.rollback()


@asynccontextmanager
async def busy_writer(engine: RunningEngine) -> AsyncIterator[None]:
    """The writer of the engine is in the middle of a group, so that all trades submitted inside wait together."""
    plug = await engine.create()
    async with locked_challenge(engine.url, plug):
        begun = asyncio.create_task(engine.trading.submit(submission(plug, "plug")))
        await lock_waiters(engine.url)
        yield
    await begun


async def submitted(coroutine: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
    """A call that has handed its trades over and waits for its answers."""
    task = asyncio.create_task(coroutine)
    await asyncio.sleep(0)
    return task


async def plant_trade_trigger(url: URL, body: str, *, at_commit: bool = False, table: str = "trades") -> None:
    """Run PL/pgSQL for every row inserted into a table: as it is inserted, or in COMMIT itself."""
    async with sql_session(url) as connection:
        await connection.execute(
            f"CREATE FUNCTION planted.planted() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} RETURN NEW; END $$"
        )
        await connection.execute(
            f"CREATE CONSTRAINT TRIGGER planted AFTER INSERT ON {table} DEFERRABLE INITIALLY DEFERRED"
            " FOR EACH ROW EXECUTE FUNCTION planted.planted()"
            if at_commit
            else f"CREATE TRIGGER planted BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION planted.planted()"
        )


async def uproot_trigger(url: URL) -> None:
    """Take a planted trigger away again."""
    await sql(url, "DROP FUNCTION planted.planted() CASCADE")


class Proxy:
    """A wire between the engine and PostgreSQL that a test can cut.

    `away` refuses new connections and breaks the open ones. `lose_next_commit` lets the next COMMIT through to the
    database and cuts the wire before its answer comes back. While `answering` is not set, nothing comes back at all and
    the connections stay open; `freeze_next_commit` clears it when the next COMMIT has gone through.
    """

    def __init__(self, url: URL) -> None:
        self._socket = f"{url.query['host']}/.s.PGSQL.{url.query['port']}"
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._port = 0
        self.lose_next_commit = False
        self.freeze_next_commit = False
        self.answering = asyncio.Event()
        self.answering.set()
        self.lost = 0

    async def listen(self) -> None:
        """Accept connections; after `away`, on the same port again."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    def url(self, url: URL) -> URL:
        """The database's URL by way of the proxy."""
        return url.set(host="127.0.0.1", port=self._port, query={"sslmode": "disable", "gssencmode": "disable"})

    async def away(self) -> None:
        """Break every connection and refuse new ones."""
        assert self._server is not None
        self._server.close()
        for writer in tuple(self._writers):
            writer.transport.abort()
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            up_reader, up_writer = await asyncio.open_unix_connection(self._socket)
            self._writers.add(up_writer)
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await self._pump(reader, writer, up_reader, up_writer)
            up_writer.transport.abort()
            self._writers.discard(up_writer)
        finally:
            writer.transport.abort()
            self._writers.discard(writer)
            self._tasks.discard(task)

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        up_reader: asyncio.StreamReader,
        up_writer: asyncio.StreamWriter,
    ) -> None:
        committing = asyncio.Event()

        async def up() -> None:
            while data := await reader.read(65536):
                if self.lose_next_commit and b"COMMIT\0" in data:
                    self.lose_next_commit = False
                    committing.set()
                if self.freeze_next_commit and b"COMMIT\0" in data:
                    self.freeze_next_commit = False
                    self.answering.clear()
                up_writer.write(data)

        async def down() -> None:
            while data := await up_reader.read(65536):
                if committing.is_set():
                    self.lost += 1
                    return
                await self.answering.wait()
                writer.write(data)

        both = {asyncio.create_task(up()), asyncio.create_task(down())}
        _, pending = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        await asyncio.gather(*both, return_exceptions=True)


@asynccontextmanager
async def proxied(url: URL) -> AsyncIterator[Proxy]:
    """A proxy before the database of the URL."""
    proxy = Proxy(url)
    await proxy.listen()
    try:
        yield proxy
    finally:
        await proxy.away()
