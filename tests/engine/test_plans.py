"""Every statement of the service goes by an index: prepared or not, on fresh statistics and on stale ones.

The service itself carries out the operations below, once, and what it sends is written down. Each statement is then
explained with its own parameters on databases in several states, in sessions that are set up as the service's are.
"""

import asyncio
import re
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import psycopg
import pytest
from psycopg import sql as psql
from psycopg._queries import PostgresQuery
from psycopg.adapt import Transformer
from sqlalchemy.engine import URL

from bench import filling
from challenge_engine import queries
from challenge_engine.database import Connection, Database, WriterConnection, normalise_url
from challenge_engine.embedded import EmbeddedPostgres
from challenge_engine.event_log import EventFilter
from challenge_engine.reading import ChallengeFilter
from challenge_rules import ChallengeStatus, Decision, TradeSubmission
from challenge_rules.money import parse_amount
from tests.engine.harness import (
    RunningEngine,
    conninfo,
    eventually,
    make_terms,
    running_engine,
    sql,
    submission,
    value,
)

CHALLENGES, TRADES, UNTRADED, FEW = 2_000, 100, 300, 2
ALL_TABLES = (*filling.TABLES, "event_outbox", "event_log")
GROUP = 256
PENDING, ACTIVE, FAILED, FUNDED = ChallengeStatus

_TEXTS = {name: text for name, text in vars(queries).items() if name.isupper() and isinstance(text, str)}
BEGIN, NEXT, COMMIT = "BEGIN; ", "; ", "; COMMIT"
EXECUTION = re.compile(r"EXECUTE (\w+)(?:\(([^)]*)\))?")
PARTS = {"CHALLENGE_COLUMNS", "TRADE_COLUMNS", "EVENT_COLUMNS", "NOTIFY_CHANNEL"} | {
    name
    for name, text in _TEXTS.items()
    if name.startswith(("CHALLENGES_", "EVENTS_", "LOG_ORIGIN")) or text.startswith(BEGIN) or EXECUTION.search(text)
}
"""Texts that are no statements themselves: conditions, or messages that execute prepared ones. Each has to be sent."""
NOT_EXPLAINED = {
    "CONFIGURE_SESSION": "reads no table",
    "CONFIGURE_WRITER": "reads no table",
    "MISSING_PRIVILEGES": "runs once, when a process starts, and reads the catalogue alone",
    "ROLE_THAT_CAN_REWRITE": "likewise",
    "IMPORT_IS_UNFINISHED": "runs once, when a server starts, and reads a few rows",
    "IS_ARCHIVED": "finds one challenge by its id as GET_CHALLENGE does, when an ended one shows no trades",
    "HAS_REVISION": "runs once, when a server starts, and reads the catalogue",
    "REVISION": "runs once, when a server starts, and reads a table of one row",
    "USABLE_CONNECTIONS": "runs once, when a server of several processes starts, and reads settings alone",
}
STATEMENTS = {name: text for name, text in _TEXTS.items() if name not in PARTS}

