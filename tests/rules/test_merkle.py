"""The Merkle tree is RFC 6962's: its roots and proofs are those of the RFC's own definitions, and no other proof holds.

The model below is section 2.1 of the RFC written down: MTH, PATH and SUBPROOF, recursive, over the leaves' data.
"""

from functools import cache
from hashlib import sha256

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from challenge_rules.merkle import (
    EMPTY_ROOT,
    TILE_LEVELS,
    CompactRange,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    node_hash,
    root_from_inclusion,
    tree_root,
    verify_consistency,
    verify_inclusion,
)


def split(n):
    k = 1
    while 2 * k < n:
        k *= 2
    return k


def mth(leaves):
    if not leaves:
        return sha256().digest()
    if len(leaves) == 1:
        return sha256(b"\x00" + leaves[0]).digest()
    k = split(len(leaves))
    return sha256(b"\x01" + mth(leaves[:k]) + mth(leaves[k:])).digest()


def path(m, leaves):
    if len(leaves) == 1:
        return []
    k = split(len(leaves))
    if m < k:
        return [*path(m, leaves[:k]), mth(leaves[k:])]
    return [*path(m - k, leaves[k:]), mth(leaves[:k])]


def subproof(m, leaves, b):
    if m == len(leaves):
        return [] if b else [mth(leaves)]
    k = split(len(leaves))
    if m <= k:
        return [*subproof(m, leaves[:k], b), mth(leaves[k:])]
    return [*subproof(m - k, leaves[k:], False), mth(leaves[:k])]


class ModelSubtrees:
    """Answers for complete subtrees within the tree alone, and counts how often it was asked."""

    def __init__(self, leaves):
        self.leaves = leaves
        self.asked = 0

    def complete(self, start: int, size: int) -> bytes:
        assert size > 0
        assert size & (size - 1) == 0
        assert start % size == 0
        assert 0 <= start <= start + size <= len(self.leaves)
        self.asked += 1
        return mth(self.leaves[start : start + size])


def leaves_of(size):
    return [b"leaf %d" % number for number in range(size)]


def flipped(value, bit):
    changed = bytearray(value)
    changed[bit // 8 % len(value)] ^= 1 << bit % 8
    return bytes(changed)


KNOWN_LEAVES = [
    bytes.fromhex(text)
    for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
KNOWN_ROOTS = """
    6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d
    fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125
    aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77
    d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7
    4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4
    76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef
    ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c
    5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328
""".split()


def test_the_empty_tree_has_the_hash_of_nothing():
    assert EMPTY_ROOT.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert CompactRange().root() == EMPTY_ROOT == tree_root(0, ModelSubtrees([]).complete)


@pytest.mark.parametrize("size", range(1, 9))
def test_the_roots_of_the_reference_implementation_of_certificate_transparency_are_met(size):
    frontier = CompactRange()
    for data in KNOWN_LEAVES[:size]:
        frontier.append(leaf_hash(data))
    assert frontier.root().hex() == KNOWN_ROOTS[size - 1]
    assert tree_root(size, ModelSubtrees(KNOWN_LEAVES).complete).hex() == KNOWN_ROOTS[size - 1]
    assert mth(KNOWN_LEAVES[:size]).hex() == KNOWN_ROOTS[size - 1]


def test_a_leaf_that_looks_like_an_inner_node_has_another_hash():
    left, right = leaf_hash(b"a"), leaf_hash(b"b")
    assert leaf_hash(left + right) != node_hash(left, right)


def test_every_root_and_proof_of_every_small_tree_is_the_models_and_holds():
    leaves = leaves_of(33)
    subtrees = ModelSubtrees(leaves)
    roots = [mth(leaves[:size]) for size in range(len(leaves) + 1)]
    for size in range(1, len(leaves) + 1):
        assert tree_root(size, subtrees.complete) == roots[size]
        for index in range(size):
            proof = inclusion_proof(index, size, subtrees.complete)
            assert proof == path(index, leaves[:size])
            assert root_from_inclusion(leaf_hash(leaves[index]), index, size, proof) == roots[size]
            assert verify_inclusion(leaf_hash(leaves[index]), index, size, roots[size], proof)
        for old_size in range(1, size + 1):
            proof = consistency_proof(old_size, size, subtrees.complete)
            assert proof == subproof(old_size, leaves[:size], True)
            assert verify_consistency(old_size, roots[old_size], size, roots[size], proof)


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=150), st.data())
def test_roots_and_proofs_are_those_of_the_models_tree(leaves, data):
    size = len(leaves)
    index = data.draw(st.integers(0, size - 1))
    old_size = data.draw(st.integers(1, size))
    complete = ModelSubtrees(leaves).complete
    root, old_root = mth(leaves), mth(leaves[:old_size])
    assert tree_root(size, complete) == root
    proof = inclusion_proof(index, size, complete)
    assert proof == path(index, leaves)
    assert verify_inclusion(leaf_hash(leaves[index]), index, size, root, proof)
    proof = consistency_proof(old_size, size, complete)
    assert proof == subproof(old_size, leaves, True)
    assert verify_consistency(old_size, old_root, size, root, proof)


