"""Trades sent together, and again as far as that may help, until each has its outcome. No I/O, no clock.

call ── the batch call to make now
answered, failed ── what came of it; how long to wait before the rest is sent again, None when all is settled
outcomes ── one for each submission, in their order
"""

from collections.abc import Sequence

from challenge_client import calls
from challenge_client.calls import Call
from challenge_client.errors import ChallengeError, PredecessorFailedError
from challenge_client.retries import Attempts, describe, is_undecided, passes
from challenge_client.values import Decision, TradeSubmission

Outcome = Decision | ChallengeError


def challenge_key(submission: TradeSubmission) -> str:
    """What tells challenges apart: ids are the same in upper and lower case."""
    return submission.challenge_id.lower()


class Batch:
    """At most 500 submissions on their way to decisions.

    Of one challenge, a trade is sent again only together with everything after it that was not decided either, in the
    same order. Behind a trade that finally failed for reasons of machinery, no later one of its challenge is sent.
    """

    def __init__(self, submissions: Sequence[TradeSubmission], attempts: Attempts) -> None:
        self.submissions = submissions
        self.attempts = attempts
        self._outcomes: list[Outcome | None] = [None] * len(submissions)
        self._sent = list(range(len(submissions)))

    @property
    def call(self) -> Call[list[Outcome]]:
        """The call for everything that has no outcome yet."""
        return calls.submit_batch([self.submissions[index] for index in self._sent])

    @property
    def outcomes(self) -> list[Outcome]:
        """What became of each submission, once all is settled."""
        return [outcome for outcome in self._outcomes if outcome is not None]

    def answered(self, outcomes: Sequence[Outcome], now_s: float, chance: float) -> float | None:
        """The server answered: seconds to wait before the rest is sent again, or None."""
        delay_s = self._delay_s(outcomes, now_s, chance)
        open_again: list[int] = []
        failed: set[str] = set()
        for index, outcome in zip(self._sent, outcomes, strict=True):
            key = challenge_key(self.submissions[index])
            if isinstance(outcome, ChallengeError):
                if passes(outcome) and key not in failed and delay_s is not None:
                    open_again.append(index)
                    continue
                if is_undecided(outcome):
                    failed.add(key)
            self._settle(index, outcome)
        self._sent = open_again
        return delay_s if open_again else None

    def failed(self, error: ChallengeError, now_s: float, chance: float) -> float | None:
        """The whole call failed: seconds to wait before it is sent again; None when the error is everybody's outcome.

        Raises the error when nothing at all was decided, by this call or one before.
        """
        delay_s = self.attempts.delay_s(error, now_s, chance)
        if delay_s is not None:
            return delay_s
        if len(self._sent) == len(self._outcomes):
            describe(error, "BatchSubmitTrades", tuple(self.submissions), self.attempts)
            raise error
        self.settle_all(error)
        return None

    def settle_all(self, error: ChallengeError) -> None:
        """Everything that has no outcome yet failed by this error."""
        for index in self._sent:
            self._settle(index, error)
        self._sent = []

    def _delay_s(self, outcomes: Sequence[Outcome], now_s: float, chance: float) -> float | None:
        """The longest wait that any of the failures asks for."""
        delays_s = [
            self.attempts.delay_s(outcome, now_s, chance)
            for outcome in outcomes
            if isinstance(outcome, ChallengeError) and passes(outcome)
        ]
        known_s = [delay_s for delay_s in delays_s if delay_s is not None]
        return max(known_s, default=None) if len(known_s) == len(delays_s) else None

    def _settle(self, index: int, outcome: Outcome) -> None:
        if isinstance(outcome, ChallengeError):
            outcome = outcome.copied()
            describe(outcome, "SubmitTrade", self.submissions[index], self.attempts)
        self._outcomes[index] = outcome


def not_sent(submission: TradeSubmission) -> PredecessorFailedError:
    """The outcome of a trade that was not sent, because one before it in its challenge may or may not be recorded."""
    error = PredecessorFailedError("an earlier trade of the challenge could not be executed, so this one was not sent")
    error.note("SubmitTrade", submission, 0)
    return error
