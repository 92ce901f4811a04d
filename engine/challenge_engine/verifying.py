"""Verifies a whole database: every challenge by its own rows, the log of events, the sealed tree and its checkpoints,
and checkpoints that were exported to where the database's owner cannot rewrite them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy.engine import URL

from challenge_engine import archive_queries, rows
from challenge_engine import audit_queries as queries
from challenge_engine.archiving import archive_text, digest_of_left, read_archive
from challenge_engine.audit_reading import stored_challenges
from challenge_engine.auditing import Auditor, Fault, Finding
from challenge_engine.checkpoint_files import CheckpointFileError, ExportedCheckpoint, Leaf, exported_in, read_exported
from challenge_engine.keys import verify_signature
from challenge_engine.log_files import LogFileError, digest_of
from challenge_engine.sealing import SEALED_AT
from challenge_engine.snapshots import Progress, Session, say_nothing, snapshot, stream
from challenge_rules.chain import encode_leaf
from challenge_rules.merkle import CompactRange, leaf_hash
from challenge_rules.notes import Checkpoint, SignedNote, VerifierKey
from challenge_rules.proof import History
from challenge_rules.timestamps import to_iso

MAX_FINDINGS = 10_000
"""More than this are counted, not kept."""
LINKS_AT_A_TIME = 1_000


PROTECTION = {
    "challenges": (
        "challenges_terminal_is_final",
        "challenges_steps_allowed",
        "challenges_terms_are_fixed",
        "challenges_stay",
        "challenges_not_emptied",
        "challenges_archived_once",
    ),
    "trades": ("trades_append_only", "trades_archived_before_deleted", "trades_not_emptied"),
    **{
        table: (f"{table}_append_only", f"{table}_not_emptied")
        for table in (
            "challenge_events",
            "event_positions",
            "checkpoint_leaves",
            "checkpoint_tiles",
            "checkpoints",
            "archives",
        )
    },
    "event_outbox": ("event_outbox_not_emptied",),
}
"""The triggers that keep history as it is, which a test holds against the migrations."""


def _values(triggers: Mapping[str, Sequence[str]]) -> str:
    return ", ".join(f"('{table}', '{trigger}')" for table, names in triggers.items() for trigger in names)


@dataclass(slots=True)
class Report:
    """What a verification found. `notes` says what could not be checked, and why."""

    challenges: int = 0
    trades: int = 0
    events: int = 0
    archived: int = 0
    archived_trades: int = 0
    leaves: int = 0
    checkpoints: int = 0
    signed_checkpoints: int = 0
    exported_checkpoints: int = 0
    waiting: int = 0
    findings: list[Finding] = field(default_factory=list)
    finding_count: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        """Whether nothing is wrong."""
        return self.finding_count == 0

    def add(self, finding: Finding) -> None:
        """Count a finding, and keep it unless there are too many."""
        self.finding_count += 1
        if len(self.findings) < MAX_FINDINGS:
            self.findings.append(finding)


def replay(url: URL, *, challenge_ids: Sequence[str] | None = None, progress: Progress = say_nothing) -> Report:
    """Decide the stored trades of all challenges, or of some, again, and compare with what is stored."""
    report = Report()
    with snapshot(url) as session:
        for challenge_id in challenge_ids or ():
            if session.execute(queries.PROVED, (challenge_id,)).fetchone() is None:
                report.add(Finding(Fault.MISSING, challenge_id, None, "there is no challenge of this id"))
        _replay(session, report, challenge_ids, progress)
    if report.archived:
        report.notes.append(f"the trades of {report.archived} challenges are in archives, and were not decided again")
    return report


def verify(
    url: URL,
    *,
    keys: Sequence[VerifierKey] = (),
    exported: Sequence[Path] = (),
    archives: Path | None = None,
    progress: Progress = say_nothing,
) -> Report:
    """Verify everything that one moment of the database shows.

    `keys` are the public keys that checkpoints are to be signed by; without any, signatures are not checked, and the
    report says so. `exported` are files and directories of exported checkpoints, `archives` the directory of archives.
    """
    report = Report()
    with snapshot(url) as session:
        _replay(session, report, None, progress)
        progress("log", 0, 0)
        _verify_log(session, report)
        _verify_tree(session, report, keys, progress)
        _verify_seals(session, report)
        for given in exported:
            for path in exported_in(given):
                _verify_exported(session, report, path, keys)
        _verify_archives(session, report, archives, keys)
    return report


def _replay(session: Session, report: Report, challenge_ids: Sequence[str] | None, progress: Progress) -> None:
    total = 0
    if challenge_ids is None:
        ((_, total, _),) = session.execute(queries.COUNTS).fetchall()
    auditor = Auditor()
    for stored in stored_challenges(session, challenge_ids):
        audited = auditor.audit(stored)
        report.challenges += 1
        report.trades += audited.trade_count
        report.events += audited.event_count
        report.archived += stored.archive_id is not None
        for finding in audited.findings:
            report.add(finding)
        progress("trades", report.trades, total)


def _verify_log(session: Session, report: Report) -> None:
    """Positions without gaps, one for each event, in the order of each challenge."""
    ((identities,),) = session.execute(queries.EVENT_LOG_ROWS).fetchall()
    if identities != 1:
        report.add(Finding(Fault.LOG, None, None, f"the log has {identities} identities instead of one"))
    for name, trigger in session.execute(queries.RESTING_TRIGGERS.format(triggers=_values(PROTECTION))):
        report.add(Finding(Fault.LOG, None, None, f"the trigger {trigger} on {name} is not in force"))
    for challenge_id, number in session.execute(queries.STRAY_WAITING):
        report.add(Finding(Fault.LOG, challenge_id, None, f"event {number} waits for a position, but is not there"))
    for position, previous in session.execute(queries.LOG_GAPS):
        report.add(Finding(Fault.LOG, None, None, f"position {position} follows on {previous}"))
    for challenge_id, number in session.execute(queries.EVENTS_WITHOUT_PLACE):
        report.add(
            Finding(Fault.LOG, challenge_id, None, f"event {number} has no position in the log and waits for none")
        )
    for position, challenge_id, number, is_missing in session.execute(queries.POSITIONS_THAT_DIFFER):
        what = "of no event" if is_missing else "with another status than its event"
        report.add(Finding(Fault.LOG, challenge_id, None, f"position {position} is {what}, number {number}"))
    for position, challenge_id, number in session.execute(queries.POSITIONS_OUT_OF_ORDER):
        report.add(
            Finding(Fault.LOG, challenge_id, None, f"event {number} is at position {position}, after a later one")
        )


def _verify_tree(session: Session, report: Report, keys: Sequence[VerifierKey], progress: Progress) -> None:
    """The tree of the stored leaves has the roots that were signed, and the subtrees that are stored."""
    pending = _read_checkpoints(session, report, keys)
    awaited = next(pending, None)
    tree = CompactRange()
    tiles: dict[tuple[int, int], bytes] = {}
    ((total,),) = session.execute(queries.LARGEST_CHECKPOINT).fetchall()
    is_whole = True
    for index, challenge_id, sequence, chain_head in stream(session, "audited_leaves", queries.ALL_LEAVES):
        if index != tree.size and is_whole:
            is_whole = False
            message = f"leaf {tree.size} of the sealed tree is missing; the next is {index}"
            report.add(Finding(Fault.CHECKPOINT, challenge_id, sequence, message))
        for level, tile_index, digest in tree.append(leaf_hash(encode_leaf(challenge_id, sequence, chain_head))):
            tiles[level, tile_index] = digest
        while awaited is not None and awaited.tree_size == tree.size:
            if is_whole and awaited.root != tree.root():
                is_whole = False
                message = f"the first {tree.size} leaves are not those that the checkpoint was signed for"
                report.add(Finding(Fault.CHECKPOINT, None, None, message))
            awaited = next(pending, None)
        if tree.size % LINKS_AT_A_TIME == 0:
            progress("leaves", tree.size, total)
    report.leaves = tree.size
    is_short = awaited is not None
    for _ in pending:
        is_short = True
    _tell_of_checkpoints(report, keys)
    if is_short:
        message = f"there are {tree.size} leaves, but a checkpoint of {total}"
        report.add(Finding(Fault.CHECKPOINT, None, None, message))
    elif tree.size > total:
        report.add(Finding(Fault.CHECKPOINT, None, None, f"there are {tree.size} leaves, but {total} were signed"))
    if is_whole:
        _compare_tiles(session, report, tiles)


def _compare_tiles(session: Session, report: Report, tiles: dict[tuple[int, int], bytes]) -> None:
    for level, tile_index, digest in session.execute(queries.ALL_TILES):
        expected = tiles.pop((level, tile_index), None)
        if expected != digest:
            message = f"the stored subtree {tile_index} of level {level} is not that of its leaves"
            report.add(Finding(Fault.CHECKPOINT, None, None, message))
    for level, tile_index in tiles:
        message = f"the stored subtree {tile_index} of level {level} is missing"
        report.add(Finding(Fault.CHECKPOINT, None, None, message))


def _read_checkpoints(session: Session, report: Report, keys: Sequence[VerifierKey]) -> Iterator[Checkpoint]:
    for tree_size, note, sealed_at in stream(session, "audited_checkpoints", queries.ALL_CHECKPOINTS):
        report.checkpoints += 1
        try:
            checkpoint, is_signed = _read_note(note, keys)
        except ValueError as error:
            report.add(Finding(Fault.CHECKPOINT, None, None, f"the checkpoint of {tree_size} leaves: {error}"))
            continue
        report.signed_checkpoints += is_signed
        if checkpoint.tree_size != tree_size:
            message = f"the checkpoint of {tree_size} leaves names {checkpoint.tree_size}"
            report.add(Finding(Fault.CHECKPOINT, None, None, message))
            continue
        if sealed_at is None or f"{SEALED_AT}{to_iso(sealed_at)}" not in checkpoint.extensions:
            message = f"the checkpoint of {tree_size} leaves was signed at another moment than its row says"
            report.add(Finding(Fault.CHECKPOINT, None, None, message))
        yield checkpoint


def _tell_of_checkpoints(report: Report, keys: Sequence[VerifierKey]) -> None:
    unsigned = report.checkpoints - report.signed_checkpoints
    if not report.checkpoints:
        report.notes.append("nothing has been sealed, so nothing shows whether whole chains were rewritten")
    elif not keys:
        report.notes.append("signatures were not checked: no key was given")
    elif unsigned:
        message = f"{unsigned} checkpoints have no signature of a given key"
        report.add(Finding(Fault.CHECKPOINT, None, None, message))


def _read_note(note: str, keys: Sequence[VerifierKey]) -> tuple[Checkpoint, bool]:
    """The checkpoint of a note, and whether one of the keys signed it; `ValueError` when it is not to be believed."""
    signed = SignedNote.parse(note)
    verified = signed.verified_by(keys, verify_signature)
    return Checkpoint.parse_body(signed.text), bool(verified)


def _verify_seals(session: Session, report: Report) -> None:
    """What was sealed is what is stored, and nothing was left out."""
    for index, challenge_id, sequence, archive_id, is_missing in session.execute(queries.LEAVES_THAT_DIFFER):
        what = "it is missing" if is_missing and archive_id is None else "it is another one now"
        report.add(Finding(Fault.SEAL, challenge_id, sequence, f"sealed as leaf {index}, but {what}"))
    for challenge_id, sequence in session.execute(queries.UNSEALED):
        report.add(Finding(Fault.SEAL, challenge_id, sequence, "neither sealed nor waiting for a seal"))
    ((report.waiting,),) = session.execute(queries.WAITING).fetchall()


def _verify_exported(session: Session, report: Report, path: Path, keys: Sequence[VerifierKey]) -> None:
    """What was exported is part of the tree, and what was sealed then is what is stored now."""
    notes, leaves = read_exported(path)
    checkpoints = []
    for exported in notes:
        report.exported_checkpoints += 1
        if (checkpoint := _read_exported_note(session, exported, report, keys)) is not None:
            checkpoints.append(checkpoint)
    tree = CompactRange()
    by_size = {checkpoint.tree_size: checkpoint for checkpoint in checkpoints}
    batch: list[tuple[int, Leaf]] = []
    for index, leaf in leaves:
        if index != tree.size:
            raise CheckpointFileError(f"{path}: leaf {index} stands where {tree.size} should")
        tree.append(leaf_hash(encode_leaf(*leaf)))
        batch.append((index, leaf))
        checkpoint = by_size.get(tree.size)
        if checkpoint is not None and checkpoint.root != tree.root():
            message = f"{path}: the exported leaves are not those of its checkpoint of {tree.size}"
            report.add(Finding(Fault.CHECKPOINT, None, None, message))
        if len(batch) == LINKS_AT_A_TIME:
            _compare_exported(session, report, batch)
            batch.clear()
    _compare_exported(session, report, batch)
    _compare_roots(session, report, path, checkpoints)
    largest = max(by_size, default=0)
    if tree.size < largest:
        report.notes.append(f"{path} has {tree.size} of {largest} leaves; what was rewritten may not be named")


def _read_exported_note(
    session: Session, exported: ExportedCheckpoint, report: Report, keys: Sequence[VerifierKey]
) -> Checkpoint | None:
    try:
        checkpoint, is_signed = _read_note(exported.note, keys)
    except ValueError as error:
        report.add(Finding(Fault.CHECKPOINT, None, None, f"{exported.source}: {error}"))
        return None
    row = session.execute(queries.CHECKPOINT_OF, (checkpoint.tree_size,)).fetchone()
    if row is None or row[0] != exported.note:
        message = f"{exported.source} is not among the checkpoints of this database"
        report.add(Finding(Fault.CHECKPOINT, None, None, message))
    if keys and not is_signed:
        message = f"{exported.source} has no signature of a given key"
        report.add(Finding(Fault.CHECKPOINT, None, None, message))
    return checkpoint


def _compare_exported(session: Session, report: Report, batch: Sequence[tuple[int, Leaf]]) -> None:
    """Compare exported leaves with the stored ones and with the stored links."""
    if not batch:
        return
    first, last = batch[0][0], batch[-1][0]
    stored = {
        index: (challenge_id, sequence, chain_head)
        for index, challenge_id, sequence, chain_head in session.execute(queries.SOME_LEAVES, (first, last))
    }
    places = {"challenge_ids": [leaf[0] for _, leaf in batch], "sequences": [leaf[1] for _, leaf in batch]}
    links = {
        (challenge_id, sequence): (link, is_archived)
        for challenge_id, sequence, link, is_archived in session.execute(queries.LINKS, places)
    }
    for index, leaf in batch:
        challenge_id, sequence, chain_head = leaf
        link, is_archived = links[challenge_id, sequence]
        if link != chain_head and not (is_archived and link is None):
            what = "it is missing" if link is None else "it is another one now"
            message = f"exported as leaf {index}, but {what}"
            report.add(Finding(Fault.SEAL, challenge_id, sequence, message))
        if stored.get(index) != leaf:
            what = "is missing" if index not in stored else "is another one now"
            message = f"leaf {index} of the sealed tree {what}; it was exported"
            report.add(Finding(Fault.CHECKPOINT, challenge_id, sequence, message))


def _compare_roots(session: Session, report: Report, path: Path, checkpoints: Sequence[Checkpoint]) -> None:
    """Every exported checkpoint is of the tree that is stored."""
    pending = sorted(checkpoints, key=lambda each: each.tree_size)
    tree = CompactRange()
    rows = stream(session, "compared_leaves", queries.ALL_LEAVES)
    for checkpoint in pending:
        while tree.size < checkpoint.tree_size:
            row = next(rows, None)
            if row is None:
                break
            tree.append(leaf_hash(encode_leaf(*row[1:])))
        if tree.size < checkpoint.tree_size:
            message = f"{path}: a checkpoint of {checkpoint.tree_size} leaves was exported, but there are {tree.size}"
            report.add(Finding(Fault.CHECKPOINT, None, None, message))
            return
        if tree.root() != checkpoint.root:
            message = f"{path}: the first {tree.size} leaves are not those that were exported"
            report.add(Finding(Fault.CHECKPOINT, None, None, message))
            return


def _verify_archives(session: Session, report: Report, directory: Path | None, keys: Sequence[VerifierKey]) -> None:
    """Every archive is the one that was recorded and signed, and holds what was sealed and what is left here."""
    for challenge_id, sequence in session.execute(archive_queries.WITHOUT_ARCHIVE):
        report.add(Finding(Fault.ARCHIVE, challenge_id, sequence, "it names an archive that was never recorded"))
    for challenge_id, sequence in session.execute(archive_queries.ARCHIVED_UNSEALED):
        report.add(Finding(Fault.SEAL, challenge_id, sequence, "archived, but not sealed as it ended"))
    found = session.execute(archive_queries.ARCHIVES).fetchall()
    for archive_id, file_name, sha256, challenges, trades, note in found:
        left = digest_of_left(
            session, [row[0] for row in session.execute(archive_queries.ARCHIVED_CHALLENGES, (archive_id,))]
        )
        try:
            signed = SignedNote.parse(note)
            if signed.text != archive_text(archive_id, file_name, sha256, (challenges, trades), left):
                raise ValueError("what was signed is not what is recorded")
            if not signed.verified_by(keys, verify_signature) and keys:
                raise ValueError("it has no signature of a given key")
        except ValueError as error:
            report.add(Finding(Fault.ARCHIVE, None, None, f"archive {archive_id}: {error}"))
        if directory is not None:
            _verify_archive(session, report, directory / file_name, (archive_id, sha256, challenges, trades))
    if found and directory is None:
        report.notes.append(f"{len(found)} archives were not checked: --archive DIR says where they are")


def _verify_archive(session: Session, report: Report, path: Path, recorded: tuple[str, str, int, int]) -> None:
    archive_id, sha256, challenges, trades = recorded
    expected = {row[0] for row in session.execute(archive_queries.ARCHIVED_CHALLENGES, (archive_id,))}
    count = 0
    try:
        if digest_of(path) != sha256:
            raise LogFileError(f"{path} is not the archive that was recorded: its SHA-256 differs")
        for history, _, _ in read_archive(path, archive_id):
            challenge_id = history.terms.challenge_id
            count += len(history.inputs)
            if challenge_id not in expected:
                message = f"{path} holds it, but it does not name this archive"
                report.add(Finding(Fault.ARCHIVE, challenge_id, history.state.last_sequence, message))
            expected.discard(challenge_id)
            challenges -= 1
            _compare_archived(session, report, history)
    except LogFileError as error:
        report.add(Finding(Fault.ARCHIVE, None, None, str(error)))
        return
    report.archived_trades += count
    for challenge_id in sorted(expected):
        report.add(Finding(Fault.ARCHIVE, challenge_id, None, f"{path} does not hold it"))
    if challenges or count != trades:
        report.add(Finding(Fault.ARCHIVE, None, None, f"{path} does not hold as much as was recorded of it"))


def _compare_archived(session: Session, report: Report, history: History) -> None:
    """What is left of an archived challenge is what its archive leads to."""
    challenge_id, state = history.terms.challenge_id, history.state
    last = state.last_sequence
    for stored in stored_challenges(session, [challenge_id]):
        try:
            row = None if stored.row is None else rows.challenge_from_row(stored.row[:-1])
            events = tuple(rows.event_from_row(event[:-1]) for event in stored.events)
        except (KeyError, ValueError, TypeError) as error:
            report.add(Finding(Fault.UNREADABLE, challenge_id, last, f"what is left of it cannot be read: {error!r}"))
            continue
        if row != state:
            report.add(Finding(Fault.STATE, challenge_id, last, "its row is not what its archive leads to"))
        if events != history.events:
            report.add(Finding(Fault.EVENT, challenge_id, last, "its events are not those of its archive"))
    for sequence, head in session.execute(queries.LEAVES_OF, (challenge_id,)):
        if sequence >= len(history.links) or history.links[sequence] != head:
            report.add(Finding(Fault.SEAL, challenge_id, sequence, "sealed, but it is another one in its archive"))
