"""Reading the log: pages and cursors."""

import asyncio
import base64
import os
import subprocess

import psycopg
import pytest

from challenge_engine import tokens
from challenge_engine.database import normalise_url
from challenge_engine.embedded import EmbeddedPostgres
from challenge_engine.event_log import BEGINNING, Cursors, EventFilter, EventLog, Place, PositionedEvent
from challenge_engine.migrating import migrate
from challenge_rules import ChallengeStatus
from challenge_rules.errors import CursorMismatchError, ValidationError
from tests.engine.harness import RunningEngine, gist, lives, new_id, running_engine, sql, tampering, value

ALL = EventFilter()
PENDING, ACTIVE, FAILED, FUNDED = ChallengeStatus


async def one_by_one(log: EventLog, wanted: EventFilter, after: int = 0) -> list[PositionedEvent]:
    """Every matching event by pages of one."""
    found: list[PositionedEvent] = []
    token = ""
    while True:
        page, token = await log.page(wanted, after=after, limit=1, page_token=token)
        found += page.events
        if not token:
            return found


async def cursor_at(log: EventLog, wanted: EventFilter, position: int) -> str:
    """The cursor behind an event."""
    place = await log.place_at(position)
    assert place is not None
    return Cursors((await log.end()).log_id, wanted).at(place)


class TestPages:
    async def test_filters_choose_by_challenge_and_by_new_status(self, engine: RunningEngine):
        failed, funded, pending = await lives(engine)
        for wanted, expected in (
            (EventFilter((pending,)), {(pending, "PENDING")}),
            (EventFilter((failed,)), {(failed, status) for status in ("PENDING", "ACTIVE", "FAILED")}),
            (EventFilter((pending, funded), (PENDING,)), {(pending, "PENDING"), (funded, "PENDING")}),
            (EventFilter((), (PENDING,)), {(failed, "PENDING"), (funded, "PENDING"), (pending, "PENDING")}),
            (EventFilter((), (FAILED, FUNDED)), {(failed, "FAILED"), (funded, "FUNDED")}),
            (EventFilter((funded,), (FAILED, ACTIVE)), {(funded, "ACTIVE")}),
            (EventFilter((new_id(),)), set()),
        ):  # fmt: skip
            page = await engine.log.read(wanted, after=0, limit=100)
            assert set(gist(page.events)) == expected
            assert len(page.events) == len(expected)
            assert (page.place.position, page.reached_end) == (7, True)

    async def test_everything_is_read_in_the_order_of_positions(self, engine: RunningEngine):
        await lives(engine)
        page = await engine.log.read(ALL, after=0, limit=100)
        assert [one.position for one in page.events] == [1, 2, 3, 4, 5, 6, 7]
        assert [one.event for one in page.events] == await engine.all_positioned()

    async def test_a_full_page_says_whether_the_end_is_reached(self, engine: RunningEngine):
        await lives(engine)
        assert (await engine.log.read(ALL, after=0, limit=7)).reached_end
        page = await engine.log.read(ALL, after=0, limit=6)
        assert (page.place.position, page.reached_end) == (6, False)
        page = await engine.log.read(ALL, after=7, limit=6)
        assert (page.events, page.place.position, page.reached_end) == ((), 7, True)

    async def test_pages_of_any_size_join_without_gap_or_repetition(self, engine: RunningEngine):
        failed, *_ = await lives(engine)
        for wanted in (ALL, EventFilter((failed,)), EventFilter((), (PENDING,))):
            for after in (0, 2):
                whole = await engine.log.read(wanted, after=after, limit=100)
                assert await one_by_one(engine.log, wanted, after) == list(whole.events)

    async def test_a_token_of_another_list_is_refused(self, engine: RunningEngine):
        failed, *_ = await lives(engine)
        _, token = await engine.log.page(ALL, after=0, limit=1, page_token="")
        cursor = await cursor_at(engine.log, ALL, 1)
        for wanted, after, bad in (
            (EventFilter((failed,)), 0, token),
            (EventFilter((), (PENDING,)), 0, token),
            (ALL, 1, token),
            (ALL, 0, token[:-2]),
            (ALL, 0, "nonsense"),
            (ALL, 0, cursor),
        ):
            with pytest.raises(ValidationError) as refused:
                await engine.log.page(wanted, after=after, limit=1, page_token=bad)
            assert [violation.field for violation in refused.value.violations] == ["page_token"]

    async def test_an_empty_log_is_at_its_end(self, engine: RunningEngine):
        assert (await engine.log.end()).place == BEGINNING
        page, token = await engine.log.page(ALL, after=0, limit=10, page_token="")
        assert (page.events, page.place.position, token) == ((), 0, "")


