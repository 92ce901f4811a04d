"""The Merkle tree of RFC 6962, section 2.1, over SHA-256: roots, proofs that a leaf is in it, proofs that it only grew.

A *complete* subtree is one of 2**level leaves that starts at a multiple of its size. Its hash never changes once its
last leaf is there, so it can be stored for good, and everything else is made of such hashes alone. A hash is 32 bytes;
leaves are counted from 0.
"""

from collections.abc import Callable, Sequence
from hashlib import sha256

HASH_BYTES = 32
EMPTY_ROOT = sha256(b"").digest()
"""The root of the tree without leaves."""

TILE_LEVELS = 8
"""Completed subtrees of every eighth level are reported by `CompactRange.append`, as those worth storing."""

_LEAF_PREFIX = b"\x00"
_NODE_PREFIX = b"\x01"


def leaf_hash(data: bytes) -> bytes:
    """The hash of a leaf. Its prefix keeps it from ever being taken for that of an inner node."""
    return sha256(_LEAF_PREFIX + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node over those of its two children."""
    return sha256(_NODE_PREFIX + left + right).digest()


class CompactRange:
    """The right-hand frontier of a tree: as many hashes as its size has ones in binary, enough to grow and to root it.

    `hashes` are those of the complete subtrees that make up the tree of `size` leaves, the largest (leftmost) first, as
    an earlier range gave them. `ValueError` if their number does not fit the size, or one is not 32 bytes.
    """

    __slots__ = ("_hashes", "_size")

    def __init__(self, size: int = 0, hashes: Sequence[bytes] = ()) -> None:
        if size < 0:
            raise ValueError("a tree has no negative size")
        if len(hashes) != size.bit_count():
            raise ValueError(f"a tree of {size} leaves has {size.bit_count()} complete subtrees, not {len(hashes)}")
        if not _are_hashes(hashes):
            raise ValueError(f"a hash must be {HASH_BYTES} bytes")
        self._size = size
        self._hashes = list(hashes)

    @property
    def size(self) -> int:
        """The number of leaves."""
        return self._size

    @property
    def hashes(self) -> tuple[bytes, ...]:
        """The hashes of the complete subtrees, largest first: what to store to go on later."""
        return tuple(self._hashes)

    def append(self, leaf_hash: bytes) -> tuple[tuple[int, int, bytes], ...]:
        """Add the hash of the next leaf, at the price of one more hash on average.

        Answers what this leaf completed, lowest level first: (level, index, hash) of each subtree whose level is a
        multiple of TILE_LEVELS, level 0 excluded. It holds the 2**level leaves from index × 2**level on.
        """
        if len(leaf_hash) != HASH_BYTES:
            raise ValueError(f"a hash must be {HASH_BYTES} bytes")
        hashes = self._hashes
        index = self._size
        level = 0
        grown = leaf_hash
        completed: tuple[tuple[int, int, bytes], ...] = ()
        while index & 1:
            grown = node_hash(hashes.pop(), grown)
            index >>= 1
            level += 1
            if level % TILE_LEVELS == 0:
                completed += ((level, index, grown),)
        hashes.append(grown)
        self._size += 1
        return completed

    def root(self) -> bytes:
        """The root of the tree as it is now."""
        return _fold(self._hashes)


def tree_root(size: int, complete: Callable[[int, int], bytes]) -> bytes:
    """The root of the tree of the first `size` leaves; `ValueError` for a negative size."""
    if size < 0:
        raise ValueError("a tree has no negative size")
    return _range_root(0, size, complete)


def inclusion_proof(index: int, size: int, complete: Callable[[int, int], bytes]) -> list[bytes]:
    """The audit path of a leaf in the tree of the first `size` leaves, from the leaf upwards: RFC 6962's PATH.

    `ValueError` if the leaf is not in the tree.
    """
    if not 0 <= index < size:
        raise ValueError(f"leaf {index} is not in a tree of {size} leaves")
    proof = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            proof.append(_range_root(middle, end, complete))
            end = middle
        else:
            proof.append(complete(start, middle - start))
            start = middle
    proof.reverse()
    return proof


def consistency_proof(old_size: int, new_size: int, complete: Callable[[int, int], bytes]) -> list[bytes]:
    """What shows that the first `old_size` leaves are still the same among `new_size`: RFC 6962's PROOF and SUBPROOF.

    Empty between trees of one size, and from the empty tree, with which every tree is consistent. `ValueError` if the
    older tree is the larger one.
    """
    if not 0 <= old_size <= new_size:
        raise ValueError(f"a tree of {old_size} leaves does not grow into one of {new_size}")
    if old_size == 0:
        return []
    proof = []
    start, end = 0, new_size
    while end != old_size:
        middle = start + _split(end - start)
        if old_size <= middle:
            proof.append(_range_root(middle, end, complete))
            end = middle
        else:
            proof.append(complete(start, middle - start))
            start = middle
    if start:
        # Otherwise the older tree is itself the subtree that is left, and its root is known to the verifier.
        proof.append(_range_root(start, end, complete))
    proof.reverse()
    return proof


def root_from_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes]) -> bytes:
    """The root that an audit path leads to from the hash of a leaf, by RFC 9162, section 2.1.3.2.

    `ValueError` if the leaf is not in a tree of `size` leaves, or the path is not of the length it has there.
    """
    if not 0 <= index < size:
        raise ValueError(f"leaf {index} is not in a tree of {size} leaves")
    if not _are_hashes([leaf, *proof]):
        raise ValueError(f"a hash must be {HASH_BYTES} bytes")
    node, last = index, size - 1
    root = leaf
    for sibling in proof:
        if last == 0:
            raise ValueError("the proof is too long")
        if node & 1 or node == last:
            root = node_hash(sibling, root)
            node, last = _skip_lone_nodes(node, last)
        else:
            root = node_hash(root, sibling)
        node >>= 1
        last >>= 1
    if last != 0:
        raise ValueError("the proof is too short")
    return root


def verify_inclusion(leaf: bytes, index: int, size: int, root: bytes, proof: Sequence[bytes]) -> bool:
    """Whether the proof shows that the leaf of this hash is number `index` in the tree of that size and root."""
    try:
        return root_from_inclusion(leaf, index, size, proof) == root
    except ValueError:
        return False


def verify_consistency(old_size: int, old_root: bytes, new_size: int, new_root: bytes, proof: Sequence[bytes]) -> bool:
    """Whether the proof shows that the newer tree starts with all leaves of the older, by RFC 9162, section 2.1.4.2.

    The empty tree, if it is named with its root, starts every tree: that says nothing about the newer root.
    """
    if not 0 <= old_size <= new_size or not _are_hashes([old_root, new_root, *proof]):
        return False
    if old_size == new_size:
        return not proof and old_root == new_root and (old_size > 0 or old_root == EMPTY_ROOT)
    if old_size == 0:
        return not proof and old_root == EMPTY_ROOT
    if not proof:
        return False
    path = [old_root, *proof] if old_size.bit_count() == 1 else list(proof)
    node, last = old_size - 1, new_size - 1
    while node & 1:
        node >>= 1
        last >>= 1
    old = new = path[0]
    for sibling in path[1:]:
        if last == 0:
            return False
        if node & 1 or node == last:
            old = node_hash(sibling, old)
            new = node_hash(sibling, new)
            node, last = _skip_lone_nodes(node, last)
        else:
            new = node_hash(new, sibling)
        node >>= 1
        last >>= 1
    return last == 0 and old == old_root and new == new_root


def _skip_lone_nodes(node: int, last: int) -> tuple[int, int]:
    """Go up to where the node is a right child: the last node of a level may have no sibling, and moves up as it is."""
    while node and not node & 1:
        node >>= 1
        last >>= 1
    return node, last


def _split(size: int) -> int:
    """RFC 6962's k: the largest power of two smaller than a size of at least 2."""
    return 1 << ((size - 1).bit_length() - 1)


def _range_root(start: int, end: int, complete: Callable[[int, int], bytes]) -> bytes:
    """The hash over the leaves from `start` to before `end`, where `start` suits the largest subtree in between."""
    hashes = []
    while start < end:
        size = 1 << ((end - start).bit_length() - 1)
        hashes.append(complete(start, size))
        start += size
    return _fold(hashes)


def _fold(hashes: Sequence[bytes]) -> bytes:
    """The root over neighbouring complete subtrees, largest first: the smallest two are joined, then the next."""
    if not hashes:
        return EMPTY_ROOT
    root = hashes[-1]
    for left in hashes[-2::-1]:
        root = node_hash(left, root)
    return root


def _are_hashes(hashes: Sequence[bytes]) -> bool:
    return all(len(one) == HASH_BYTES for one in hashes)
