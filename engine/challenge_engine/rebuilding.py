"""Makes the table of challenges anew, from events and trades alone, and compares it with the stored one bit by bit.

The comparison reads one moment and may run while the service does. To swap the rebuilt rows in, the service has to be
stopped; then all of it happens in one transaction that nobody else can write beside.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import orjson
from sqlalchemy.engine import URL

from challenge_engine import audit_queries, rows
from challenge_engine import rebuild_queries as queries
from challenge_engine.audit_reading import stored_challenges
from challenge_engine.auditing import Auditor, Fault, Finding
from challenge_engine.database import DatabaseError
from challenge_engine.snapshots import Progress, Session, session
from challenge_rules import ChallengeState

ROWS_PER_STATEMENT = 500
MAX_DIFFERING = 1_000
"""More rows than this are counted, not named."""


class CannotSwapError(DatabaseError):
    """The rebuilt rows cannot be swapped in; the message says why."""


@dataclass(frozen=True, slots=True)
class Differing:
    """A row that is not what events and trades lead to: which columns, or that one of the two is not there."""

    challenge_id: str
    what: str


@dataclass(slots=True)
class Rebuilt:
    """What a rebuild comes to. `faults` are of the trades and events themselves: of those no state can be made."""

    challenges: int = 0
    archived: int = 0
    differing: list[Differing] = field(default_factory=list)
    differing_count: int = 0
    faults: list[Finding] = field(default_factory=list)
    is_swapped: bool = False

    @property
    def is_equal(self) -> bool:
        """Whether the stored table is what events and trades lead to."""
        return self.differing_count == 0 and not self.faults


def rebuild(url: URL, *, swap: bool, progress: Progress) -> Rebuilt:
    """Rebuild the table and compare; with `swap`, put right what differs.

    Archived challenges are left as they are: their trades are not here. Raises `CannotSwapError` while a server uses
    the database, and when trades or events have faults, which `verify` names.
    """
    rebuilt = Rebuilt()
    with session(url) as connection:
        connection.execute(queries.MAKE_TABLE)
        if swap:
            _require_stopped(connection)
            connection.execute("BEGIN")
            connection.execute(queries.LOCK)
            _require_stopped(connection)
        else:
            connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        _fill(connection, rebuilt, progress)
        _compare(connection, rebuilt)
        if swap and not rebuilt.is_equal:
            if rebuilt.faults:
                raise CannotSwapError(
                    f"{len(rebuilt.faults)} trades or events have faults themselves, so that no state can be made of"
                    " them: run challenge-engine verify"
                )
            triggers = [name for (name,) in connection.execute(queries.TRIGGERS)]
            for name in triggers:
                connection.execute(queries.LET_REST.format(name=name))
            for statement in queries.SWAP:
                connection.execute(statement)
            for name in triggers:
                connection.execute(queries.PUT_IN_FORCE.format(name=name))
            connection.execute("COMMIT")
            rebuilt.is_swapped = True
        else:
            connection.execute("ROLLBACK")
    return rebuilt


def _require_stopped(connection: Session) -> None:
    ((servers,),) = connection.execute(queries.SERVERS).fetchall()
    if servers:
        raise CannotSwapError(f"{servers} sessions of the service use this database: stop every server first")


def _fill(connection: Session, rebuilt: Rebuilt, progress: Progress) -> None:
    ((total, _, _),) = connection.execute(audit_queries.COUNTS).fetchall()
    states = _states(connection, rebuilt, progress, total)
    while batch := list(islice(states, ROWS_PER_STATEMENT)):
        connection.execute(queries.FILL, (orjson.dumps([_row(state) for state in batch]).decode(),))


def _states(connection: Session, rebuilt: Rebuilt, progress: Progress, total: int) -> Iterator[ChallengeState]:
    auditor = Auditor()
    for stored in stored_challenges(connection):
        rebuilt.challenges += 1
        if stored.archive_id is not None:
            rebuilt.archived += 1
            continue
        if not stored.events and stored.row is not None:
            # Nothing accounts for this row; it may be what is left of a challenge whose events are gone.
            rebuilt.faults.append(Finding(Fault.MISSING, stored.challenge_id, 0, "there is no CHALLENGE_CREATED event"))
            continue
        stored.compares_row = False
        audited = auditor.audit(stored)
        rebuilt.faults += audited.findings
        if audited.state is not None:
            yield audited.state
        progress("challenges", rebuilt.challenges, total)


def _row(state: ChallengeState) -> dict[str, Any]:
    row: dict[str, Any] = json.loads(rows.challenge_to_json(state))
    (moved,) = json.loads(rows.challenges_to_json([(state.version, state)]))
    row.update(moved, chain_head=rows.bytea(state.chain_head))
    return row


def _compare(connection: Session, rebuilt: Rebuilt) -> None:
    for challenge_id, stored, made in connection.execute(queries.DIFFERING):
        rebuilt.differing_count += 1
        if len(rebuilt.differing) < MAX_DIFFERING:
            rebuilt.differing.append(Differing(challenge_id, _what_differs(stored, made)))


def _what_differs(stored: dict[str, Any] | None, made: dict[str, Any] | None) -> str:
    if stored is None:
        return "the row is missing"
    if made is None:
        return "nothing accounts for the row"
    names: Sequence[str] = [name for name in stored if stored[name] != made[name]]
    return ", ".join(names) or "the bits of a value"
