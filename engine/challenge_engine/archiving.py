"""Moves the trades of challenges that ended long ago into archives, and reads them back from there.

An archive is a file of its own: for each challenge its row, events and trades as they were, and its seal, so that a
proof can be made of it without the database. It is written, read again and decided again, recorded with its digest, and
only then are the trades removed, by a role that the database's triggers admit for this alone.
"""

import json
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256 as sha256_of
from pathlib import Path
from typing import Any

import orjson
import psycopg
from sqlalchemy.engine import URL

from challenge_engine import archive_queries as queries
from challenge_engine import rows
from challenge_engine.audit_reading import stored_challenges
from challenge_engine.auditing import Auditor, Fault, Finding
from challenge_engine.checkpoint_files import CheckpointFileError
from challenge_engine.checkpoint_reading import CheckpointReader
from challenge_engine.database import DatabaseError, brief
from challenge_engine.export_queries import ROWS_OF_CHALLENGES
from challenge_engine.keys import SealKey
from challenge_engine.log_files import LogFileError, line_of, read_lines, sync_directory, write_lines
from challenge_engine.proving import seal_of
from challenge_engine.snapshots import Progress, Session, session, snapshot, stream
from challenge_rules.challenge import ChallengeTerms, Trade
from challenge_rules.notes import SignedNote
from challenge_rules.proof import History, ProofError, RecordedInput, Seal, decide_history
from challenge_rules.timestamps import from_iso

ARCHIVE_FORMAT = "propfirm.challenge/archive/v1"
CHALLENGES_PER_ARCHIVE = 1_000
TRADES_PER_ARCHIVE = 100_000

REFUSALS = (
    psycopg.errors.InsufficientPrivilege,
    psycopg.errors.InvalidParameterValue,
    psycopg.errors.UndefinedObject,
)


class CannotArchiveError(DatabaseError):
    """Something is not archived, and stays where it is; the message says why."""


@dataclass(slots=True)
class Archived:
    """What an archiving has moved, and of which challenges it left the trades where they are because of findings."""

    archives: list[str] = field(default_factory=list)
    challenges: int = 0
    trades: int = 0
    refused: list[Finding] = field(default_factory=list)


def archive(
    url: URL, directory: Path, *, older_than: timedelta, keys: Sequence[SealKey], progress: Progress
) -> Archived:
    """Archive the trades of every challenge that closed longer ago than `older_than`, and was recorded so long ago.

    A challenge that is not sealed, or in which anything is wrong, keeps its trades and is named. `keys` sign the
    archive's digest; there must be one. Raises `CannotArchiveError` when the role may not archive.
    """
    if not keys:
        raise CannotArchiveError("an archive is sealed by a signature: give the key by --seal-key FILE")
    archived = Archived()
    before = datetime.now(UTC) - older_than
    skipped: set[str] = set()
    with session(url) as connection:
        _become_archiver(connection)
        ((total,),) = connection.execute(queries.COUNT_ENDED, (before,)).fetchall()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        sync_directory(directory.absolute().parent)
    except OSError as error:
        raise LogFileError(f"cannot write to {directory}: {error.strerror}") from None
    while True:
        with snapshot(url) as connection:
            batch = _next_batch(connection, before, skipped)
            if not batch:
                return archived
            sound, seals = _sound(connection, batch, archived)
            skipped |= set(batch) - set(sound)
            if not sound:
                continue
            archive_id = str(uuid.uuid4())
            path = directory / f"{archive_id}.jsonl.gz"
            digest, _ = write_lines(path, _lines(connection, archive_id, sound, seals))
            left = digest_of_left(connection, sound)
        trades = _check_file(path, archive_id, sound)
        with session(url) as connection:
            _remove(connection, _Sealed(archive_id, path.name, digest, sorted(sound), trades, left, keys))
        archived.archives.append(path.name)
        archived.challenges += len(sound)
        archived.trades += trades
        progress("challenges", archived.challenges, total)


@dataclass(frozen=True, slots=True)
class _Sealed:
    """An archive that is written and checked."""

    archive_id: str
    file_name: str
    sha256: str
    challenge_ids: list[str]
    trades: int
    left: str
    keys: Sequence[SealKey]

    def note(self) -> str:
        """The signed note on the archive's digest."""
        counts = len(self.challenge_ids), self.trades
        text = archive_text(self.archive_id, self.file_name, self.sha256, counts, self.left)
        return SignedNote(text, tuple(key.sign(text) for key in self.keys)).encode()


