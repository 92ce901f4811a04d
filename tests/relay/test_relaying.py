"""The relay's loop on a real PostgreSQL: what a sink is given, when the cursor moves, and who may work."""

import asyncio
import logging

import pytest
from sqlalchemy.engine import URL

from challenge_engine import relaying as module
from challenge_engine.database import DatabaseError
from challenge_engine.relaying import RelayError, RelayOrder, SinkError, SinkLostEventsError, check_relayable
from tests.engine.harness import eventually, running_engine, sql, sql_session, value
from tests.relay.harness import SINK, MemorySink, make_events, relay_once, relaying

CLAIMS = "FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'challenge-engine relay'"
HOLDERS = (
    "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database"
    " WHERE d.datname = current_database() AND l.locktype = 'advisory' AND l.granted"
)


@pytest.fixture
def sink() -> MemorySink:
    return MemorySink()


@pytest.fixture
async def seven_pages(database_url: URL, monkeypatch: pytest.MonkeyPatch) -> URL:
    """A log of 21 events, which a relay reads three at a time."""
    monkeypatch.setattr(module, "PAGE_SIZE", 3)
    async with running_engine(database_url) as engine:
        await make_events(engine, 7)
    return database_url


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting is over sooner."""
    monkeypatch.setattr(module, "MAX_PAUSE_S", 0.05)
    monkeypatch.setattr(module, "MIN_PAUSE_S", 0.01)
    monkeypatch.setattr(module, "TAKEOVER_INTERVAL_S", 0.05)


async def cursor(url: URL, name: str = SINK) -> int | None:
    found = await sql(url, "SELECT position FROM event_relays WHERE sink = %s", (name,))
    return found[0][0] if found else None


ALL = list(range(1, 22))


class TestBringing:
    async def test_every_event_is_brought_in_log_order_and_the_cursor_stored(self, seven_pages: URL, sink: MemorySink):
        assert await relay_once(seven_pages, sink) == 21
        assert sink.positions == ALL
        assert sink.publications == 7
        assert await cursor(seven_pages) == 21
        assert sink.log_ids == {await value(seven_pages, "SELECT log_id::text FROM event_log")}
        assert sink.closed

    async def test_an_event_that_comes_later_is_brought_by_wake_up(
        self, database_url: URL, sink: MemorySink, monkeypatch: pytest.MonkeyPatch
    ):
        """Nobody polls within the test's patience."""
        monkeypatch.setattr(module, "POLL_INTERVAL_S", 3600.0)
        async with running_engine(database_url) as engine, relaying(database_url, sink) as running:
            await eventually(lambda: _listening(database_url))
            await make_events(engine, 1)
            await eventually(lambda: _is(len(sink.taken) == 3))
            await make_events(engine, 1)
            await eventually(lambda: _is(len(sink.taken) == 6))
            assert await running.stopped() == 6

    async def test_with_every_wake_up_lost_events_come_by_poll(self, database_url: URL, sink: MemorySink, monkeypatch):
        monkeypatch.setattr("tests.relay.harness.EventListener.start", lambda self: None)
        async with running_engine(database_url) as engine, relaying(database_url, sink):
            await eventually(lambda: _is_cursor(database_url, 0))
            await make_events(engine, 1)
            await eventually(lambda: _is_cursor(database_url, 3))

    async def test_a_new_sink_may_begin_later_and_a_known_one_goes_on_where_it_was(self, seven_pages: URL, sink):
        await relay_once(seven_pages, sink, start=18)
        assert sink.positions == [19, 20, 21]
        again = MemorySink()
        assert await relay_once(seven_pages, again, start=3) == 21
        assert again.taken == []

    async def test_a_beginning_that_the_log_has_not_reached_is_refused(self, seven_pages: URL, sink: MemorySink):
        with pytest.raises(RelayError, match="ends at position 21"):
            await relay_once(seven_pages, sink, start=22)

    async def test_sinks_of_other_names_have_cursors_of_their_own(self, seven_pages: URL, sink: MemorySink):
        other = MemorySink()
        async with relaying(seven_pages, sink), relaying(seven_pages, other, "memory://there", start=20):
            await eventually(lambda: _is_cursor(seven_pages, 21))
            await eventually(lambda: _is_cursor(seven_pages, 21, "memory://there"))
        assert (sink.positions, other.positions) == (ALL, [21])

    @pytest.mark.parametrize("name", ["", "a" * 201, "a\nb", "a\0b"])
    def test_a_name_that_cannot_be_stored_or_shown_is_refused(self, name: str):
        with pytest.raises(RelayError, match="printable"):
            RelayOrder(name)


