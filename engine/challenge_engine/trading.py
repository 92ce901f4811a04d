"""The service that callers talk to: create challenges, submit trades."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import psycopg

from challenge_engine.activity import Activity
from challenge_engine.backoff import MAX_ATTEMPTS, back_off
from challenge_engine.creating import ChallengeCreator
from challenge_engine.database import CONFLICTS, UNAVAILABLE, Database, WriterConnection, brief
from challenge_engine.deciding import Decided, GroupDecider
from challenge_engine.event_bus import EventBus
from challenge_engine.internal_errors import log_internal
from challenge_engine.remembered import RememberedStates
from challenge_engine.submissions import Answer, Call, WaitingTrade
from challenge_engine.waiting import Group, WaitingTrades
from challenge_engine.writer import CommitLostError, GroupWriter, VersionMovedError
from challenge_rules import (
    ChallengeError,
    ChallengeEvent,
    ChallengeState,
    ChallengeTerms,
    Decision,
    TradeSubmission,
)
from challenge_rules.errors import (
    DatabaseUnavailableError,
    DrainingError,
    OutcomeUnknownError,
    PredecessorFailedError,
    WriteConflictError,
)

logger = logging.getLogger(__name__)

MAX_GROUP = 256
MAX_WAITING = 20_000
MAX_ISOLATED = 4
LOADED_CALLS = 4
"""So many calls that come while one transaction runs show that traffic is high, and more are on their way."""
MAX_LINGER_S = 0.004
"""How long the next group may then wait for them."""
LINGER_SLICE_S = 0.001
"""A slice of that time in which no call comes ends the wait."""
DEFAULT_MAX_CLOCK_SKEW = 5_000_000


def system_clock() -> int:
    """Microseconds since 1970, by the system's clock."""
    return time.time_ns() // 1000