def archive_text(archive_id: str, file_name: str, sha256: str, counts: tuple[int, int], left: str) -> str:
    """What is signed of an archive: its file, how many challenges and trades it holds, and what stays of them."""
    challenges, trades = counts
    return (
        f"{ARCHIVE_FORMAT}\n{archive_id}\n{file_name}\nsha256 {sha256}\n{challenges} challenges, {trades} trades\n"
        f"left {left}\n"
    )


def digest_of_left(connection: Session, challenge_ids: Sequence[str]) -> str:
    """SHA-256 of the rows and events of archived challenges, so that nobody changes them, or adds others, unseen."""
    digest = sha256_of()
    for stored in stored_challenges(connection, sorted(challenge_ids), with_trades=False):
        row = None if stored.row is None else stored.row[:-1]
        digest.update(orjson.dumps([row, stored.events], default=_hexadecimal) + b"\n")
    return digest.hexdigest()


def _hexadecimal(value: object) -> str:
    if isinstance(value, bytes):
        return value.hex()
    raise TypeError


def _become_archiver(connection: Session) -> None:
    """Take the role that the triggers admit; who may make roles makes it where there is none."""
    try:
        ((exists, may_make),) = connection.execute(queries.ARCHIVER).fetchall()
        if may_make:
            # Roles belong to all databases of a cluster, what they may do to each.
            for statement in queries.MAKE_ARCHIVER[int(exists) :]:
                connection.execute(statement)
        connection.execute(queries.BECOME_ARCHIVER)
    except REFUSALS as error:
        raise CannotArchiveError(
            f"this role may not archive: it must be a member of challenge_archiver, see docs/roles.md ({brief(error)})"
        ) from None


def _next_batch(connection: Session, before: datetime, skipped: set[str]) -> list[str]:
    """The challenges of the next archive: many small ones, or a few large."""
    chosen: list[str] = []
    trades = 0
    parameters = {"before": before, "skipped": list(skipped), "limit": CHALLENGES_PER_ARCHIVE}
    for challenge_id, count in connection.execute(queries.NEXT_ENDED, parameters):
        if chosen and trades + count > TRADES_PER_ARCHIVE:
            break
        chosen.append(challenge_id)
        trades += count
    return chosen


def _sound(connection: Session, challenge_ids: Sequence[str], archived: Archived) -> tuple[list[str], dict[str, Seal]]:
    """Those of the challenges in which nothing is wrong, and that are sealed as they ended, with their seals."""
    auditor = Auditor()
    reader = CheckpointReader(connection)
    sound = []
    seals = {}
    for stored in stored_challenges(connection, challenge_ids):
        audited = auditor.audit(stored)
        if audited.findings or audited.state is None:
            archived.refused += audited.findings
            continue
        leaf = reader.newest_leaf(stored.challenge_id)
        if leaf is None or leaf[1:] != (audited.state.last_sequence, audited.state.chain_head):
            archived.refused.append(
                Finding(Fault.SEAL, stored.challenge_id, audited.state.last_sequence, "it is not sealed as it ended")
            )
            continue
        try:
            seals[stored.challenge_id] = seal_of(reader, leaf[0])
        except CheckpointFileError as error:
            raise CannotArchiveError(str(error)) from None
        sound.append(stored.challenge_id)
    return sound, seals


def _lines(connection: Session, archive_id: str, challenge_ids: list[str], seals: dict[str, Seal]) -> Iterator[bytes]:
    yield line_of("archive", json.dumps({"format": ARCHIVE_FORMAT, "archive_id": archive_id}))
    for challenge_id in challenge_ids:
        for table, query in ROWS_OF_CHALLENGES.items():
            for (row,) in stream(connection, f"archived_{table}", query, {"challenge_ids": [challenge_id]}):
                yield line_of(table, row)
        seal = seals[challenge_id]
        yield line_of(
            "seal",
            json.dumps(
                {
                    "challenge_id": challenge_id,
                    "leaf_index": seal.leaf_index,
                    "inclusion_proof": [each.hex() for each in seal.inclusion_proof],
                    "checkpoint": seal.note,
                }
            ),
        )


