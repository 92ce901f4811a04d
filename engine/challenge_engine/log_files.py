"""The files that a log is exported to: JSON Lines, compressed, in chunks that a manifest lists with their digests.

A line is `{"kind": …, "row": …}`, the row as PostgreSQL's `to_jsonb` writes it: exact, and read back by PostgreSQL
itself. A chunk is written beside its name and renamed, and only then listed; so an export that was interrupted goes on
after the last chunk that is listed.
"""

import gzip
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

EXPORT_FORMAT = "propfirm.challenge/export/v1"
MANIFEST = "manifest.json"
COMPRESSION = 6
MAX_LINE_BYTES = 16 * 1024 * 1024


class LogFileError(ValueError):
    """A file of an export or archive cannot be read or written; the message names it."""


@dataclass(slots=True)
class Chunk:
    """A listed file: its name, digest and number of rows. `last` is where the next one of its table goes on."""

    file: str
    sha256: str
    rows: int
    table: str
    last: str


@dataclass(slots=True)
class Manifest:
    """What an export consists of. `position` and `tree_size` bound it: what came later is not part of it."""

    log_id: str
    revision: str
    position: int
    tree_size: int
    started_at: str
    chunks: list[Chunk] = field(default_factory=list)
    is_complete: bool = False

    def write(self, directory: Path) -> None:
        """Store the manifest, whole or not at all."""
        text = json.dumps({"format": EXPORT_FORMAT, **asdict(self)}, indent=1) + "\n"
        replace_file(directory / MANIFEST, text.encode())

    @classmethod
    def read(cls, directory: Path) -> "Manifest | None":
        """The manifest of a directory; None when there is none."""
        path = directory / MANIFEST
        try:
            stored = json.loads(path.read_bytes())
            if stored.pop("format") != EXPORT_FORMAT:
                raise LogFileError(f"{path} is not of the format {EXPORT_FORMAT}")
            chunks = [Chunk(**chunk) for chunk in stored.pop("chunks")]
            return cls(**stored, chunks=chunks)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise LogFileError(f"cannot read {path}: {error.strerror}") from None
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            if isinstance(error, LogFileError):
                raise
            raise LogFileError(f"{path} is no manifest of an export") from None


def line_of(kind: str, row: str) -> bytes:
    """A line of a file from the text of a row's JSON."""
    return f'{{"kind":"{kind}","row":{row}}}\n'.encode()


def write_lines(path: Path, lines: Iterable[bytes]) -> tuple[str, int]:
    """Write a compressed file, whole or not at all; its digest and how many lines it has."""
    count = 0
    beside = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        with beside.open("wb") as file:
            # Without a time, so that the same lines make the same file.
            with gzip.GzipFile("", "wb", COMPRESSION, file, mtime=0) as packed:
                for line in lines:
                    packed.write(line)
                    count += 1
            file.flush()
            os.fsync(file.fileno())
        digest = digest_of(beside)
        beside.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        raise LogFileError(f"cannot write {path}: {error.strerror}") from None
    finally:
        beside.unlink(missing_ok=True)
    return digest, count


def read_lines(path: Path) -> Iterator[tuple[str, Any]]:
    """The kind and the row of each line of a compressed file."""
    try:
        with gzip.open(path, "rb") as file:
            while line := file.readline(MAX_LINE_BYTES):
                parsed = json.loads(line, parse_float=str)
                yield parsed["kind"], parsed["row"]
    except (OSError, EOFError) as error:
        raise LogFileError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
    except (ValueError, KeyError, TypeError):
        raise LogFileError(f"{path} has a line that is none of an export") from None


def digest_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = sha256()
    try:
        with path.open("rb") as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
    except OSError as error:
        raise LogFileError(f"cannot read {path}: {error.strerror}") from None
    return digest.hexdigest()


def replace_file(path: Path, content: bytes) -> None:
    """Put a file in the place of another, whole or not at all."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        raise LogFileError(f"cannot write {path}: {error.strerror}") from None


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