class TestSinksInTrouble:
    async def test_a_sink_that_refuses_is_tried_again_and_told_of_once(
        self, seven_pages: URL, sink: MemorySink, quick: None, caplog: pytest.LogCaptureFixture
    ):
        caplog.set_level(logging.INFO)
        sink.refusals = [SinkError("it is away")] * 8
        async with relaying(seven_pages, sink):
            await eventually(lambda: _is_cursor(seven_pages, 21))
        assert sink.positions == ALL
        assert [record.getMessage() for record in caplog.records if "it is away" in record.getMessage()] == [
            f"{SINK} does not take events, trying again until it does: it is away"
        ]
        assert f"over: {SINK} does not take events" in caplog.messages

    async def test_pauses_grow_to_their_bound(self, monkeypatch: pytest.MonkeyPatch):
        pauses = []

        async def pause(stop, seconds):
            pauses.append(seconds)

        monkeypatch.setattr(module, "wait_at_most", pause)
        trouble = module.Trouble("x", RelayOrder("x"))
        for _ in range(12):
            await trouble.pause("y", asyncio.Event())
        assert pauses[0] <= module.MIN_PAUSE_S
        assert 0.8 * module.MAX_PAUSE_S <= max(pauses) <= module.MAX_PAUSE_S
        trouble.is_over()
        await trouble.pause("y", asyncio.Event())
        assert pauses[-1] <= module.MIN_PAUSE_S

    async def test_what_was_taken_but_not_confirmed_is_brought_again(
        self, seven_pages: URL, sink: MemorySink, quick: None
    ):
        """Twice, and under the same position: that is all a receiver may meet."""

        async def lose_the_answer() -> None:
            sink.meanwhile = None
            raise SinkError("connection lost")

        sink.meanwhile = lose_the_answer
        await relay_once(seven_pages, sink)
        assert sink.positions == [1, 2, 3, *ALL]

    async def test_a_relay_that_dies_before_it_stores_the_cursor_repeats_a_page(
        self, seven_pages: URL, sink: MemorySink
    ):
        async def die() -> None:
            if len(sink.taken) == 9:
                sink.meanwhile = None
                raise KeyError("as if killed")

        sink.meanwhile = die
        with pytest.raises(KeyError):
            await relay_once(seven_pages, sink)
        assert await cursor(seven_pages) == 6
        await relay_once(seven_pages, sink)
        assert sink.positions == [*range(1, 10), *range(7, 22)]

    async def test_what_a_sink_has_lost_is_brought_again(self, seven_pages: URL, sink: MemorySink):
        async def lose() -> None:
            if len(sink.taken) == 12:
                sink.meanwhile = None
                del sink.taken[5:]
                sink.refusals.append(SinkLostEventsError(5))

        sink.meanwhile = lose
        assert await relay_once(seven_pages, sink) == 21
        assert sink.positions == ALL

    async def test_once_gives_up_on_a_sink_that_stays_away(self, seven_pages: URL, sink: MemorySink, quick: None):
        sink.refusals = [SinkError("it is away")] * module.ONCE_ATTEMPTS
        with pytest.raises(RelayError, match="it is away"):
            await relay_once(seven_pages, sink)
        assert sink.publications == module.ONCE_ATTEMPTS
        assert await cursor(seven_pages) == 0

    async def test_where_waiting_does_not_help_the_relay_ends(self, seven_pages: URL, sink: MemorySink):
        sink.refusals = [RelayError("another log's stream")]
        async with relaying(seven_pages, sink) as running:
            with pytest.raises(RelayError, match="another log's stream"):
                await asyncio.wait_for(running.task, 30)
        assert sink.closed