class TradingService:
    """Brings trades to their decisions, durably and exactly once.

    Trades that wait while a transaction runs form the next one (group commit). A group that the database refuses is
    taken apart, so that only the trade at fault gets an error. `start` it on the event loop that calls it; `stop`
    finishes what was accepted. While calls wait for their answers there is `activity`.
    """

    def __init__(
        self,
        database: Database,
        *,
        events: EventBus | None = None,
        on_commit: Callable[[], None] = lambda: None,
        clock: Callable[[], int] = system_clock,
        max_clock_skew: int = DEFAULT_MAX_CLOCK_SKEW,
        max_group: int = MAX_GROUP,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        if max_group < 1:
            raise ValueError(f"max_group must be at least 1, got {max_group}")
        self.events = events or EventBus()
        self.activity = Activity()
        self._on_commit = on_commit
        decider = GroupDecider(clock=clock, max_clock_skew=max_clock_skew)
        remembered = RememberedStates()
        self._writer, *self._isolated_writers = (
            GroupWriter(WriterConnection(database), decider, remembered) for _ in range(1 + MAX_ISOLATED)
        )
        self._max_group = max_group
        self._waiting = WaitingTrades(max_waiting)
        self._arrived = asyncio.Event()
        self._calls_since_group = 0
        self._creator = ChallengeCreator(database, lambda event: self._publish([event]))
        self._isolating = asyncio.Semaphore(MAX_ISOLATED)
        self._isolated: set[asyncio.Task[None]] = set()
        self._draining = False
        self._loop_task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to execute trades."""
        self._loop_task = asyncio.create_task(self._run(), name="group-commit")

    @property
    def is_running(self) -> bool:
        """Whether submitted trades are being executed."""
        return self._loop_task is not None and not self._loop_task.done()

    async def stop(self) -> None:
        """Refuse new trades, finish the accepted ones, then return."""
        self._draining = True
        self._arrived.set()
        if self._loop_task is not None:
            await self._loop_task
        await self._creator.finish()
        for writer in (self._writer, *self._isolated_writers):
            await writer.close()

    async def create_challenge(self, terms: ChallengeTerms) -> tuple[ChallengeState, bool]:
        """Make a challenge; returns it with False, or as it is now with True if it exists with the same terms.

        Terms are compared without `created_at` and `rules_version`. Raises `ChallengeExistsError` naming the differing
        fields, `DatabaseUnavailableError`, `OutcomeUnknownError`, `WriteConflictError`, `OverloadedError` or
        `DrainingError`.
        """
        if self._draining:
            raise DrainingError
        return await self._creator.create(terms)

    async def submit(self, submission: TradeSubmission) -> Decision:
        """Decide one trade; raises the `ChallengeError` that refuses it."""
        (answer,) = await self.submit_batch([submission])
        if isinstance(answer, ChallengeError):
            raise answer
        return answer

    async def submit_batch(self, submissions: Sequence[TradeSubmission]) -> list[Answer]:
        """Decide trades in order; each is answered by a decision or an error of its own.

        Raises `OverloadedError` or `DrainingError` for the whole call, with nothing executed. Cancelling leaves out
        what has not begun; what has is finished.
        """
        if self._draining:
            raise DrainingError
        call = Call(submissions)
        self._waiting.add(call)
        self._calls_since_group += 1
        self._arrived.set()
        with self.activity:
            return await call.answers()

    async def _run(self) -> None:
        while not (self._draining and len(self._waiting) == 0):
            if not self._waiting.has_ready:
                if self._draining and self._isolated:
                    await asyncio.wait(self._isolated, return_when=asyncio.FIRST_COMPLETED)
                    continue
                self._arrived.clear()
                await self._arrived.wait()
                continue
            if self._calls_since_group >= LOADED_CALLS:
                await self._linger()
            # What comes while others are waited for does not count: a wait must not be the reason for the next.
            self._calls_since_group = 0
            group = self._waiting.take(self._max_group)
            if not group:
                continue
            if await self._execute(group):
                self._waiting.release(group)
            else:
                self._isolate(group)
        if self._isolated:
            await asyncio.wait(self._isolated)

    async def _linger(self) -> None:
        """Let more trades come before the next transaction begins: while calls do come, for at most MAX_LINGER_S.

        To read a call costs a fraction of a transaction: many small ones would take the time of the calls.
        """
        clock = asyncio.get_running_loop().time
        deadline = clock() + MAX_LINGER_S
        while len(self._waiting) < self._max_group and clock() < deadline and not self._draining:
            calls = self._calls_since_group
            await asyncio.sleep(LINGER_SLICE_S)
            if self._calls_since_group == calls:
                return

    async def _execute(self, group: Group) -> bool:
        """Execute a group and give its answers; False when it must be taken apart."""
        reconnected = False
        for attempt in range(1, MAX_ATTEMPTS + 1):
            try:
                decided = await self._writer.write(group)
            except CommitLostError as lost:
                _answer_unknown(lost.decided)
                return True
            except psycopg.errors.LockNotAvailable:
                return False
            except (*CONFLICTS, VersionMovedError):
                if attempt == MAX_ATTEMPTS:
                    return False
                await back_off(attempt)
            except UNAVAILABLE as error:
                logger.warning("a group of %d challenges was not written: %s", len(group), brief(error))
                if not reconnected:
                    reconnected = True
                    continue
                for waiting_trades in group.values():
                    for waiting in waiting_trades:
                        waiting.fail(DatabaseUnavailableError())
                return True
            except Exception:
                logger.exception("a group of %d challenges was refused; its trades are executed one by one", len(group))
                return False
            else:
                self._give(decided)
                return True
        return False

    def _isolate(self, group: Group) -> None:
        """Execute the trades of a refused group one by one, so that only those at fault fail.

        Each challenge by itself, so that one that is stuck delays none of the others.
        """
        for challenge_id, waiting_trades in group.items():
            task = asyncio.create_task(self._execute_one_by_one(challenge_id, waiting_trades), name="isolated")
            self._isolated.add(task)
            task.add_done_callback(self._isolated.discard)

    @asynccontextmanager
    async def _isolated_writer(self) -> AsyncIterator[GroupWriter]:
        async with self._isolating:
            writer = self._isolated_writers.pop()
            try:
                yield writer
            finally:
                self._isolated_writers.append(writer)

    async def _execute_one_by_one(self, challenge_id: str, waiting_trades: list[WaitingTrade]) -> None:
        async with self._isolated_writer() as writer:
            stuck = False
            for waiting in waiting_trades:
                if waiting.has_failed_predecessor:
                    waiting.answer(PredecessorFailedError())
                elif stuck:
                    waiting.fail(WriteConflictError())
                elif not waiting.abandoned:
                    stuck = not await self._execute_alone(writer, challenge_id, waiting)
        self._waiting.release([challenge_id])
        self._arrived.set()

    async def _execute_alone(self, writer: GroupWriter, challenge_id: str, waiting: WaitingTrade) -> bool:
        """Execute one trade; False when somebody keeps its challenge locked, so that others need not wait for it."""
        locked = reconnected = False
        for attempt in range(1, MAX_ATTEMPTS + 1):
            try:
                decided = await writer.write({challenge_id: [waiting]})
            except CommitLostError as lost:
                _answer_unknown(lost.decided)
                return True
            except (*CONFLICTS, VersionMovedError) as conflict:
                locked = isinstance(conflict, psycopg.errors.LockNotAvailable)
                await back_off(attempt)
            except UNAVAILABLE as error:
                logger.warning("a trade of %s was not written: %s", challenge_id, brief(error))
                if not reconnected:
                    # The connection may have been lost long ago: it is seldom used.
                    reconnected = True
                    continue
                waiting.fail(DatabaseUnavailableError())
                return True
            except Exception:  # noqa: BLE001 -- logged with its error_id, and answered as INTERNAL
                waiting.fail(log_internal(f"writing a trade of {challenge_id}"))
                return True
            else:
                self._give(decided)
                return True
        waiting.fail(WriteConflictError())
        return not locked

    def _give(self, decided: Decided) -> None:
        for waiting, answer in decided.answers:
            waiting.answer(answer)
        self._publish(decided.events)

    def _publish(self, events: Sequence[ChallengeEvent]) -> None:
        for event in events:
            self.events.emit(event)
        if events:
            self._on_commit()


def _answer_unknown(decided: Decided) -> None:
    """Answer a group whose COMMIT was lost: only challenges it would not have moved have certain answers."""
    for waiting, answer in decided.answers:
        if waiting.submission.challenge_id in decided.moved:
            waiting.fail(OutcomeUnknownError(), executed=True)
        else:
            waiting.answer(answer)