INDEXES = {
    "LOCK_CHALLENGES": {"challenges_pkey"},
    "FIND_RECORDED_TRADES": {"trades_trade_id_unique"},
    "INSERT_TRADES": set(),
    "UPDATE_CHALLENGES": {"challenges_pkey"},
    "INSERT_EVENTS": set(),
    "INSERT_CHALLENGE": set(),
    "GET_CHALLENGE": {"challenges_pkey"},
    "GET_TRADE": {"trades_pkey"},
    "LIST_TRADES": {"trades_pkey", "trades_trade_id_unique"},
    "LIST_CHALLENGES": {
        "challenges_by_creation", "challenges_by_status", "challenges_by_label", "challenges_by_closing",
    },
    "LOG_END": {"event_positions_pkey", "challenge_events_pkey", "pg_database_datname_index"},
    "LOG_AT": {"event_positions_pkey", "challenge_events_pkey"},
    "LIST_EVENTS": {
        "event_positions_pkey", "event_positions_event_unique", "event_positions_by_status", "challenge_events_pkey",
    },
    "NEW_EVENTS": {"event_positions_pkey", "challenge_events_pkey"},
    "ASSIGN_POSITIONS": {"event_positions_pkey", "event_outbox_pkey", "challenge_events_pkey"},
    "OUTBOX_HAS_ROWS": {"event_outbox_pkey"},
    "LOCK_LOG": set(),
    "MOVE_LOG": {"event_log_pkey", "pg_database_datname_index"},
    "IS_WRITABLE": {"event_log_pkey"},
}  # fmt: skip
"""The indexes that a statement may use. A page that holds all trades of a challenge may come by either of theirs."""
FEW_ROWS = {"event_outbox_pkey", "event_log_pkey"}
"""What waits for its position, and the identity of the log, may be read whole."""
KEPT_PREPARED = {
    "LOCK_CHALLENGES", "FIND_RECORDED_TRADES", "INSERT_TRADES", "UPDATE_CHALLENGES", "INSERT_EVENTS",
    "INSERT_CHALLENGE", "OUTBOX_HAS_ROWS", "LOCK_LOG", "MOVE_LOG", "ASSIGN_POSITIONS", "NEW_EVENTS",
    "LOG_END",
}  # fmt: skip
"""The statements of transactions that commit: a generic plan made for them on a small database may still be in use when
it has grown. The others are planned anew each time, because psycopg forgets what it has prepared at a rollback."""
WRITING = (
    "a creation", "a trade", "a group of trades", "a trade on a remembered challenge",
    "a group of trades on remembered challenges", "a first trade", "a group of first trades", "positions",
    "a look for events without a position", "the tail of the log",
)  # fmt: skip
"""The operations with such statements."""
READS_THE_LOG: set[str] = set()

PREPARED_HERE = "prepared_here"
UNPREPARED, CUSTOM, GENERIC = MODES = ("unprepared", "prepared, custom plan", "prepared, generic plan")
EMPTY = "empty"
VACUUMED = "empty and vacuumed"
SMALL = "small"
OUTDATED = "full, with the statistics of a small one"
FULL = "full"
BARE = "full, without statistics"
SMALL_STATES, FULL_STATES = (EMPTY, VACUUMED, SMALL), (OUTDATED, FULL, BARE)
"""A small database has FEW challenges, a full one CHALLENGES. BARE is a dump restored without an ANALYZE afterwards."""


@dataclass(frozen=True)
class Filled:
    """The challenges of the full database, by what has become of them."""

    active: list[str]
    pending: list[str]
    last_position: int


Run = Callable[[RunningEngine, Filled], Awaitable[object]]


def challenges(
    *statuses: ChallengeStatus, labels: bool = False, since: int | None = None, until: int | None = None
) -> Run:
    """The first page of challenges and the second; `since` and `until` are the sequences of trades at these moments."""
    wanted = ChallengeFilter(
        statuses,
        (("desk", "10"),) if labels else (),
        None if since is None else filling.trade(since).executed_at,
        None if until is None else filling.trade(until).executed_at,
    )

    async def run(engine: RunningEngine, _filled: Filled) -> None:
        _, token = await engine.reader.list_challenges(wanted, limit=100, page_token="")
        if token:
            await engine.reader.list_challenges(wanted, limit=100, page_token=token)

    return run


def trades(first: int, last: int, limit: int) -> Run:
    return lambda engine, filled: engine.reader.list_trades(
        filled.active[999], first=first, last=last, limit=limit, page_token=""
    )


def events(*statuses: ChallengeStatus, of: int = 0, newest: int | None = None) -> Run:
    """A page of events: of so many challenges or all, from the beginning of the log or the `newest` alone."""

    async def run(engine: RunningEngine, filled: Filled) -> None:
        wanted = EventFilter(tuple(filled.active[:of]), statuses)
        await engine.log.read(wanted, after=0 if newest is None else filled.last_position - newest, limit=100)

    return run


def group(sequence: int, first: int, count: int) -> Run:
    """So many trades at once, each the one with this sequence of another challenge."""

    async def run(engine: RunningEngine, filled: Filled) -> None:
        challenge_ids = (filled.pending if sequence == 1 else filled.active)[first : first + count]
        trade = filling.trade(sequence)
        answers = await engine.batch(*(TradeSubmission(challenge_id, trade) for challenge_id in challenge_ids))
        assert [isinstance(answer, Decision) for answer in answers] == [True] * count

    return run


