"""Reads challenges with all their rows, one after the other, in one pass over each table and with flat memory."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

from challenge_engine import audit_queries as queries
from challenge_engine.auditing import StoredChallenge
from challenge_engine.rows import Row
from challenge_engine.snapshots import Session, stream

CHALLENGE_ID = itemgetter(0)


def stored_challenges(
    session: Session, challenge_ids: Sequence[str] | None = None, *, with_trades: bool = True
) -> Iterator[StoredChallenge]:
    """Every challenge that any row names, or some, in the order of their ids.

    `trades` of each is read as it is asked for, so one is to be done with before the next is taken; without them there
    are none.
    """
    where = "" if challenge_ids is None else queries.SOME
    parameters = None if challenge_ids is None else {"challenge_ids": list(challenge_ids)}

    def groups(name: str, query: str) -> "_Groups":
        return _Groups(stream(session, name, query.format(where=where), parameters))

    challenges = groups("audited_challenges", queries.CHALLENGES)
    events = groups("audited_events", queries.EVENTS)
    trades = groups("audited_trades", queries.TRADES) if with_trades else _Groups(iter(()))
    tables = (challenges, events, trades)
    while ids := [table.challenge_id for table in tables if table.challenge_id is not None]:
        challenge_id = min(ids)
        yield StoredChallenge(
            challenge_id,
            row=next(challenges.take(challenge_id), None),
            events=list(events.take(challenge_id)),
            trades=trades.take(challenge_id),
        )
        for table in tables:
            table.leave(challenge_id)


class _Groups:
    """The rows of a table, which come in the order of challenge ids, challenge by challenge."""

    def __init__(self, rows: Iterator[Row]) -> None:
        self._groups = groupby(rows, CHALLENGE_ID)
        self.challenge_id: str | None = None
        self._rows: Iterator[Any] = iter(())
        self._advance()

    def take(self, challenge_id: str) -> Iterator[Row]:
        """The rows of a challenge; none when the next ones are of another."""
        return self._rows if challenge_id == self.challenge_id else iter(())

    def leave(self, challenge_id: str) -> None:
        """Go on to the next challenge, if this was the one at hand."""
        if challenge_id == self.challenge_id:
            self._advance()

    def _advance(self) -> None:
        self.challenge_id, self._rows = next(self._groups, (None, iter(())))
