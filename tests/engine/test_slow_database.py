"""A database that answers late, or not at all, leaves no caller without an answer."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from sqlalchemy.engine import URL

from challenge_engine import backoff
from challenge_engine.database import Database
from challenge_engine.reading import ChallengeReader
from challenge_rules.errors import DatabaseUnavailableError, SequenceNotFoundError
from tests.engine.harness import (
    PATIENCE_S,
    RunningEngine,
    locked_challenge,
    proxied,
    running_engine,
    submission,
    told,
    value,
)


@pytest.fixture
def short_transaction_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections are cut after 0.5 s instead of 10 s, and made within 2 s or not at all, so that tests end sooner."""
    monkeypatch.setattr("challenge_engine.database.TRANSACTION_TIMEOUT_S", 0.5)
    monkeypatch.setattr("challenge_engine.database.CONNECT_TIMEOUT_S", 2)


async def told_or_raised(coroutine) -> str | int:
    (answer,) = await coroutine
    return told(answer)


async def test_a_database_that_stops_answering_is_unavailable_and_used_again_when_it_answers(
    database_url: URL, short_transaction_timeout
):
    async with proxied(database_url) as proxy, running_engine(proxy.url(database_url)) as engine:
        challenge_id = await engine.create()
        proxy.answering.clear()
        async with asyncio.timeout(PATIENCE_S):
            assert await told_or_raised(engine.batch(submission(challenge_id, "t1", "1"))) == "DATABASE_UNAVAILABLE"
            with pytest.raises(DatabaseUnavailableError):
                await engine.create()
            with pytest.raises(DatabaseUnavailableError):
                await engine.reader.get(challenge_id)
        proxy.answering.set()
        assert await told_or_raised(engine.batch(submission(challenge_id, "t1", "1"))) == 1
        assert await value(database_url, "SELECT count(*) FROM trades") == 1


async def test_a_database_that_stops_answering_during_commit_leaves_the_outcome_unknown(
    database_url: URL, short_transaction_timeout
):
    async with proxied(database_url) as proxy, running_engine(proxy.url(database_url), assign=False) as engine:
        challenge_id = await engine.create()
        proxy.freeze_next_commit = True
        async with asyncio.timeout(PATIENCE_S):
            assert await told_or_raised(engine.batch(submission(challenge_id, "t1", "1"))) == "OUTCOME_UNKNOWN"
        proxy.answering.set()
        assert await told_or_raised(engine.batch(submission(challenge_id, "t1", "1"))) == -1
        assert await value(database_url, "SELECT count(*) FROM trades") == 1


async def test_of_many_trades_of_a_locked_challenge_only_one_waits_for_the_lock_again(
    database_url: URL, short_lock_timeout
):
    """The others of its group are told at once, or thirty trades would take thirty times as long."""
    async with running_engine(database_url) as engine:
        challenge_id, other = await engine.create(), await engine.create()
        async with locked_challenge(database_url, challenge_id), asyncio.timeout(30 * backoff.MAX_ATTEMPTS * 0.2 / 2):
            stuck = [
                asyncio.create_task(told_or_raised(engine.batch(submission(challenge_id, f"t{number}", "1", number))))
                for number in range(30)
            ]
            assert await told_or_raised(engine.batch(submission(other, "t1", "1"))) == 1
            assert await asyncio.gather(*stuck) == ["WRITE_CONFLICT"] * 30
        assert await told_or_raised(engine.batch(submission(challenge_id, "t0", "1"))) == 1


class _InterruptedDatabase(Database):
    """Lets something happen between the first statement of a reader and its next."""

    meanwhile: Coroutine[Any, Any, object] | None = None

    async def fetch(self, query, parameters=None):
        found = await super().fetch(query, parameters)
        if self.meanwhile is not None:
            meanwhile, self.meanwhile = self.meanwhile, None
            await meanwhile
        return found


async def test_a_trade_committed_while_an_earlier_state_is_read_is_not_mixed_into_it(engine: RunningEngine):
    challenge_id = await engine.create()
    database = _InterruptedDatabase(engine.url)
    reader = ChallengeReader(database)
    database.meanwhile = engine.trading.submit(submission(challenge_id, "t1", "-6000"))
    with pytest.raises(SequenceNotFoundError):
        await reader.get(challenge_id, 1)
    now = await reader.get(challenge_id, 1)
    assert now.state.closed_at == now.state.activated_at is not None
    assert now.state == await engine.state(challenge_id)
    await database.close()