def test_a_proof_in_a_huge_tree_takes_few_subtrees():
    @cache
    def of_equal_leaves(size):
        return leaf_hash(b"same") if size == 1 else node_hash(of_equal_leaves(size // 2), of_equal_leaves(size // 2))

    asked = []

    def complete(start: int, size: int) -> bytes:
        assert start % size == 0
        asked.append(size)
        return of_equal_leaves(size)

    size, old_size = 2**40 + 12345, 2**39 + 2**20 + 77
    root, old_root = tree_root(size, complete), tree_root(old_size, complete)
    for index in (0, 2**39 - 1, 2**40 - 1, 2**40, size - 1):
        asked.clear()
        proof = inclusion_proof(index, size, complete)
        assert verify_inclusion(leaf_hash(b"same"), index, size, root, proof)
        assert len(asked) <= 2 * size.bit_length()
    asked.clear()
    proof = consistency_proof(old_size, size, complete)
    assert verify_consistency(old_size, old_root, size, root, proof)
    assert len(asked) <= 3 * size.bit_length()


@given(st.integers(0, 300), st.integers(0, 40))
@example(255, 1)
@example(256, 1)
def test_a_range_goes_on_from_its_stored_hashes_as_if_it_had_never_stopped(size, more):
    leaves = leaves_of(size + more)
    before = CompactRange()
    for data in leaves[:size]:
        before.append(leaf_hash(data))
    assert len(before.hashes) == size.bit_count()
    after = CompactRange(before.size, before.hashes)
    for data in leaves[size:]:
        assert after.append(leaf_hash(data)) == before.append(leaf_hash(data))
    assert after.size == before.size == size + more
    assert after.root() == before.root() == mth(leaves)


def test_storing_a_range_takes_a_copy_of_it():
    frontier = CompactRange()
    frontier.append(leaf_hash(b"a"))
    stored = frontier.hashes
    given_hashes = list(stored)
    again = CompactRange(1, given_hashes)
    again.append(leaf_hash(b"b"))
    assert frontier.hashes == stored == tuple(given_hashes)


@pytest.mark.parametrize(
    ("size", "hashes"),
    [
        (0, [EMPTY_ROOT]),
        (1, []),
        (2, [EMPTY_ROOT, EMPTY_ROOT]),
        (3, [EMPTY_ROOT]),
        (-1, [EMPTY_ROOT]),
        (1, [b"short"]),
        (1, [EMPTY_ROOT + b"\0"]),
    ],
)
def test_stored_hashes_that_do_not_fit_the_size_are_refused(size, hashes):
    with pytest.raises(ValueError):
        CompactRange(size, hashes)


def test_what_is_no_hash_is_not_appended_and_changes_nothing():
    frontier = CompactRange()
    frontier.append(leaf_hash(b"a"))
    with pytest.raises(ValueError):
        frontier.append(b"data instead of its hash")
    assert (frontier.size, frontier.root()) == (1, leaf_hash(b"a"))


def test_a_leaf_that_completes_a_subtree_of_every_eighth_level_reports_it():
    size = 2**16 + 2**8 + 3
    leaves = leaves_of(size)
    frontier = CompactRange()
    reported = {}
    for number, data in enumerate(leaves):
        for level, index, digest in frontier.append(leaf_hash(data)):
            assert level % TILE_LEVELS == 0
            assert number + 1 == (index + 1) << level, "reported by its last leaf"
            assert (level, index) not in reported
            reported[level, index] = digest
    assert sorted(reported) == [*((8, index) for index in range(257)), (16, 0)]
    for level, index in [*((8, index) for index in range(0, 257, 16)), (16, 0)]:
        assert reported[level, index] == mth(leaves[index << level : (index + 1) << level])
    assert frontier.root() == node_hash(reported[16, 0], mth(leaves[2**16 :]))


def test_a_leaf_that_completes_several_reports_the_lowest_level_first():
    frontier = CompactRange(2**16 - 1, [leaf_hash(b"%d" % level) for level in range(16)])
    levels = [(level, index) for level, index, _ in frontier.append(leaf_hash(b"last"))]
    assert levels == [(8, 255), (16, 0)]
    assert frontier.size == 2**16


@pytest.mark.parametrize(("index", "size"), [(0, 0), (1, 1), (-1, 5), (5, 5), (7, 5)])
def test_a_leaf_outside_the_tree_has_no_proof(index, size):
    complete = ModelSubtrees(leaves_of(8)).complete
    with pytest.raises(ValueError):
        inclusion_proof(index, size, complete)
    with pytest.raises(ValueError):
        root_from_inclusion(leaf_hash(b"leaf"), index, size, [])
    assert not verify_inclusion(leaf_hash(b"leaf"), index, size, EMPTY_ROOT, [])


@pytest.mark.parametrize(("old_size", "new_size"), [(2, 1), (1, 0), (-1, 1), (-2, -1)])
def test_a_tree_that_shrank_has_no_proof(old_size, new_size):
    with pytest.raises(ValueError):
        consistency_proof(old_size, new_size, ModelSubtrees(leaves_of(8)).complete)
    assert not verify_consistency(old_size, EMPTY_ROOT, new_size, EMPTY_ROOT, [])


def test_a_negative_size_has_no_root():
    with pytest.raises(ValueError):
        tree_root(-1, ModelSubtrees([]).complete)


def test_every_tree_is_consistent_with_the_empty_one_and_with_itself():
    leaves = leaves_of(5)
    root = mth(leaves)
    complete = ModelSubtrees(leaves).complete
    assert consistency_proof(0, 5, complete) == consistency_proof(5, 5, complete) == []
    assert verify_consistency(0, EMPTY_ROOT, 5, root, [])
    assert verify_consistency(5, root, 5, root, [])
    assert verify_consistency(0, EMPTY_ROOT, 0, EMPTY_ROOT, [])
    assert not verify_consistency(0, root, 5, root, [])
    assert not verify_consistency(0, root, 0, root, [])
    assert not verify_consistency(0, EMPTY_ROOT, 5, root, [root])
    assert not verify_consistency(5, root, 5, root, [root])
    assert not verify_consistency(5, root, 5, EMPTY_ROOT, [])


SIZES = st.integers(1, 50)


@given(SIZES, st.data())
def test_a_tampered_inclusion_proof_never_holds(size, data):
    leaves = leaves_of(size)
    index = data.draw(st.integers(0, size - 1))
    leaf, root, proof = leaf_hash(leaves[index]), mth(leaves), path(index, leaves)
    bit = data.draw(st.integers(0, 255))
    assert not verify_inclusion(flipped(leaf, bit), index, size, root, proof)
    assert not verify_inclusion(leaf, index, size, flipped(root, bit), proof)
    assert not verify_inclusion(leaf, index, size, root, [*proof, root])
    assert not verify_inclusion(leaf, index, size, root, [leaf, *proof])
    for other in set(range(size + 1)) - {index}:
        assert not verify_inclusion(leaf, other, size, root, proof)
    if proof:
        at = data.draw(st.integers(0, len(proof) - 1))
        assert not verify_inclusion(leaf, index, size, root, [*proof[:at], flipped(proof[at], bit), *proof[at + 1 :]])
        assert not verify_inclusion(leaf, index, size, root, [*proof[:at], *proof[at + 1 :]])
        assert not verify_inclusion(leaf, index, size, root, [*proof[:at], proof[at][:-1], *proof[at + 1 :]])
        assert not verify_inclusion(leaf, index, size, root, proof[::-1]) or proof == proof[::-1]


@given(st.integers(2, 50), st.data())
def test_a_tampered_consistency_proof_never_holds(size, data):
    leaves = leaves_of(size)
    old_size = data.draw(st.integers(1, size - 1))
    old_root, root, proof = mth(leaves[:old_size]), mth(leaves), subproof(old_size, leaves, True)
    bit = data.draw(st.integers(0, 255))
    at = data.draw(st.integers(0, len(proof) - 1))
    assert verify_consistency(old_size, old_root, size, root, proof)
    assert not verify_consistency(old_size, flipped(old_root, bit), size, root, proof)
    assert not verify_consistency(old_size, old_root, size, flipped(root, bit), proof)
    assert not verify_consistency(old_size, old_root, size, root, [*proof, root])
    assert not verify_consistency(old_size, old_root, size, root, [old_root, *proof])
    for tampered in (
        [*proof[:at], flipped(proof[at], bit), *proof[at + 1 :]],
        [*proof[:at], *proof[at + 1 :]],
        [*proof[:at], proof[at][:-1], *proof[at + 1 :]],
        [],
    ):
        assert not verify_consistency(old_size, old_root, size, root, tampered)


def test_a_proof_of_the_wrong_length_leads_nowhere_not_even_to_a_root_made_up_for_it():
    a, b, c, d, extra = (leaf_hash(data) for data in (b"a", b"b", b"c", b"d", b"extra"))
    ab, cd = node_hash(a, b), node_hash(c, d)
    for index, size, proof in [(0, 1, [extra]), (0, 2, []), (0, 2, [b, extra]), (0, 4, [b]), (2, 3, [ab, extra])]:
        with pytest.raises(ValueError):
            root_from_inclusion(c if index else a, index, size, proof)
    assert verify_consistency(3, node_hash(ab, c), 4, node_hash(ab, cd), [c, d, ab])
    assert not verify_consistency(3, c, 4, cd, [c, d])
    above = node_hash(extra, node_hash(ab, c)), node_hash(extra, node_hash(ab, cd))
    assert not verify_consistency(3, above[0], 4, above[1], [c, d, ab, extra])


def test_bytes_do_not_wander_from_one_hash_to_its_neighbour():
    left, right = leaf_hash(b"a"), leaf_hash(b"b")
    root = node_hash(left, right)
    assert verify_inclusion(left, 0, 2, root, [right])
    assert not verify_inclusion(left + right[:1], 0, 2, root, [right[1:]])
    assert verify_consistency(1, left, 2, root, [right])
    assert not verify_consistency(1, left + right[:1], 2, root, [right[1:]])


@given(st.integers(2, 50), st.data())
def test_a_history_that_was_rewritten_is_not_consistent(size, data):
    leaves = leaves_of(size)
    old_size = data.draw(st.integers(1, size))
    changed = data.draw(st.integers(0, old_size - 1))
    rewritten = [*leaves[:changed], b"another", *leaves[changed + 1 :]]
    proof = consistency_proof(old_size, size, ModelSubtrees(rewritten).complete)
    assert not verify_consistency(old_size, mth(leaves[:old_size]), size, mth(rewritten), proof)
