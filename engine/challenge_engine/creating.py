"""Makes challenges, each in a transaction of its own: creations are rare beside trades."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from challenge_engine import queries, rows
from challenge_engine.backoff import MAX_ATTEMPTS, RETRY_AFTER_S, back_off
from challenge_engine.database import CONFLICTS, UNAVAILABLE, Connection, Database, brief
from challenge_rules import ChallengeEngine, ChallengeEvent, ChallengeState, ChallengeTerms
from challenge_rules.engine import check_same_terms
from challenge_rules.errors import (
    DatabaseUnavailableError,
    OutcomeUnknownError,
    OverloadedError,
    WriteConflictError,
)

logger = logging.getLogger(__name__)

MAX_CREATING = 4
MAX_WAITING_TO_CREATE = 1000


class ChallengeCreator:
    """Creates challenges, or finds that they exist. A few at a time; the rest wait, up to a bound."""

    def __init__(self, database: Database, publish: Callable[[ChallengeEvent], None]) -> None:
        self._database = database
        self._publish = publish
        self._commits: set[asyncio.Task[None]] = set()
        self._turns = asyncio.Semaphore(MAX_CREATING)
        self._waiting = 0

    async def finish(self) -> None:
        """Wait for the COMMITs whose callers have left."""
        if self._commits:
            await asyncio.wait(self._commits)

    async def create(self, terms: ChallengeTerms) -> tuple[ChallengeState, bool]:
        """The challenge and False; or as it is now and True, if it exists with the same terms.

        Terms are compared without `created_at` and `rules_version`. Raises `ChallengeExistsError` naming the differing
        fields, `DatabaseUnavailableError`, `OutcomeUnknownError`, `WriteConflictError` or `OverloadedError`.
        """
        async with self._turn():
            reconnected = False
            for attempt in range(1, MAX_ATTEMPTS + 1):
                try:
                    return await self._try(terms)
                except CONFLICTS as error:
                    logger.info("creating %s: %s", terms.challenge_id, brief(error))
                    await back_off(attempt)
                except UNAVAILABLE as error:
                    logger.warning("creating %s: %s", terms.challenge_id, brief(error))
                    if reconnected:
                        raise DatabaseUnavailableError from None
                    reconnected = True
            raise WriteConflictError

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        if self._waiting >= MAX_WAITING_TO_CREATE:
            raise OverloadedError(RETRY_AFTER_S)
        self._waiting += 1
        try:
            async with self._turns:
                yield
        finally:
            self._waiting -= 1

    async def _try(self, terms: ChallengeTerms) -> tuple[ChallengeState, bool]:
        state, event = ChallengeEngine().create(terms)
        async with self._database.connection() as connection:
            cursor = await connection.execute(queries.INSERT_CHALLENGE, (rows.challenge_to_json(state),))
            if cursor.rowcount == 0:
                return await _existing(connection, terms), True
            await connection.execute(queries.INSERT_EVENTS, (rows.events_to_json([event]),))
            commit = asyncio.create_task(self._commit(connection, event))
            self._commits.add(commit)
            commit.add_done_callback(self._committed)
            try:
                # A caller that leaves now does not interrupt the COMMIT, nor what follows it.
                await asyncio.shield(commit)
            except CONFLICTS:
                raise
            except UNAVAILABLE:
                raise OutcomeUnknownError(challenge_id=terms.challenge_id) from None
        return state, False

    async def _commit(self, connection: Connection, event: ChallengeEvent) -> None:
        await connection.commit()
        self._publish(event)

    def _committed(self, commit: "asyncio.Task[None]") -> None:
        self._commits.discard(commit)
        if not commit.cancelled() and (error := commit.exception()):
            logger.warning("a COMMIT of a new challenge failed: %s", brief(error))


async def _existing(connection: Connection, asked: ChallengeTerms) -> ChallengeState:
    """The challenge of that id as it is now; `ChallengeExistsError` when it was made with other terms."""
    cursor = await connection.execute(queries.GET_CHALLENGE, {"challenge_id": asked.challenge_id})
    row = await cursor.fetchone()
    assert row is not None
    existing = rows.challenge_from_row(row)
    check_same_terms(existing.terms, asked)
    return existing
