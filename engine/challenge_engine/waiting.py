"""The trades that wait for a transaction: in order within a challenge, fair between challenges, bounded."""

import heapq
from collections import deque
from collections.abc import Iterable

from challenge_engine.backoff import RETRY_AFTER_S
from challenge_engine.submissions import Call, WaitingTrade
from challenge_rules.errors import OverloadedError, PredecessorFailedError

Group = dict[str, list[WaitingTrade]]
"""The trades of one transaction: for each challenge, in the order in which they are to be decided."""


class WaitingTrades:
    """Forms groups of waiting trades. A challenge is in at most one unfinished group at a time.

    Trades of one challenge keep the order of their call; those of different calls are merged by `executed_at`, because
    calls that a gateway sends one after the other may arrive in another order. Challenges take turns.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._size = 0
        self._arrivals = 0
        self._runs: dict[str, list[tuple[int, int, deque[WaitingTrade]]]] = {}
        self._ready: deque[str] = deque()
        self._in_progress: set[str] = set()

    def __len__(self) -> int:
        return self._size

    @property
    def has_ready(self) -> bool:
        """Whether `take` would find a challenge with waiting trades and no unfinished group."""
        return bool(self._ready)

    def add(self, call: Call) -> None:
        """Let a call's trades wait; all of them, or `OverloadedError` and none."""
        if self._size + len(call.trades) > self.capacity:
            raise OverloadedError(RETRY_AFTER_S)
        by_challenge: dict[str, deque[WaitingTrade]] = {}
        for waiting in call.trades:
            by_challenge.setdefault(waiting.submission.challenge_id, deque()).append(waiting)
        for challenge_id, run in by_challenge.items():
            runs = self._runs.get(challenge_id)
            if runs is None:
                runs = self._runs[challenge_id] = []
                if challenge_id not in self._in_progress:
                    self._ready.append(challenge_id)
            self._push(runs, run)
        self._size += len(call.trades)

    def take(self, limit: int) -> Group:
        """At most `limit` trades for one transaction; their challenges are in progress until `release`d."""
        group: Group = {}
        room = limit
        while room > 0 and self._ready:
            challenge_id = self._ready.popleft()
            taken = self._take_from(challenge_id, room)
            if taken:
                group[challenge_id] = taken
                room -= len(taken)
                self._in_progress.add(challenge_id)
        return group

    def release(self, challenge_ids: Iterable[str]) -> None:
        """Let challenges whose group has finished take their turn again."""
        for challenge_id in challenge_ids:
            self._in_progress.discard(challenge_id)
            if challenge_id in self._runs:
                self._ready.append(challenge_id)

    def _push(self, runs: list[tuple[int, int, deque[WaitingTrade]]], run: deque[WaitingTrade]) -> None:
        self._arrivals += 1
        heapq.heappush(runs, (run[0].submission.trade.executed_at, self._arrivals, run))

    def _take_from(self, challenge_id: str, room: int) -> list[WaitingTrade]:
        runs = self._runs[challenge_id]
        taken: list[WaitingTrade] = []
        while runs and len(taken) < room:
            _, arrival, run = runs[0]
            waiting = run.popleft()
            self._size -= 1
            if run:
                heapq.heapreplace(runs, (run[0].submission.trade.executed_at, arrival, run))
            else:
                heapq.heappop(runs)
            if waiting.abandoned:
                continue
            if waiting.has_failed_predecessor:
                waiting.answer(PredecessorFailedError())
                continue
            taken.append(waiting)
        if not runs:
            del self._runs[challenge_id]
        return taken