def remembered(first: int, count: int) -> Run:
    """So many challenges, traded on until their states are relied upon, and then once more."""

    async def run(engine: RunningEngine, filled: Filled) -> None:
        for sequence in range(TRADES + 1, TRADES + 4):
            await group(sequence, first, count)(engine, filled)

    return run


async def tail(engine: RunningEngine, after: int) -> None:
    """What the one reader of a process does all day."""
    connection = engine.log.connection_to_follow()
    page = await engine.log.read_new(connection, after=after, limit=500, log_id=(await engine.log.end()).log_id)
    await connection.close()
    assert page.events


OPERATIONS: dict[str, Run] = {
    "a creation": lambda engine, _: engine.trading.create_challenge(make_terms()),
    "a trade": group(TRADES + 1, 0, 1),
    "a group of trades": group(TRADES + 1, 1, GROUP),
    "a trade on a remembered challenge": remembered(300, 1),
    "a group of trades on remembered challenges": remembered(301, GROUP),
    "a first trade": group(1, 0, 1),
    "a group of first trades": group(1, 1, GROUP),
    "positions": lambda engine, _: engine.positions.assign_all(),
    "a look for events without a position": lambda engine, _: engine.positions._any_waits(),
    "the tail of the log": lambda engine, filled: tail(engine, filled.last_position - 5),
    "a challenge": lambda engine, filled: engine.reader.get(filled.active[1000]),
    "a challenge of the past": lambda engine, filled: engine.reader.get(filled.active[1000], TRADES // 2),
    "all challenges": challenges(),
    "active challenges": challenges(ACTIVE),
    "failed challenges": challenges(FAILED),
    "ended challenges": challenges(FAILED, FUNDED),
    "challenges with a label": challenges(labels=True),
    "failed challenges with a label": challenges(FAILED, labels=True),
    "challenges closed since a moment": challenges(since=TRADES + 1),
    "challenges closed until a moment": challenges(until=TRADES),
    "challenges by everything": challenges(FAILED, labels=True, since=TRADES, until=TRADES + 2),
    "trades": trades(1, 0, 10),
    "all trades": trades(1, 0, 100),
    "trades of a stretch": trades(41, 60, 100),
    "events": events(),
    "the newest event": events(newest=1),
    "the newest events of a status": events(FUNDED, newest=20),
    "events of a status": events(FAILED),
    "events of a rare status": events(FUNDED),
    "events of two statuses": events(ACTIVE, FUNDED),
    "events of a challenge": events(of=1),
    "events of fifty challenges": events(of=50),
    "events of a challenge and a status": events(ACTIVE, of=1),
    "a cursor": lambda engine, filled: engine.log.place_at(filled.last_position),
    "the end of the log": lambda engine, _: engine.log.end(),
    "health": lambda engine, _: engine.database.is_writable(),
}  # fmt: skip


@dataclass(frozen=True)
class Sent:
    """A statement with its parameters as the service sent it, and the text it was sent in.

    `prepared_as` is its name in the sessions of the writers, which prepare what they execute themselves.
    """

    name: str
    text: str
    parameters: Any
    message: str
    prepared_as: str | None = None


@contextmanager
def written_down() -> Iterator[list[Sent]]:
    """Every statement of the service that psycopg sends."""
    sent: list[Sent] = []
    execute = psycopg.AsyncCursor.execute

    async def execute_and_write_down(self: Any, query: Any, params: Any = None, **options: Any) -> Any:
        if isinstance(query, str):
            sent.extend(_statements(query, params))
        return await execute(self, query, params, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(psycopg.AsyncCursor, "execute", execute_and_write_down)
        yield sent


def _statements(query: str, parameters: Any) -> Iterator[Sent]:
    """The statements in a message; none in what SQLAlchemy asks of a new connection."""
    left = iter(parameters or ())
    for prepared_as, arguments in EXECUTION.findall(query):
        text = queries.PREPARED[prepared_as]
        own = [next(left) for _ in range(arguments.count("%s"))]
        yield Sent(_name(text), text, own, query, prepared_as)
    if query.startswith(BEGIN) and EXECUTION.search(query) is None:
        for text in query.removeprefix(BEGIN).removesuffix(COMMIT).split(NEXT):
            yield Sent(_name(text), text, parameters if "%(" in text else None, query)
    elif EXECUTION.search(query) is None and any(table in query for table in ALL_TABLES):
        yield Sent(_name(query), query, parameters, query)


def _name(query: str) -> str:
    """The name of a statement among the queries."""
    for name, statement in STATEMENTS.items():
        if re.fullmatch(re.sub(r"\\{\w+\\}", ".*", re.escape(statement)), query, re.DOTALL):
            return name
    raise AssertionError(f"the service sent a statement that is none of its queries: {query}")


Plan = dict[str, Any]


@dataclass(frozen=True)
class Explained:
    """A statement, how it was planned, and the plan."""

    name: str
    mode: str
    plan: Plan

    def __str__(self) -> str:
        return f"{self.name}, {self.mode}: {_outline(self.plan)}"


def _nodes(plan: Plan, *, limited: bool = False) -> Iterator[tuple[Plan, bool]]:
    """The nodes of a plan, and whether each is left as soon as a LIMIT is reached."""
    yield plan, limited
    limited = plan["Node Type"] == "Limit" or (limited and plan["Node Type"] in {"Nested Loop", "Memoize", "LockRows"})
    for below in plan.get("Plans", ()):
        yield from _nodes(below, limited=limited)


def _indexes(plan: Plan) -> set[str]:
    return {node["Index Name"] for node, _ in _nodes(plan) if "Index Name" in node}


def _outline(plan: Plan) -> str:
    """A plan in one line, for whoever reads why a test failed."""
    words = [plan["Node Type"], plan.get("Index Name") or plan.get("Relation Name"), plan.get("Index Cond")]
    below = ", ".join(_outline(each) for each in plan.get("Plans", ()))
    return " ".join(str(word)[:100] for word in words if word) + (f" ({below})" if below else "")


def faults(explained: Explained, *, may_read_whole: bool = False) -> list[str]:
    """What is wrong with a plan, if anything: a table or an index that is read from end to end, or another index."""
    found = []
    for node, limited in _nodes(explained.plan):
        index = node.get("Index Name")
        if node["Node Type"] == "Seq Scan" and node["Relation Name"] in filling.TABLES:
            found.append(f"reads all of {node['Relation Name']}")
        elif index is not None and index not in INDEXES[explained.name]:
            found.append(f"uses {index}")
        elif index is not None and not ("Index Cond" in node or limited or index in FEW_ROWS or may_read_whole):
            found.append(f"reads all of {index}")
    return [f"{explained}: {fault}" for fault in found]


async def explain(connection: Connection, sent: Sent, mode: str) -> Explained:
    """How PostgreSQL would execute a statement in this session, inside a transaction."""
    await connection.execute("SET LOCAL plan_cache_mode = auto", prepare=False)
    if mode == UNPREPARED:
        cursor = await connection.execute(f"EXPLAIN (FORMAT JSON) {sent.text}", sent.parameters, prepare=False)
    else:
        kind = {CUSTOM: "force_custom_plan", GENERIC: "force_generic_plan"}[mode]
        await connection.execute(f"SET LOCAL plan_cache_mode = {kind}", prepare=False)
        name = sent.prepared_as or _prepare(connection, sent)
        values = psql.SQL(", ").join(map(psql.Literal, _in_order(sent)))
        arguments = psql.SQL("({})").format(values) if sent.parameters else psql.SQL("")
        cursor = await connection.execute(
            psql.SQL("EXPLAIN (FORMAT JSON) EXECUTE {}").format(psql.Identifier(name)) + arguments, prepare=False
        )
    row = await cursor.fetchone()
    if mode != UNPREPARED and sent.prepared_as is None:
        await connection.execute(f"DEALLOCATE {PREPARED_HERE}", prepare=False)
    assert row is not None
    return Explained(sent.name, mode, row[0][0]["Plan"])


def _prepare(connection: Connection, sent: Sent) -> str:
    """Prepare a statement as psycopg does, with the types that it gives to the parameters, but do not execute it."""
    converted = PostgresQuery(Transformer(connection))
    converted.convert(sent.text, sent.parameters)
    result = connection.pgconn.prepare(PREPARED_HERE.encode(), converted.query, converted.types)
    assert result.status == psycopg.pq.ExecStatus.COMMAND_OK, result.error_message
    return PREPARED_HERE


def _in_order(sent: Sent) -> list[Any]:
    """The values of $1, $2 …"""
    if isinstance(sent.parameters, dict):
        return [sent.parameters[name] for name in dict.fromkeys(re.findall(r"%\((\w+)\)s", sent.text))]
    return list(sent.parameters or ())


Operations = dict[str, list[Sent]]
Plans = dict[tuple[str, str], list[Explained]]
"""By state and operation."""


@contextmanager
def _database(postgres: EmbeddedPostgres, name: str) -> Iterator[URL]:
    """A migrated database whose statistics change only when a test says so."""
    with psycopg.connect(postgres.conninfo, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE migrated")
        url = normalise_url(postgres.url).set(database=name)
        _administer(url, *(f"ALTER TABLE {table} SET (autovacuum_enabled = off)" for table in filling.TABLES))
        yield url
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def _administer(url: URL, *statements: str) -> None:
    with psycopg.connect(conninfo(url), autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


async def _carry_out(url: URL, active: list[str], pending: list[str]) -> Operations:
    """Let some challenges fail, then carry out every operation; what was sent for each."""
    losing = replace(filling.trade(TRADES + 1), realized_pnl=parse_amount("-6000"))
    done = {}
    async with running_engine(url, assign=False) as engine:
        await engine.batch(*(TradeSubmission(challenge_id, losing) for challenge_id in active[::10]))
        await engine.positions.assign_all()
        filled = Filled(
            [each for n, each in enumerate(active) if n % 10], pending, (await engine.log.end()).place.position
        )
        for operation, run in OPERATIONS.items():
            with written_down() as sent:
                await run(engine, filled)
            done[operation] = sent
    return done


@asynccontextmanager
async def _sessions(url: URL) -> AsyncIterator[Callable[[Sent], Connection]]:
    """A session of the pool and one of a writer, both in a transaction; which of them sends a statement."""
    database = Database(url)
    writer = WriterConnection(database, queries.PREPARED)
    try:
        async with database.connection() as pooled, writer.use() as own:
            await own.execute("BEGIN")
            yield lambda sent: own if sent.prepared_as else pooled
    finally:
        await writer.close()
        await database.close()


async def _explain_all(url: URL, operations: Operations, states: dict[str, tuple[str, ...]]) -> Plans:
    """The plans in one state after the other; what brings a state about is executed first."""
    plans: Plans = {}
    for state, changes in states.items():
        _administer(url, *changes)
        async with _sessions(url) as session:
            for operation, statements in operations.items():
                plans[state, operation] = [
                    await explain(session(sent), sent, mode) for sent in statements for mode in MODES
                ]
    return plans


@pytest.fixture(scope="module")
def full_database(postgres: EmbeddedPostgres) -> Iterator[tuple[URL, Operations]]:
    """A full database with the statistics of a small one, and what the service sent as it worked on it."""
    with _database(postgres, "plans_full") as url:
        fill = partial(filling.fill, conninfo(url))
        active = fill(challenges=FEW, trades_per_challenge=TRADES)
        active += fill(first=FEW, challenges=CHALLENGES - FEW, trades_per_challenge=TRADES, analyze=False)
        pending = fill(first=CHALLENGES, challenges=UNTRADED, trades_per_challenge=0, analyze=False)
        yield url, asyncio.run(_carry_out(url, active, pending))


@pytest.fixture(scope="module")
def operations(full_database: tuple[URL, Operations]) -> Operations:
    return full_database[1]


@pytest.fixture(scope="module")
def plans(postgres: EmbeddedPostgres, full_database: tuple[URL, Operations]) -> Plans:
    """Every statement of every operation in every state, planned in every mode."""
    full, operations = full_database
    tables = ", ".join((*filling.TABLES, "event_outbox"))
    found = asyncio.run(
        _explain_all(
            full,
            operations,
            {OUTDATED: (), FULL: (f"VACUUM (ANALYZE) {tables}",), BARE: tuple(_forget_statistics())},
        )
    )
    with _database(postgres, "plans_small") as small:
        found |= asyncio.run(_explain_all(small, operations, {EMPTY: (), VACUUMED: (f"VACUUM (ANALYZE) {tables}",)}))
        filling.fill(conninfo(small), challenges=FEW, trades_per_challenge=TRADES)
        found |= asyncio.run(_explain_all(small, operations, {SMALL: ()}))
    return found


def _forget_statistics() -> Iterator[str]:
    """What makes a database one that was restored from a dump."""
    for table in filling.TABLES:
        yield f"SELECT pg_clear_relation_stats('public', '{table}')"
        yield (
            f"SELECT pg_clear_attribute_stats('public', '{table}', attname, false) FROM pg_attribute"
            f" WHERE attrelid = '{table}'::regclass AND attnum > 0"
        )


def cases(states: Iterable[str], operations: Iterable[str]) -> list[Any]:
    """Every state with every operation."""
    return [pytest.param(state, operation, id=f"{state}: {operation}") for state in states for operation in operations]


@pytest.mark.parametrize(("state", "operation"), cases(FULL_STATES, OPERATIONS))
def test_on_a_full_database_every_statement_goes_by_its_index(plans: Plans, state: str, operation: str):
    assert plans[state, operation]
    whole = operation in READS_THE_LOG
    assert [fault for explained in plans[state, operation] for fault in faults(explained, may_read_whole=whole)] == []


@pytest.mark.parametrize(("state", "operation"), cases(SMALL_STATES, WRITING))
def test_a_plan_made_on_a_small_database_is_good_enough_to_be_kept(plans: Plans, state: str, operation: str):
    generic = [explained for explained in plans[state, operation] if explained.mode == GENERIC]
    kept = [explained for explained in generic if explained.name in KEPT_PREPARED]
    assert kept
    assert [fault for explained in kept for fault in faults(explained)] == []


@pytest.mark.parametrize(
    ("operation", "index"),
    [
        ("all challenges", "challenges_by_creation"),
        ("challenges with a label", "challenges_by_label"),
        ("challenges closed until a moment", "challenges_by_closing"),
        ("trades", "trades_pkey"),
        ("trades of a stretch", "trades_pkey"),
        ("events", "event_positions_pkey"),
        ("the newest event", "event_positions_pkey"),
        ("events of a status", "event_positions_by_status"),
        ("events of a rare status", "event_positions_by_status"),
        ("events of two statuses", "event_positions_by_status"),
        ("events of a challenge", "event_positions_event_unique"),
        ("events of fifty challenges", "event_positions_event_unique"),
    ],
)
def test_a_list_goes_by_the_index_that_was_made_for_it(plans: Plans, operation: str, index: str):
    """As it is executed: reads are planned anew each time, for their parameters."""
    listed = [each for each in plans[FULL, operation] if each.name.startswith("LIST_") and each.mode == UNPREPARED]
    assert listed
    assert [str(each) for each in listed if index not in _indexes(each.plan)] == []


def test_every_statement_is_explained(operations: Operations):
    """Whoever adds a statement to the queries adds an operation that sends it, or the reason why none has to."""
    sent = [statement for statements in operations.values() for statement in statements]
    assert {statement.name for statement in sent} | set(NOT_EXPLAINED) == set(STATEMENTS)
    assert set(INDEXES) | set(NOT_EXPLAINED) == set(STATEMENTS)
    assert {statement.prepared_as for statement in sent if statement.prepared_as} == set(queries.PREPARED)
    texts = [statement.message for statement in sent] + [STATEMENTS[name] for name in NOT_EXPLAINED]
    assert {part for part in PARTS if not any(getattr(queries, part) in text for text in texts)} == set()


def test_groups_of_one_and_of_many_are_explained(operations: Operations):
    locked = defaultdict(list)
    for operation, statements in operations.items():
        for statement in statements:
            if statement.name == "LOCK_CHALLENGES":
                with_writes = "EXECUTE insert_trades" in statement.message
                locked[operation].append((len(statement.parameters[0].split(",")), with_writes))
    assert locked == {
        "a trade": [(1, False)],
        "a group of trades": [(GROUP, False)],
        "a trade on a remembered challenge": [(1, False), (1, False), (1, True)],
        "a group of trades on remembered challenges": [(GROUP, False), (GROUP, False), (GROUP, True)],
        "a first trade": [(1, False)],
        "a group of first trades": [(GROUP, False)],
    }


def test_challenges_are_locked_in_the_order_of_their_ids():
    """Or two groups could wait for each other in a circle."""
    assert "ORDER BY c.challenge_id FOR UPDATE" in queries.LOCK_CHALLENGES


@pytest.mark.parametrize(
    ("operation", "name", "change", "fault"),
    [
        ("a trade", "FIND_RECORDED_TRADES", "ALTER TABLE trades DROP CONSTRAINT trades_trade_id_unique", "trades_pkey"),
        ("a trade", "LOCK_CHALLENGES", "ALTER TABLE challenges DROP CONSTRAINT challenges_pkey CASCADE", "challenges_"),
        (
            "the newest event",
            "LIST_EVENTS",
            "ALTER TABLE event_positions DROP CONSTRAINT event_positions_pkey",
            "all of",
        ),
        ("all challenges", "LIST_CHALLENGES", "DROP INDEX challenges_by_creation", "all of challenges"),
        ("trades", "LIST_TRADES", "SET LOCAL enable_indexscan = off", "all of trades"),
    ],
)
async def test_a_statement_that_lost_its_index_is_found_at_fault(
    plans: Plans,
    full_database: tuple[URL, Operations],
    operation: str,
    name: str,
    change: str,
    fault: str,
):
    """Or this file could not fail. The changes are rolled back."""
    url, operations = full_database
    statement = next(each for each in operations[operation] if each.name == name)
    async with _sessions(url) as session:
        connection = session(statement)
        assert faults(await explain(connection, statement, UNPREPARED)) == []
        await connection.execute("SET LOCAL enable_seqscan = on")
        await connection.execute("SET LOCAL enable_bitmapscan = off")
        await connection.execute(change)
        found = faults(await explain(connection, statement, UNPREPARED))
    assert found
    assert all(fault in each for each in found)


async def test_reads_are_planned_anew_each_time(full_database: tuple[URL, Operations]):
    """Or their plans had to be good on a small database too, and for every filter: see KEPT_PREPARED."""
    database = Database(full_database[0], pool_size=1)
    for _ in range(12):
        await database.fetch(queries.GET_CHALLENGE, {"challenge_id": filling.challenge_id(0)})
    kept = await database.fetch("SELECT statement FROM pg_prepared_statements")
    await database.close()
    assert kept == []


async def test_a_service_that_saw_its_database_grow_reads_a_few_rows_for_each_trade(postgres: EmbeddedPostgres):
    """Executed, not explained: the checks of foreign keys, whose plans PostgreSQL keeps in the session, count too."""
    with _database(postgres, "plans_growing") as url:
        async with running_engine(url, assign=False) as engine:
            first = await engine.create()
            _administer(url, "VACUUM (ANALYZE) challenges, trades")
            for second in range(12):
                await engine.trading.submit(submission(first, f"t{second}", "1", second))
            grown = filling.fill(conninfo(url), challenges=CHALLENGES, trades_per_challenge=1, analyze=False)
            for challenge_id in grown[-12:]:
                await engine.trading.submit(TradeSubmission(challenge_id, filling.trade(2)))
            newest = [TradeSubmission(challenge_id, filling.trade(3)) for challenge_id in grown[-GROUP:]]
            assert all(isinstance(answer, Decision) for answer in await engine.batch(*newest))

        async def everybody_left() -> bool:
            return not await value(
                url,
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE datname = current_database() AND application_name = 'challenge-engine'",
            )

        # A session tells what it has read when it ends.
        await eventually(everybody_left)
        read = await sql(
            url,
            "SELECT seq_scan, idx_tup_fetch FROM pg_stat_user_tables WHERE relname IN ('challenges', 'trades')"
            " ORDER BY relname",
        )
        assert [scans for scans, _ in read] == [0, 0]
        assert max(rows for _, rows in read) <= 4 * (12 + 12 + GROUP)
