"""Checkpoints outside the database, where its owner cannot rewrite them: files that are only ever added.

A directory holds the signed notes (`<tree size>.checkpoint`) and the leaves of the tree (`<first>-<end>.leaves`), each
file written once. A single file holds a note, and below it the leaves, one on a line. With the leaves, what was
rewritten in the database can be named; without them it can only be seen.
"""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NOTE_NAME = re.compile(r"([0-9]{20})\.checkpoint")
LEAVES_NAME = re.compile(r"([0-9]{20})-([0-9]{20})\.leaves")
LEAVES_HEADING = "leaves: index challenge_id sequence chain_head"
_LEAF = re.compile(
    r"(0|[1-9][0-9]{0,18}) ([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})"
    r" (0|[1-9][0-9]{0,18}) ([0-9a-f]{64})"
)

Leaf = tuple[str, int, bytes]
"""challenge_id, sequence, chain_head."""


class CheckpointFileError(ValueError):
    """An exported checkpoint cannot be read; the message names the file and the line."""


@dataclass(frozen=True, slots=True)
class ExportedCheckpoint:
    """A note as it was exported, with the name of its file."""

    source: str
    note: str


def format_leaf(index: int, leaf: Sequence[Any]) -> str:
    """A leaf as a line of a file."""
    challenge_id, sequence, chain_head = leaf
    return f"{index} {challenge_id} {sequence} {chain_head.hex()}\n"


def parse_leaf(line: str) -> tuple[int, Leaf]:
    """The index and leaf of a line; `ValueError` for anything that `format_leaf` does not write."""
    match = _LEAF.fullmatch(line)
    if match is None:
        raise ValueError("a leaf must be: index challenge_id sequence chain_head")
    index, sequence = int(match[1]), int(match[3])
    if index >= 2**63 or sequence >= 2**63:
        raise ValueError("a leaf has an index and a sequence below 2**63")
    return index, (match[2], sequence, bytes.fromhex(match[4]))


class CheckpointDirectory:
    """A directory of checkpoints; made when there is none."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def exported_size(self) -> int:
        """How many leaves have been exported, without a gap from the first."""
        end = 0
        for start, stop in sorted(self._ranges()):
            if start > end:
                break
            end = max(end, stop)
        return end

    def write_leaves(self, start: int, leaves: Sequence[Sequence[Any]]) -> None:
        """Add the leaves from `start` on."""
        lines = "".join(format_leaf(index, leaf) for index, leaf in enumerate(leaves, start=start))
        self._write(f"{start:020d}-{start + len(leaves):020d}.leaves", lines)

    def write_note(self, tree_size: int, note: str) -> None:
        """Add a signed checkpoint."""
        self._write(f"{tree_size:020d}.checkpoint", note)

    def notes(self) -> list[ExportedCheckpoint]:
        """Every checkpoint, the smallest tree first."""
        names = sorted(path for path in self.path.iterdir() if NOTE_NAME.fullmatch(path.name))
        return [ExportedCheckpoint(str(path), _read(path)) for path in names]

    def newest_note(self) -> ExportedCheckpoint | None:
        """The checkpoint of the largest tree; None when there is none."""
        names = (
            [each.name for each in self.path.iterdir() if NOTE_NAME.fullmatch(each.name)] if self.path.is_dir() else []
        )
        return ExportedCheckpoint(str(self.path / max(names)), _read(self.path / max(names))) if names else None

    def leaves(self) -> Iterator[tuple[int, Leaf]]:
        """Every exported leaf in order, each once; ends at the first gap."""
        end = 0
        for start, stop in sorted(self._ranges()):
            if start > end:
                return
            path = self.path / f"{start:020d}-{stop:020d}.leaves"
            try:
                lines = _read(path).splitlines()
            except OSError as error:
                raise CheckpointFileError(f"cannot read {path}: {error.strerror}") from None
            for index, leaf in _parse_lines(str(path), lines):
                if index >= end:
                    yield index, leaf
            end = max(end, stop)

    def _ranges(self) -> Iterator[tuple[int, int]]:
        if self.path.is_dir():
            for path in self.path.iterdir():
                if match := LEAVES_NAME.fullmatch(path.name):
                    yield int(match[1]), int(match[2])

    def _write(self, name: str, text: str) -> None:
        """Write a file that is there whole or not at all; one that is there already stays, and must be the same."""
        self.path.mkdir(parents=True, exist_ok=True)
        path = self.path / name
        if path.exists():
            if path.read_bytes() != text.encode():
                raise CheckpointFileError(f"{path} is there already, with another content: it is of another history")
            return
        beside = self.path / f".{name}.{os.getpid()}.new"
        with beside.open("w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_file(path: Path, note: str, leaves: Iterable[tuple[int, Sequence[Any]]]) -> None:
    """Write a note, and below it its leaves, to one file; `CheckpointFileError` when there is one of that name."""
    try:
        with path.open("x", encoding="utf-8", newline="") as file:
            file.write(note)
            heading = f"\n{LEAVES_HEADING}\n"
            for index, leaf in leaves:
                file.write(heading + format_leaf(index, leaf))
                heading = ""
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        raise CheckpointFileError(f"{path} is there already; a checkpoint is never overwritten") from None
    except OSError as error:
        raise CheckpointFileError(f"cannot write {path}: {error.strerror}") from None


def exported_in(path: Path) -> list[Path]:
    """What there is to read behind a path: itself, or, of a directory, what the engine wrote there together, and every
    other file by itself. `CheckpointFileError` when there is nothing."""
    if not path.is_dir():
        return [path]
    files = sorted(each for each in path.iterdir() if each.is_file() and not each.name.startswith("."))
    ours = [each for each in files if NOTE_NAME.fullmatch(each.name) or LEAVES_NAME.fullmatch(each.name)]
    others = [each for each in files if each not in ours]
    if not files:
        raise CheckpointFileError(f"{path} holds no checkpoints")
    return [path, *others] if ours else others


def read_exported(path: Path) -> tuple[list[ExportedCheckpoint], Iterator[tuple[int, Leaf]]]:
    """The checkpoints of a file or a directory, and the leaves exported with them, if any."""
    try:
        if path.is_dir():
            directory = CheckpointDirectory(path)
            notes = directory.notes()
            if not notes:
                raise CheckpointFileError(f"{path} holds no checkpoints")
            return notes, directory.leaves()
        note, _, listed = _read(path).partition(f"\n{LEAVES_HEADING}\n")
    except OSError as error:
        raise CheckpointFileError(f"cannot read {path}: {error.strerror}") from None
    return [ExportedCheckpoint(str(path), note)], _parse_lines(str(path), listed.splitlines())


def _parse_lines(source: str, lines: Iterable[str]) -> Iterator[tuple[int, Leaf]]:
    for line in lines:
        try:
            yield parse_leaf(line)
        except ValueError as error:
            raise CheckpointFileError(f"{source}: {error}, got {line[:100]!r}") from None


def _read(path: Path) -> str:
    """Bytes as they are: a changed line end is a change."""
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError:
        raise CheckpointFileError(f"{path} is no checkpoint: it is not UTF-8") from None
