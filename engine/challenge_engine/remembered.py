"""The states of challenges as this process left them, so that the next trade need not wait to read them first."""

from collections import OrderedDict
from collections.abc import Iterable, Mapping

from challenge_rules import ChallengeState

MAX_REMEMBERED = 16_384
MAX_LABEL_CHARACTERS = 1_000
"""A state takes about 1 KiB, and its labels on top; one with larger labels is not remembered."""


class RememberedStates:
    """The states that this process has committed, of the challenges used last.

    A memory can be wrong, for other processes write as well. Whatever is decided on one is compared with the row under
    its lock before COMMIT, so that a wrong one costs time and nothing else. To keep that rare, a challenge is relied
    upon only once it was found as this process had left it; then no other writes to it in turn with this one.
    """

    def __init__(self, capacity: int = MAX_REMEMBERED) -> None:
        self._capacity = capacity
        self._states: OrderedDict[str, tuple[ChallengeState, bool]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._states)

    def reliable(self, challenge_ids: Iterable[str]) -> dict[str, ChallengeState] | None:
        """The states of all these challenges, or None when one of them had better be read."""
        states = {}
        for challenge_id in challenge_ids:
            state, is_reliable = self._states.get(challenge_id, (None, False))
            if state is None or not is_reliable:
                return None
            states[challenge_id] = state
        return states

    def found(self, states: Mapping[str, ChallengeState]) -> None:
        """Take note of the states that were read under lock: from now on rely upon those that are as remembered."""
        for challenge_id, state in states.items():
            remembered, _ = self._states.get(challenge_id, (None, False))
            if remembered == state:
                self._states[challenge_id] = state, True
            elif remembered is not None:
                del self._states[challenge_id]

    def committed(self, states: Iterable[ChallengeState]) -> None:
        """Remember the states that a transaction left."""
        for state in states:
            challenge_id = state.terms.challenge_id
            if sum(len(key) + len(text) for key, text in state.terms.labels) > MAX_LABEL_CHARACTERS:
                continue
            _, is_reliable = self._states.get(challenge_id, (None, False))
            self._states[challenge_id] = state, is_reliable
            self._states.move_to_end(challenge_id)
        while len(self._states) > self._capacity:
            self._states.popitem(last=False)