def _check_file(path: Path, archive_id: str, challenge_ids: list[str]) -> int:
    """Read an archive again and decide everything in it again; how many trades there are."""
    found = []
    trades = 0
    for history, _, head in read_archive(path, archive_id):
        if history.state.chain_head != head:
            raise LogFileError(f"{path}: challenge {history.terms.challenge_id} does not lead to its recorded head")
        found.append(history.terms.challenge_id)
        trades += len(history.inputs)
    if found != challenge_ids:
        raise LogFileError(f"{path} does not hold the challenges that were written to it")
    return trades


def read_archive(path: Path, archive_id: str | None = None) -> Iterator[tuple[History, Seal, bytes]]:
    """Of each challenge in an archive the history, decided again, its seal, and the head that its row has.

    Raises `LogFileError` for a file that is no archive, or another one than `archive_id`.
    """
    lines = read_lines(path)
    first: tuple[str, Any] = ("", {})
    kind, row = next(lines, first)
    if kind != "archive" or row.get("format") != ARCHIVE_FORMAT:
        raise LogFileError(f"{path} is no archive of the format {ARCHIVE_FORMAT}")
    if archive_id is not None and row.get("archive_id") != archive_id:
        raise LogFileError(f"{path} is the archive {row.get('archive_id')}, not {archive_id}")
    terms: ChallengeTerms | None = None
    head = b""
    inputs: list[RecordedInput] = []
    try:
        for kind, row in lines:
            if kind == "challenges":
                head, inputs = bytes.fromhex(row["chain_head"].removeprefix("\\x")), []
            elif kind == "challenge_events" and row["terms"] is not None:
                terms = rows.terms_from_json(row["challenge_id"], row["terms"])
            elif kind == "trades":
                inputs.append(_input(row))
            elif kind == "seal":
                if terms is None or terms.challenge_id != row["challenge_id"]:
                    raise LogFileError(f"{path}: challenge {row['challenge_id']} has no terms")
                siblings = tuple(bytes.fromhex(each) for each in row["inclusion_proof"])
                seal = Seal(row["leaf_index"], siblings, row["checkpoint"])
                yield decide_history(terms, inputs), seal, head
    except ProofError as error:
        raise LogFileError(f"{path}: challenge {terms.challenge_id if terms else ''}: {error}") from None
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, LogFileError):
            raise
        raise LogFileError(f"{path} has a line that is none of an archive: {error!r}") from None


def find_in_archive(directory: Path, archive_id: str, challenge_id: str) -> tuple[History, Seal]:
    """One challenge of an archive; `LogFileError` when it is not there."""
    path = directory / f"{archive_id}.jsonl.gz" if directory.is_dir() else directory
    for history, seal, head in read_archive(path, archive_id):
        if history.terms.challenge_id == challenge_id:
            if history.state.chain_head != head:
                raise LogFileError(f"{path}: challenge {challenge_id} does not lead to its recorded head")
            return history, seal
    raise LogFileError(f"{path} does not hold challenge {challenge_id}")


def _input(row: dict[str, Any]) -> RecordedInput:
    trade = Trade(row["trade_id"], rows.units(row["realized_pnl"]), from_iso(row["executed_at"]), row["symbol"])
    return RecordedInput(trade, from_iso(row["recorded_at"]))


def _remove(connection: Session, sealed: _Sealed) -> None:
    """Record the archive and remove the trades that it holds, in one transaction."""
    with connection.transaction():
        _become_archiver(connection)
        connection.execute(
            queries.RECORD_ARCHIVE,
            (
                sealed.archive_id,
                sealed.file_name,
                sealed.sha256,
                len(sealed.challenge_ids),
                sealed.trades,
                sealed.note(),
            ),
        )
        connection.execute(queries.LOCK_ARCHIVED, (sealed.challenge_ids,))
        marked = connection.execute(queries.MARK_ARCHIVED, (sealed.archive_id, sealed.challenge_ids)).rowcount
        removed = connection.execute(queries.REMOVE_TRADES, (sealed.challenge_ids,)).rowcount
        if (marked, removed) != (len(sealed.challenge_ids), sealed.trades):
            raise CannotArchiveError(
                f"{marked} challenges and {removed} trades would have been removed instead of"
                f" {len(sealed.challenge_ids)} and {sealed.trades}: nothing was"
            )
