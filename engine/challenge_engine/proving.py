"""Writes the proof of a challenge: its whole history up to where it is sealed, and the seal."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from sqlalchemy.engine import URL

from challenge_engine import audit_queries as queries
from challenge_engine import rows
from challenge_engine.checkpoint_reading import CheckpointReader
from challenge_engine.database import DatabaseError
from challenge_engine.snapshots import Session, snapshot
from challenge_rules.chain import encode_leaf
from challenge_rules.challenge import ChallengeTerms, Trade
from challenge_rules.merkle import inclusion_proof, leaf_hash, root_from_inclusion
from challenge_rules.notes import Checkpoint, SignedNote, VerifierKey
from challenge_rules.proof import History, RecordedInput, Seal, decide_history

SEAL_PATIENCE_S = 3.0
"""What was just committed is sealed within a second by a service that runs."""
POLL_INTERVAL_S = 0.1


class CannotProveError(DatabaseError):
    """There is nothing to prove, or what is stored is not what was sealed; the message says which."""


Archives = Callable[[str, str], tuple[History, Seal]]
"""Finds a challenge in an archive, by their ids."""


def prove(
    url: URL,
    challenge_id: str,
    *,
    archives: Archives | None = None,
    keys: Sequence[VerifierKey] = (),
    patience_s: float = SEAL_PATIENCE_S,
) -> tuple[History, Seal, int]:
    """The sealed history of a challenge, its seal, and how many trades it has in all, some of which may not be sealed.

    Waits a little for the seal of what was just committed. Of a checkpoint that several keys signed, only the
    signatures of `keys` are given, if there are any, because whoever checks a proof has to know every one. Raises
    `CannotProveError`.
    """
    deadline = time.monotonic() + patience_s
    while True:
        with snapshot(url) as session:
            reader = CheckpointReader(session)
            leaf = reader.newest_leaf(challenge_id)
            row = session.execute(queries.PROVED, (challenge_id,)).fetchone()
            if row is None:
                raise CannotProveError(f"there is no challenge {challenge_id}")
            last_sequence, archive_id = row
            is_sealed = leaf is not None and leaf[1] >= last_sequence
            if is_sealed or time.monotonic() >= deadline:
                if leaf is None:
                    raise CannotProveError(
                        f"challenge {challenge_id} has not been sealed: serve the database with a key"
                    )
                if archive_id is not None:
                    if archives is None:
                        raise CannotProveError(
                            f"the trades of challenge {challenge_id} are in archive {archive_id}: give --archive DIR"
                        )
                    history, seal = archives(archive_id, challenge_id)
                else:
                    history, seal = _history(session, challenge_id, leaf), seal_of(reader, leaf[0])
                return _require_sealed(history, seal, leaf[2]), _signed_by(seal, keys), last_sequence
        time.sleep(POLL_INTERVAL_S)


def seal_of(reader: CheckpointReader, leaf_index: int) -> Seal:
    """The seal of a leaf: the checkpoint that first held it, and the way from the leaf to its root."""
    checkpoint = reader.first_with(leaf_index)
    path = inclusion_proof(leaf_index, checkpoint.tree_size, reader.complete)
    return Seal(leaf_index, tuple(path), checkpoint.note)


def _require_sealed(history: History, seal: Seal, chain_head: bytes) -> History:
    """The history, if it leads to the head that was sealed and its seal to the signed root."""
    state = history.state
    hashed = leaf_hash(encode_leaf(state.terms.challenge_id, state.last_sequence, chain_head))
    try:
        checkpoint = Checkpoint.parse_body(SignedNote.parse(seal.note).text)
        root = root_from_inclusion(hashed, seal.leaf_index, checkpoint.tree_size, seal.inclusion_proof)
        is_sealed = root == checkpoint.root and state.chain_head == chain_head
    except ValueError:
        is_sealed = False
    if not is_sealed:
        raise CannotProveError(
            f"the stored history of challenge {state.terms.challenge_id} does not lead to what was sealed of it:"
            " run challenge-engine verify"
        )
    return history


def _signed_by(seal: Seal, keys: Sequence[VerifierKey]) -> Seal:
    """The seal with the signatures of these keys alone; with all of them if there are no keys."""
    if not keys:
        return seal
    note = SignedNote.parse(seal.note)
    known = {(key.name, key.key_hash) for key in keys}
    chosen = tuple(each for each in note.signatures if (each.name, each.key_hash) in known)
    if not chosen:
        raise CannotProveError("the checkpoint of this challenge has no signature of a given key")
    return replace(seal, note=SignedNote(note.text, chosen).encode())


def _history(session: Session, challenge_id: str, leaf: tuple[int, int, bytes]) -> History:
    try:
        return decide_history(_terms(session, challenge_id), _inputs(session, challenge_id, leaf[1]))
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise CannotProveError(f"challenge {challenge_id}: {error}; run challenge-engine verify") from None


def _terms(session: Session, challenge_id: str) -> ChallengeTerms:
    query = queries.EVENTS.format(where=queries.SOME)
    row = session.execute(query, {"challenge_ids": [challenge_id]}).fetchone()
    terms = None if row is None else rows.event_from_row(row[:-1]).terms
    if terms is None:
        raise CannotProveError(f"challenge {challenge_id} has no CHALLENGE_CREATED event: run challenge-engine verify")
    return terms


def _inputs(session: Session, challenge_id: str, sequence: int) -> list[RecordedInput]:
    found = session.execute(queries.INPUTS, (challenge_id, sequence))
    return [
        RecordedInput(Trade(trade_id, rows.units(realized_pnl), executed_at, symbol), recorded_at)
        for trade_id, realized_pnl, executed_at, symbol, recorded_at in found
    ]
