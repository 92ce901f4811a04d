"""Pages that a client can receive."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from challenge_rules import ChallengeTerms

T = TypeVar("T")

MAX_PAGE_BYTES = 2_000_000
"""gRPC clients take messages of 4 MiB unless told otherwise; this leaves room for what the estimate leaves out."""
BYTES_BESIDE_LABELS = 1_500
"""More than a challenge, a trade or an event has on the wire without its labels."""


def fitting(items: Sequence[T], size_of: Callable[[T], int], max_bytes: int = MAX_PAGE_BYTES) -> int:
    """How many of the items, from the first, fit on one page: at least one, if there is any.

    `size_of` says how many bytes of labels an item has.
    """
    total = 0
    for count, item in enumerate(items):
        total += BYTES_BESIDE_LABELS + size_of(item)
        if total > max_bytes and count:
            return count
    return len(items)


def size_of_labels(terms: ChallengeTerms) -> int:
    """What the labels of a challenge take, in bytes."""
    return sum(len(key.encode()) + len(text.encode()) for key, text in terms.labels)
