"""Hearing from other processes: connections that are lost, and connections that fall silent."""

import pytest
from sqlalchemy.engine import URL

from challenge_engine import event_listener
from challenge_engine.database import Database
from challenge_engine.event_listener import EventListener
from challenge_engine.queries import NOTIFY_CHANNEL
from challenge_engine.wakeup import Wakeup
from tests.engine.harness import eventually, proxied, sql

LISTENERS = "FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%' AND state = 'idle'"


class Woken(Wakeup):
    """Counts how often it was woken."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def wake(self) -> None:
        self.count += 1
        super().wake()


@pytest.fixture
async def listening():
    """Starts listeners on the databases of URLs, and stops them."""
    started = []

    def start(url: URL) -> Woken:
        news = Woken()
        database = Database(url)
        listener = EventListener(database, news)
        listener.start()
        started.append((listener, database))
        return news

    yield start
    for listener, database in started:
        await listener.stop()
        await database.close()


async def listener_pid(url: URL) -> int:
    """The session that listens, once there is one."""

    async def pid() -> int | None:
        found = await sql(url, f"SELECT pid {LISTENERS}")
        return found[0][0] if found else None

    return await eventually(pid)


async def is_heard(url: URL, news: Woken) -> None:
    """Return when a notification has come through."""
    before = news.count
    await sql(url, f"NOTIFY {NOTIFY_CHANNEL}")

    async def woken() -> bool:
        return news.count > before

    await eventually(woken)


async def test_a_notification_wakes(database_url: URL, listening):
    news = listening(database_url)
    await listener_pid(database_url)
    await is_heard(database_url, news)


async def test_a_connection_that_is_terminated_is_made_anew(database_url: URL, listening):
    news = listening(database_url)
    first = await listener_pid(database_url)
    await sql(database_url, "SELECT pg_terminate_backend(%s, 10000)", (first,))
    assert await listener_pid(database_url) != first
    await is_heard(database_url, news)


async def test_a_connection_that_is_sound_is_kept_however_long_it_is_silent(
    database_url: URL, listening, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(event_listener, "CHECK_INTERVAL_S", 0.02)
    news = listening(database_url)
    first = await listener_pid(database_url)

    async def checked_often() -> bool:
        return news.count > 10

    await eventually(checked_often)
    assert await listener_pid(database_url) == first
    await is_heard(database_url, news)


async def test_a_connection_that_falls_silent_without_an_end_is_made_anew(
    database_url: URL, listening, monkeypatch: pytest.MonkeyPatch
):
    """As after a firewall has dropped it: nothing comes back, and nothing says so."""
    monkeypatch.setattr(event_listener, "CHECK_INTERVAL_S", 0.05)
    monkeypatch.setattr(event_listener, "ANSWER_TIMEOUT_S", 0.2)
    async with proxied(database_url) as proxy:
        news = listening(proxy.url(database_url))
        first = await listener_pid(database_url)
        await is_heard(database_url, news)
        proxy.answering.clear()

        async def is_gone() -> bool:
            return not await sql(database_url, f"SELECT pid FROM pg_stat_activity WHERE pid = {first}")

        await eventually(is_gone)
        proxy.answering.set()
        await listener_pid(database_url)
        await is_heard(database_url, news)