class TestStopping:
    async def test_a_page_on_its_way_is_finished_and_its_cursor_stored(self, seven_pages: URL, sink: MemorySink):
        on_its_way, go_on = asyncio.Event(), asyncio.Event()

        async def wait() -> None:
            on_its_way.set()
            await go_on.wait()

        sink.meanwhile = wait
        async with relaying(seven_pages, sink) as running:
            await on_its_way.wait()
            running.stop.set()
            go_on.set()
            assert await running.stopped() == 3
        assert (sink.positions, await cursor(seven_pages)) == ([1, 2, 3], 3)

    async def test_a_page_that_does_not_get_there_is_given_up(
        self, seven_pages: URL, sink: MemorySink, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(module, "STOP_GRACE_S", 0.05)
        on_its_way = asyncio.Event()

        async def hang() -> None:
            on_its_way.set()
            await asyncio.Event().wait()

        sink.meanwhile = hang
        async with relaying(seven_pages, sink) as running:
            await on_its_way.wait()
            assert await running.stopped() == 0
        assert await cursor(seven_pages) == 0

    async def test_neither_an_outage_nor_another_relay_holds_up_a_stop(
        self, seven_pages: URL, sink: MemorySink, monkeypatch: pytest.MonkeyPatch
    ):
        """Each would be waited for longer than the test has patience."""
        for pause in ("MIN_PAUSE_S", "MAX_PAUSE_S", "TAKEOVER_INTERVAL_S"):
            monkeypatch.setattr(module, pause, 3600.0)
        sink.refusals = [SinkError("it is away")]
        other = MemorySink()
        async with relaying(seven_pages, sink) as first:
            await eventually(lambda: _is(sink.publications == 1))
            async with relaying(seven_pages, other) as second:
                await eventually(lambda: _counts(seven_pages, f"SELECT count(*) {CLAIMS}", 2))
                await second.stopped()
            await first.stopped()
        assert other.taken == []


class TestClaims:
    async def test_one_relay_works_and_the_next_takes_over(
        self, seven_pages: URL, sink: MemorySink, quick: None, caplog: pytest.LogCaptureFixture
    ):
        caplog.set_level(logging.INFO)
        first_page, go_on = asyncio.Event(), asyncio.Event()

        async def wait() -> None:
            first_page.set()
            await go_on.wait()

        sink.meanwhile = wait
        other = MemorySink()
        async with relaying(seven_pages, sink) as first:
            await first_page.wait()
            async with relaying(seven_pages, other):
                told = f"another relay is at work on {SINK}; waiting"
                await eventually(lambda: _is(told in caplog.messages))
                await eventually(lambda: _counts(seven_pages, HOLDERS, 1))
                first.task.cancel()
                await eventually(lambda: _is_cursor(seven_pages, 21))
                assert caplog.messages.count(told) == 1
        assert sink.positions == [1, 2, 3]
        assert other.positions == ALL

    async def test_once_does_not_wait_for_another_relay(self, seven_pages: URL, sink: MemorySink):
        async with relaying(seven_pages, sink):
            await eventually(lambda: _is_cursor(seven_pages, 21))
            with pytest.raises(RelayError, match="another relay is at work"):
                await relay_once(seven_pages, MemorySink())

    async def test_a_lost_session_is_replaced_before_anything_more_is_sent(
        self, seven_pages: URL, sink: MemorySink, quick: None
    ):
        """It is lost while a page is on its way: the cursor is not stored, and the page comes again. No event is left
        out and none is out of order."""

        async def lose_session() -> None:
            if len(sink.taken) == 6:
                sink.meanwhile = None
                await sql(seven_pages, f"SELECT pg_terminate_backend(pid, 10000) {CLAIMS}")

        sink.meanwhile = lose_session
        async with relaying(seven_pages, sink):
            await eventually(lambda: _is_cursor(seven_pages, 21))
        assert sink.positions == [1, 2, 3, 4, 5, 6, *range(4, 22)]

    async def test_a_session_lost_while_the_sink_is_away_is_noticed_before_the_next_attempt(
        self, seven_pages: URL, sink: MemorySink, quick: None
    ):
        """By then another relay may have moved on: here the cursor was moved, and the old page is not sent."""

        async def lose_claim() -> None:
            sink.meanwhile = None
            sink.taken.clear()
            await sql(seven_pages, "UPDATE event_relays SET position = 12")
            raise SinkError("away")

        sink.meanwhile = lose_claim
        async with relaying(seven_pages, sink):
            await eventually(lambda: _is_cursor(seven_pages, 21))
        assert sink.positions == list(range(13, 22))

    async def test_where_the_cursor_could_not_be_stored_nothing_is_sent(
        self, seven_pages: URL, sink: MemorySink, quick: None
    ):
        """A server that has become a standby or read-only would otherwise have every page sent again and again."""
        name = seven_pages.database
        await sql(seven_pages, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        with pytest.raises(RelayError, match="ReadOnlySqlTransaction"):
            await relay_once(seven_pages, sink)
        assert sink.publications == 0

    async def test_a_silent_database_is_given_up_and_met_anew(
        self, seven_pages: URL, sink: MemorySink, quick: None, monkeypatch: pytest.MonkeyPatch
    ):
        """The cursor's row is locked by somebody until the session that waits for it is cut. Whether that one's update
        still happens is open; the relay goes on from wherever the cursor is."""
        monkeypatch.setattr(module, "ANSWER_TIMEOUT_S", 0.2)
        cut, was_cut = module.cut, asyncio.Event()
        monkeypatch.setattr(module, "cut", lambda connection: (was_cut.set(), cut(connection)))
        holding: list[asyncio.Task[None]] = []

        async def hold(locked: asyncio.Event) -> None:
            async with sql_session(seven_pages, autocommit=False) as session:
                await session.execute("SELECT FROM event_relays FOR UPDATE")
                locked.set()
                await was_cut.wait()

        async def lock() -> None:
            sink.meanwhile = None
            locked = asyncio.Event()
            holding.append(asyncio.create_task(hold(locked)))
            await locked.wait()

        sink.meanwhile = lock
        async with relaying(seven_pages, sink):
            await eventually(lambda: _is_cursor(seven_pages, 21))
        await asyncio.gather(*holding)
        assert was_cut.is_set()
        assert sink.positions in (ALL, [1, 2, 3, *ALL])


class TestOtherLogs:
    async def test_a_cursor_of_another_log_is_refused_until_it_is_reset(self, seven_pages: URL, sink: MemorySink):
        await relay_once(seven_pages, sink)
        await sql(seven_pages, "UPDATE event_log SET log_id = gen_random_uuid()")
        with pytest.raises(RelayError, match="--reset"):
            await relay_once(seven_pages, MemorySink())
        again = MemorySink()
        assert await relay_once(seven_pages, again, reset=True, start=15) == 21
        assert again.positions == list(range(16, 22))
        assert await relay_once(seven_pages, MemorySink()) == 21

    async def test_a_log_that_is_replaced_while_a_relay_works_ends_it(self, seven_pages: URL, sink: MemorySink):
        async def replace() -> None:
            sink.meanwhile = None
            await sql(seven_pages, "UPDATE event_log SET log_id = gen_random_uuid()")

        sink.meanwhile = replace
        async with relaying(seven_pages, sink) as running:
            with pytest.raises(RelayError, match="another log"):
                await asyncio.wait_for(running.task, 30)
        assert sink.positions == [1, 2, 3]

    async def test_a_cursor_ahead_of_the_log_is_refused(self, seven_pages: URL, sink: MemorySink):
        await relay_once(seven_pages, sink)
        await sql(seven_pages, "UPDATE event_relays SET position = 22")
        with pytest.raises(RelayError, match="another log"):
            await relay_once(seven_pages, MemorySink())

    async def test_a_reset_happens_once_and_not_again_after_a_lost_session(
        self, seven_pages: URL, sink: MemorySink, quick: None
    ):
        async def lose_session() -> None:
            if len(sink.taken) == 9:
                sink.meanwhile = None
                await sql(seven_pages, f"SELECT pg_terminate_backend(pid, 10000) {CLAIMS}")

        sink.meanwhile = lose_session
        async with relaying(seven_pages, sink, reset=True):
            await eventually(lambda: _is_cursor(seven_pages, 21))
        assert sink.positions == [*range(1, 10), *range(7, 22)]


class TestPrivileges:
    async def test_a_role_that_may_read_the_log_and_write_cursors_is_enough(self, seven_pages: URL, sink: MemorySink):
        clerk = "relay_clerk"
        await sql(seven_pages, f"CREATE ROLE {clerk} LOGIN")
        try:
            url = seven_pages.set(username=clerk)
            await sql(seven_pages, f"GRANT SELECT ON alembic_version, event_log TO {clerk}")
            with pytest.raises(DatabaseError) as refused:
                check_relayable(url)
            assert "UPDATE on event_relays" in str(refused.value)
            assert "SELECT on event_log" not in str(refused.value)
            await sql(seven_pages, f"GRANT SELECT ON event_positions, challenge_events TO {clerk}")
            await sql(seven_pages, f"GRANT SELECT, INSERT, UPDATE ON event_relays TO {clerk}")
            check_relayable(url)
            assert await relay_once(url, sink) == 21
        finally:
            await sql(seven_pages, f"DROP OWNED BY {clerk}")
            await sql(seven_pages, f"DROP ROLE {clerk}")

    async def test_a_database_without_the_schema_is_refused(self, seven_pages: URL):
        await sql(seven_pages, "DROP TABLE alembic_version")
        with pytest.raises(DatabaseError, match="revision none"):
            check_relayable(seven_pages)

    async def test_a_database_of_another_revision_is_refused(self, seven_pages: URL):
        check_relayable(seven_pages)
        await sql(seven_pages, "UPDATE alembic_version SET version_num = '0001'")
        with pytest.raises(DatabaseError, match="revision 0001"):
            check_relayable(seven_pages)


async def _is(condition: bool) -> bool:
    return condition


async def _is_cursor(url: URL, position: int, name: str = SINK) -> bool:
    return await cursor(url, name) == position


async def _counts(url: URL, query: str, count: int) -> bool:
    return await value(url, query) == count


async def _listening(url: URL) -> bool:
    query = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND query LIKE 'LISTEN%' AND state = 'idle'"
    )
    return await value(url, query) == 2