class TestCursors:
    async def test_a_cursor_stands_for_its_position_also_in_another_process(self, engine: RunningEngine):
        failed, funded, _ = await lives(engine)
        wanted = EventFilter((failed, funded), (FAILED, FUNDED))
        cursor = await cursor_at(engine.log, wanted, 5)
        assert (await engine.log.place_of(wanted, cursor)).position == 5
        async with running_engine(engine.url, assign=False) as other:
            same = EventFilter((funded, failed, failed), (FUNDED, FAILED))
            assert (await other.log.place_of(same, cursor)).position == 5

    async def test_a_cursor_of_another_filter_is_refused(self, engine: RunningEngine):
        failed, funded, _ = await lives(engine)
        cursor = await cursor_at(engine.log, EventFilter((failed,), (FAILED,)), 5)
        for other in (
            ALL,
            EventFilter((failed,)),
            EventFilter((), (FAILED,)),
            EventFilter((failed, funded), (FAILED,)),
            EventFilter((failed,), (FAILED, FUNDED)),
        ):
            with pytest.raises(CursorMismatchError):
                await engine.log.place_of(other, cursor)

    async def test_a_cursor_of_another_log_is_refused(self, engine: RunningEngine):
        await lives(engine)
        cursor = await cursor_at(engine.log, ALL, 5)
        await sql(engine.url, "UPDATE event_log SET log_id = gen_random_uuid()")
        with pytest.raises(CursorMismatchError):
            await engine.log.place_of(ALL, cursor)

    async def test_a_cursor_ahead_of_the_log_is_refused(self, engine: RunningEngine):
        await lives(engine)
        log_id = (await engine.log.end()).log_id
        assert (await engine.log.place_of(ALL, await cursor_at(engine.log, ALL, 7))).position == 7
        with pytest.raises(CursorMismatchError, match="ahead"):
            await engine.log.place_of(ALL, Cursors(log_id, ALL).at(Place(8, "")))

    async def test_a_cursor_at_whose_place_a_restored_log_has_another_event_is_refused(self, engine: RunningEngine):
        """A backup restored in place keeps its identity, but what comes after its moment is another history."""
        await lives(engine)
        old = [await cursor_at(engine.log, ALL, position) for position in range(8)]
        async with tampering(engine.url) as restoring:
            await restoring.execute("DELETE FROM event_positions WHERE position > 5")
        for position in range(6):
            assert (await engine.log.place_of(ALL, old[position])).position == position
        for position in (6, 7):
            with pytest.raises(CursorMismatchError, match="ahead"):
                await engine.log.place_of(ALL, old[position])
        for _ in range(2):
            await engine.create()
        await engine.positions.assign_all()
        assert (await engine.log.end()).place.position == 7
        for position in (6, 7):
            with pytest.raises(CursorMismatchError, match="another event"):
                await engine.log.place_of(ALL, old[position])

    async def test_a_log_that_finds_itself_in_another_database_is_another_log(self, engine: RunningEngine):
        """As after a dump was restored, or a database copied: old cursors and page tokens end, the log is whole."""
        await lives(engine)
        cursor, before = await cursor_at(engine.log, ALL, 5), await engine.log.end()
        assert (await engine.log.end()) == before
        _, token = await engine.log.page(ALL, after=0, limit=1, page_token="")
        await sql(engine.url, "UPDATE event_log SET origin = '7000000000000000000/5'")
        after = await engine.log.end()
        assert (after.place, after.log_id == before.log_id) == (before.place, False)
        assert await engine.log.end() == after
        with pytest.raises(CursorMismatchError):
            await engine.log.place_of(ALL, cursor)
        with pytest.raises(ValidationError):
            await engine.log.page(ALL, after=0, limit=1, page_token=token)
        assert len((await engine.log.read(ALL, after=0, limit=100)).events) == 7

    async def test_a_copied_database_is_another_log_and_the_original_the_same(self, postgres: EmbeddedPostgres):
        original, copy = (normalise_url(postgres.url).set(database=name) for name in ("log_original", "log_copy"))
        with psycopg.connect(postgres.conninfo, autocommit=True) as connection:
            connection.execute("CREATE DATABASE log_original TEMPLATE migrated")
            async with running_engine(original) as engine:
                await lives(engine)
                cursor = await cursor_at(engine.log, ALL, 5)
            connection.execute("CREATE DATABASE log_copy TEMPLATE log_original")
            async with running_engine(original) as engine, running_engine(copy) as other:
                assert (await engine.log.place_of(ALL, cursor)).position == 5
                with pytest.raises(CursorMismatchError):
                    await other.log.place_of(ALL, cursor)
                assert (await other.log.end()).place == (await engine.log.end()).place
            for name in ("log_original", "log_copy"):
                connection.execute(f"DROP DATABASE {name} WITH (FORCE)")

    async def test_a_cluster_that_begins_a_new_timeline_has_another_log(self, tmp_path_factory: pytest.TempPathFactory):
        """As one that was restored from its files to a moment, or a standby that took over; one that was merely started
        again has the same."""
        first = tmp_path_factory.mktemp("timeline") / "first"
        with EmbeddedPostgres.open(first) as postgres:
            migrate(normalise_url(postgres.url))
            async with running_engine(normalise_url(postgres.url)) as engine:
                await lives(engine)
                cursor = await cursor_at(engine.log, ALL, 5)
        restored = first.with_name("restored")
        await asyncio.to_thread(subprocess.run, ["cp", "-a", first, restored], check=True)
        signal = restored / "cluster" / "recovery.signal"
        signal.touch()
        owner = signal.parent.stat()
        os.chown(signal, owner.st_uid, owner.st_gid)
        with (signal.parent / "postgresql.conf").open("a") as configuration:
            configuration.write("restore_command = 'false'\n")
        for directory, is_the_same in ((first, True), (restored, False)):
            with EmbeddedPostgres.open(directory) as postgres:
                async with running_engine(normalise_url(postgres.url)) as engine:
                    assert (await engine.log.end()).place.position == 7
                    if is_the_same:
                        assert (await engine.log.place_of(ALL, cursor)).position == 5
                    else:
                        with pytest.raises(CursorMismatchError):
                            await engine.log.place_of(ALL, cursor)

    async def test_positions_given_in_another_database_are_those_of_another_log(self, engine: RunningEngine):
        """Whoever writes first notices as well as whoever reads first."""
        await lives(engine)
        log_id = await value(engine.url, "SELECT log_id FROM event_log")
        await sql(engine.url, "UPDATE event_log SET origin = '7000000000000000000/5'")
        await engine.create()
        await engine.positions.assign_all()
        assert await value(engine.url, "SELECT log_id FROM event_log") != log_id
        assert await value(engine.url, "SELECT origin FROM event_log") != "7000000000000000000/5"

    async def test_malformed_cursors_are_refused(self, engine: RunningEngine):
        await lives(engine)
        cursor = await cursor_at(engine.log, ALL, 5)
        _, page_token = await engine.log.page(ALL, after=0, limit=1, page_token="")
        changed = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))[:-2] + b"6]"
        for bad in (
            "",
            "x",
            "….",
            "\0",
            cursor + "A",
            cursor[:-1],
            cursor[1:],
            "A" * (tokens.MAX_TOKEN_LENGTH + 1),
            page_token,
            base64.urlsafe_b64encode(changed).decode().rstrip("="),
        ):
            with pytest.raises(CursorMismatchError):
                await engine.log.place_of(ALL, bad)
