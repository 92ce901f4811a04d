"""The states of challenges as this process left them, so that the next trade need not wait to read them first."""

from collections import OrderedDict
from collections.abc import Iterable, Mapping

from challenge_rules import ChallengeState

MAX_REMEMBERED = 16_384
"""About 1 KiB each."""


class RememberedStates:
    """The states that this process has committed, of the challenges used last.

    A memory can be wrong, for other processes write as well. What is decided on one is written under the challenge's
    lock and from its version alone: a wrong one costs time and nothing else. To keep that rare, a challenge is relied
    upon only once it was found as this process had left it; then no other writes to it in turn with this one.
    """

    def __init__(self, capacity: int = MAX_REMEMBERED) -> None:
        self._capacity = capacity
        self._states: OrderedDict[str, tuple[ChallengeState, bool]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._states)

    def reliable(self, challenge_ids: Iterable[str]) -> dict[str, ChallengeState] | None:
        """The states of all these challenges, or None when one of them had better be read."""
        found = {}
        for challenge_id in challenge_ids:
            state, relied_upon = self._states.get(challenge_id, (None, False))
            if state is None or not relied_upon:
                return None
            found[challenge_id] = state
        return found

    def committed(self, read: Mapping[str, ChallengeState], moved: Mapping[str, ChallengeState]) -> None:
        """Remember the challenges that a transaction moved, from the states it read under lock."""
        for challenge_id, state in moved.items():
            before, _ = self._states.get(challenge_id, (None, False))
            self._states[challenge_id] = state, before == read[challenge_id]
            self._states.move_to_end(challenge_id)
        while len(self._states) > self._capacity:
            self._states.popitem(last=False)

    def forget(self, challenge_ids: Iterable[str]) -> None:
        """Read these challenges the next time."""
        for challenge_id in challenge_ids:
            self._states.pop(challenge_id, None)

    def clear(self) -> None:
        """Read every challenge the next time."""
        self._states.clear()
