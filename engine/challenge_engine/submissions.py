"""Trades on their way to a decision, and the calls that brought them."""

import asyncio
from collections.abc import Sequence

from challenge_rules import ChallengeError, Decision, TradeSubmission
from challenge_rules.errors import PredecessorFailedError

Answer = Decision | ChallengeError
"""What becomes of one trade: a decision, or the error that refuses it."""


class Call:
    """One caller's trades, in order, and the answers so far. Done when each has its answer, or when the caller left."""

    def __init__(self, submissions: Sequence[TradeSubmission]) -> None:
        self._answers: list[Answer | None] = [None] * len(submissions)
        self._unanswered = len(submissions)
        self._broken: set[str] = set()
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.trades = [WaitingTrade(submission, self, index) for index, submission in enumerate(submissions)]

    @property
    def abandoned(self) -> bool:
        """Whether the caller has gone; its trades that have not begun are then not executed."""
        return self._done.cancelled()

    async def answers(self) -> list[Answer]:
        """Wait for every answer. To cancel this wait is to abandon the call."""
        if self._unanswered:
            await self._done
        return [answer for answer in self._answers if answer is not None]

    def is_broken(self, challenge_id: str) -> bool:
        """Whether an earlier trade of the challenge in this call could not be executed."""
        return challenge_id in self._broken

    def _answer(self, index: int, answer: Answer) -> None:
        self._answers[index] = answer
        self._unanswered -= 1
        if self._unanswered == 0:
            # Opens the circle of references, which would be left to the garbage collector.
            self.trades = []
            if not self._done.done():
                self._done.set_result(None)

    def _break(self, challenge_id: str) -> None:
        self._broken.add(challenge_id)


class WaitingTrade:
    """One trade of a call, to be answered exactly once."""

    __slots__ = ("_index", "call", "submission")

    def __init__(self, submission: TradeSubmission, call: Call, index: int) -> None:
        self.submission = submission
        self.call = call
        self._index = index

    @property
    def abandoned(self) -> bool:
        """Whether the caller has gone."""
        return self.call.abandoned

    @property
    def has_failed_predecessor(self) -> bool:
        """Whether an earlier trade of the same challenge and call could not be executed."""
        return self.call.is_broken(self.submission.challenge_id)

    def answer(self, answer: Answer) -> None:
        """Settle what became of the trade."""
        self.call._answer(self._index, answer)

    def fail(self, error: ChallengeError, *, executed: bool = False) -> None:
        """Answer that the trade could not be executed; later trades of the challenge in the call then are not tried.

        A trade that comes after such a one is answered PREDECESSOR_FAILED instead, unless it was `executed` with it.
        """
        if self.has_failed_predecessor and not executed:
            self.answer(PredecessorFailedError())
        else:
            self.call._break(self.submission.challenge_id)
            self.answer(error)
