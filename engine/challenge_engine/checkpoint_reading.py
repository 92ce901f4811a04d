"""Reads the sealed tree: checkpoints, leaves, and the subtrees that proofs are made of. For tools, not for the server.

One transaction that sees one moment and writes nothing, so that a tool may run beside the service.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.engine import URL

from challenge_engine import sealing_queries as queries
from challenge_engine.checkpoint_files import CheckpointDirectory, CheckpointFileError, ExportedCheckpoint
from challenge_engine.snapshots import Session, snapshot
from challenge_rules.chain import encode_leaf
from challenge_rules.merkle import TILE_LEVELS, CompactRange, consistency_proof, leaf_hash, tree_root
from challenge_rules.notes import Checkpoint, SignedNote

LEAVES_AT_A_TIME = 5_000


@dataclass(frozen=True, slots=True)
class StoredCheckpoint:
    """A checkpoint as it is stored: how many leaves, and the signed note."""

    tree_size: int
    note: str


@contextmanager
def checkpoint_reader(url: URL) -> Iterator["CheckpointReader"]:
    """A reader on a snapshot of its own."""
    with snapshot(url) as session:
        yield CheckpointReader(session)


class CheckpointReader:
    """The sealed tree as one session sees it."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def newest_if_any(self) -> StoredCheckpoint | None:
        """The newest checkpoint; None when nothing has been sealed."""
        row = self._session.execute(queries.NEWEST_CHECKPOINT).fetchone()
        return None if row is None else StoredCheckpoint(*row)

    def newest(self) -> StoredCheckpoint:
        """The newest checkpoint; `CheckpointFileError` when nothing has been sealed."""
        newest = self.newest_if_any()
        if newest is None:
            raise CheckpointFileError("nothing has been sealed in this database: serve it with a key")
        return newest

    def first_with(self, leaf_index: int) -> StoredCheckpoint:
        """The checkpoint that sealed a leaf."""
        row = self._session.execute(queries.FIRST_CHECKPOINT_WITH, (leaf_index,)).fetchone()
        if row is None:
            raise CheckpointFileError(f"leaf {leaf_index} has no checkpoint")
        return StoredCheckpoint(*row)

    def newest_leaf(self, challenge_id: str) -> tuple[int, int, bytes] | None:
        """The newest leaf of a challenge: its index, the sequence and the head; None when it was never sealed."""
        row = self._session.execute(queries.NEWEST_LEAF, (challenge_id,)).fetchone()
        return None if row is None else (row[0], row[1], row[2])

    def leaves(self, start: int, end: int) -> Iterator[tuple[int, tuple[str, int, bytes]]]:
        """The leaves from `start` to before `end`, with their numbers."""
        for first in range(start, end, LEAVES_AT_A_TIME):
            found = self._session.execute(queries.LEAVES, (first, min(first + LEAVES_AT_A_TIME, end)))
            yield from ((index, (row[0], row[1], row[2])) for index, row in enumerate(found, start=first))

    def complete(self, start: int, size: int) -> bytes:
        """The hash of a complete subtree, from the stored ones: what `merkle`'s proofs ask for."""
        level = (size.bit_length() - 1) // TILE_LEVELS * TILE_LEVELS
        if level == 0:
            nodes = [leaf_hash(encode_leaf(*leaf)) for _, leaf in self.leaves(start, start + size)]
        else:
            found = self._session.execute(queries.TILES, (level, start >> level, (start + size) >> level))
            nodes = [tile for (tile,) in found]
        if len(nodes) != size >> level:
            raise CheckpointFileError(f"the sealed tree lacks rows between {start} and {start + size}: run verify")
        subtree = CompactRange()
        for node in nodes:
            subtree.append(node)
        return subtree.root()

    def export_to(self, path: Path, checkpoint: StoredCheckpoint) -> None:
        """Bring a directory of checkpoints up to this one; `CheckpointFileError` when it is not of the same tree."""
        directory = CheckpointDirectory(path)
        try:
            newest = directory.newest_note()
            if newest is not None:
                self._require_same_tree(newest, checkpoint.tree_size)
            start = directory.exported_size()
            while start < checkpoint.tree_size:
                end = min(start + LEAVES_AT_A_TIME, checkpoint.tree_size)
                directory.write_leaves(start, [leaf for _, leaf in self.leaves(start, end)])
                start = end
            directory.write_note(checkpoint.tree_size, checkpoint.note)
        except OSError as error:
            raise CheckpointFileError(f"cannot write to {path}: {error.strerror}") from None

    def _require_same_tree(self, exported: ExportedCheckpoint, size: int) -> None:
        """Raise unless what was exported before is the beginning of the tree as it is now."""
        try:
            before = Checkpoint.parse_body(SignedNote.parse(exported.note).text)
        except ValueError as error:
            raise CheckpointFileError(f"{exported.source}: {error}") from None
        if before.tree_size > size or tree_root(before.tree_size, self.complete) != before.root:
            raise CheckpointFileError(
                f"{exported.source} is of another history than this database has now: it was restored, replaced or"
                " tampered with. Keep that directory as it is, see what verify --checkpoint says, and choose another"
            )

    def consistency(self, exported: ExportedCheckpoint, checkpoint: StoredCheckpoint) -> list[bytes]:
        """RFC 6962's proof that the tree of an older checkpoint is the beginning of a newer one's."""
        self._require_same_tree(exported, checkpoint.tree_size)
        before = Checkpoint.parse_body(SignedNote.parse(exported.note).text)
        return consistency_proof(before.tree_size, checkpoint.tree_size, self.complete)
