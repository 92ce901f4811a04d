"""Writes the whole log to files, and reads it back into an empty database. Both go on where they were interrupted."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy.engine import URL

from challenge_engine import audit_queries
from challenge_engine import export_queries as queries
from challenge_engine.database import NEWEST_REVISION, DatabaseError
from challenge_engine.log_files import Chunk, LogFileError, Manifest, digest_of, line_of, read_lines, write_lines
from challenge_engine.rebuild_queries import SERVERS
from challenge_engine.rows import bytea
from challenge_engine.snapshots import Progress, Session, session, snapshot, stream
from challenge_rules.chain import encode_leaf
from challenge_rules.merkle import CompactRange, leaf_hash

CHALLENGES_PER_CHUNK = 1_000
TRADES_PER_CHUNK = 100_000
ROWS_PER_CHUNK = 200_000
ROWS_PER_STATEMENT = 2_000
FINISH = "finish"
NO_DIGEST = "00" * 32
"""Stands beside the mark that an import has been finished, which is no file."""
BEFORE_ANY = -1


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export has brought about; `resumed` chunks were there already."""

    chunks: int
    rows: int
    resumed: int


def export_log(url: URL, directory: Path, *, progress: Progress) -> Exported:
    """Write everything that is recorded to `directory`: rows of challenges, their events and trades, positions, the
    sealed tree with its checkpoints, and archives.

    An export bounds itself when it begins: later positions and leaves are not part of it. Interrupted, it goes on after
    the last whole chunk. Raises `LogFileError`, and for a complete export says so.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LogFileError(f"cannot write to {directory}: {error.strerror}") from None
    with snapshot(url) as connection:
        ((log_id, position, tree_size),) = connection.execute(queries.BOUNDS).fetchall()
        manifest = Manifest.read(directory)
        if manifest is None:
            started_at = datetime.now(UTC).isoformat(timespec="seconds")
            manifest = Manifest(log_id, NEWEST_REVISION, position, tree_size, started_at)
            manifest.write(directory)
        elif manifest.is_complete:
            raise LogFileError(f"{directory} holds a complete export already; choose another directory")
        elif manifest.revision != NEWEST_REVISION:
            raise LogFileError(f"{directory} holds an export of schema revision {manifest.revision}")
        elif manifest.log_id != log_id:
            raise LogFileError(f"{directory} holds an export of another log, {manifest.log_id}")
        resumed = len(manifest.chunks)
        _Export(connection, directory, manifest, progress).run()
    rows = sum(chunk.rows for chunk in manifest.chunks)
    return Exported(len(manifest.chunks), rows, resumed)


class _Export:
    def __init__(self, connection: Session, directory: Path, manifest: Manifest, progress: Progress) -> None:
        self._connection = connection
        self._directory = directory
        self._manifest = manifest
        self._progress = progress
        ((_, self._total, _),) = connection.execute(audit_queries.COUNTS).fetchall()
        self._done = sum(chunk.rows for chunk in manifest.chunks)

    def run(self) -> None:
        """Write what is missing, one chunk after the other."""
        self._write_table("archives")
        while challenge_ids := self._next_challenges():
            self._add("challenges", self._lines_of(challenge_ids), challenge_ids[-1])
        for name in ("positions", "leaves", "checkpoints"):
            self._write_table(name)
        self._manifest.is_complete = True
        self._manifest.write(self._directory)

    def _last(self, table: str) -> str | None:
        return next((chunk.last for chunk in reversed(self._manifest.chunks) if chunk.table == table), None)

    def _next_challenges(self) -> list[str]:
        """The challenges of the next chunk: many small ones, or a few large."""
        parameters = {"after": self._last("challenges"), "limit": CHALLENGES_PER_CHUNK}
        chosen: list[str] = []
        trades = 0
        for challenge_id, count in self._connection.execute(queries.NEXT_CHALLENGES, parameters):
            if chosen and trades + count > TRADES_PER_CHUNK:
                break
            chosen.append(challenge_id)
            trades += count
        return chosen

    def _lines_of(self, challenge_ids: list[str]) -> Iterator[bytes]:
        for table, query in queries.ROWS_OF_CHALLENGES.items():
            for (row,) in stream(self._connection, f"exported_{table}", query, {"challenge_ids": challenge_ids}):
                yield line_of(table, row)

    def _write_table(self, name: str) -> None:
        table, query = queries.ROWS_OF_TREE[name]
        if name == "archives":
            # All of them, also when an export is gone on with: a challenge that follows may have been archived since.
            rows = [line_of(table, row) for (row,) in self._connection.execute(query)]
            if rows:
                self._add(name, iter(rows), "all")
            return
        key = {"positions": "position", "leaves": "leaf_index", "checkpoints": "tree_size"}[name]
        while True:
            last = self._last(name)
            parameters = {
                "after": BEFORE_ANY if last is None else int(last),
                "limit": ROWS_PER_CHUNK,
                "position": self._manifest.position,
                "tree_size": self._manifest.tree_size,
            }
            found = [row for (row,) in stream(self._connection, f"exported_{name}", query, parameters)]
            if not found:
                return
            self._add(name, (line_of(table, row) for row in found), str(json.loads(found[-1])[key]))

    def _add(self, table: str, lines: Iterator[bytes], last: str) -> None:
        name = f"{len(self._manifest.chunks) + 1:06d}-{table}.jsonl.gz"
        digest, rows = write_lines(self._directory / name, lines)
        self._manifest.chunks.append(Chunk(name, digest, rows, table, last))
        self._manifest.write(self._directory)
        self._done += rows
        self._progress("rows", self._done, max(self._total, self._done))


def import_log(url: URL, directory: Path, *, progress: Progress) -> Exported:
    """Store an exported log in an empty database that has the schema; its cursors and page tokens end, because the log
    has an identity of its own here.

    Each chunk is one transaction, so an import that was interrupted goes on after the last. What was exported after the
    last position or seal gets one here, as soon as the database is served. Raises `LogFileError` for a chunk that is
    missing or not as listed, and `DatabaseError` for a database that is not empty.
    """
    manifest = require_export(directory)
    with session(url) as connection:
        imported = dict(connection.execute(queries.IMPORTED).fetchall())
        listed = {(chunk.file, chunk.sha256) for chunk in manifest.chunks} | {(FINISH, NO_DIGEST)}
        strange = imported.items() - listed
        ((is_empty,),) = connection.execute(queries.IS_EMPTY).fetchall()
        if strange or (not is_empty and not imported):
            raise DatabaseError("an import needs an empty database: make a new one and migrate it")
        ((servers,),) = connection.execute(SERVERS).fetchall()
        if servers:
            raise DatabaseError(f"{servers} sessions of the service use this database: stop every server first")
        total = sum(chunk.rows for chunk in manifest.chunks)
        done = 0
        for chunk in manifest.chunks:
            if chunk.file not in imported:
                _import_chunk(connection, directory, chunk)
            done += chunk.rows
            progress("rows", done, total)
        if FINISH not in imported:
            _finish(connection)
    return Exported(len(manifest.chunks), total, len(imported))


def require_export(directory: Path) -> Manifest:
    """The manifest of a whole export that this release can import; `LogFileError` otherwise."""
    manifest = Manifest.read(directory)
    if manifest is None:
        raise LogFileError(f"{directory} holds no export: there is no manifest")
    if not manifest.is_complete:
        raise LogFileError(f"the export in {directory} is not complete: run export again")
    if manifest.revision != NEWEST_REVISION:
        raise LogFileError(f"the export is of schema revision {manifest.revision}, this release's is {NEWEST_REVISION}")
    return manifest


def _import_chunk(connection: Session, directory: Path, chunk: Chunk) -> None:
    path = directory / chunk.file
    if digest_of(path) != chunk.sha256:
        raise LogFileError(f"{path} is not the file that was exported: its SHA-256 differs from the manifest's")
    with connection.transaction():
        connection.execute(queries.LOCK_IMPORT)
        rows = 0
        waiting: list[Any] = []
        table = ""
        for kind, row in read_lines(path):
            if kind != table or len(waiting) == ROWS_PER_STATEMENT:
                _insert(connection, table, waiting)
                waiting, table = [], kind
            waiting.append(row)
            rows += 1
        _insert(connection, table, waiting)
        if rows != chunk.rows:
            raise LogFileError(f"{path} has {rows} rows, not {chunk.rows}")
        connection.execute(queries.RECORD_CHUNK, (chunk.file, chunk.sha256))


TABLES = {*queries.ROWS_OF_CHALLENGES, *(table for table, _ in queries.ROWS_OF_TREE.values())}


def _insert(connection: Session, table: str, rows: list[Any]) -> None:
    if not rows:
        return
    if table not in TABLES:
        raise LogFileError(f"an export has no rows of {table[:100]!r}")
    ((columns,),) = connection.execute(queries.COLUMNS, (table,)).fetchall()
    query = queries.INSERT_ONCE if table == "archives" else queries.INSERT
    connection.execute(query.format(table=table, columns=columns), (orjson.dumps(rows).decode(),))


def _finish(connection: Session) -> None:
    with connection.transaction():
        connection.execute(queries.LOCK_IMPORT)
        tree = CompactRange()
        tiles = []
        for _, *leaf in stream(connection, "imported_leaves", audit_queries.ALL_LEAVES):
            for level, tile_index, digest in tree.append(leaf_hash(encode_leaf(*leaf))):
                tiles.append({"level": level, "tile_index": tile_index, "hash": bytea(digest)})
        connection.execute(queries.INSERT_TILES, (orjson.dumps(tiles).decode(),))
        connection.execute(queries.QUEUE_EVENTS)
        connection.execute(queries.QUEUE_CHAINS)
        connection.execute(queries.RECORD_CHUNK, (FINISH, NO_DIGEST))
