"""Fills a migrated database with stored trades, by COPY: many challenges that have lived through the same history.

The pure engine decides the history once, the service's own mapping writes it as rows, and every challenge gets these
rows with an id, a moment of creation and a label of its own: exactly what the service would have stored.
"""

import json
import re
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import psycopg
from psycopg import sql

from challenge_engine import rows
from challenge_rules import (
    ChallengeEngine,
    ChallengeEvent,
    ChallengeRulesEngine,
    ChallengeTerms,
    Limits,
    Outcome,
    RecordedTrade,
    Trade,
)
from challenge_rules.chain import HASH_BYTES, trade_link
from challenge_rules.engine import initial_state
from challenge_rules.money import parse_amount
from challenge_rules.timestamps import from_iso, to_iso

INITIAL_BALANCE = parse_amount("100000")
FIRST_CREATED_AT = from_iso("2024-01-01T00:00:00.000000Z")
CREATION_INTERVAL = 10_000_000
FIRST_EXECUTED_AT = from_iso("2025-01-01T00:00:00.000000Z")
TRADE_INTERVAL = 30 * 60_000_000
"""Ten thousand trades take 208 days, so that trades which follow are not in the future."""
RECORDING_DELAY = 40_000
PNLS = tuple(parse_amount(pnl) for pnl in ("120.5", "-95.25", "61.12345678", "-86.37345678"))
"""They come again and again and sum to nothing: no limit is ever near."""
SYMBOLS = ("EURUSD", "XAUUSD", "US500")
DESKS = 50
TABLES = ("challenges", "trades", "challenge_events", "event_positions")

DEFAULT_BLOCK = 10
"""With 1 the trades of a challenge lie furthest apart, but each round of the load then visits every page of the indexes
for one row: no matter while they fit into memory, a long wait when they do not."""
PIECES_PER_WRITE = 500

_NAMESPACE = uuid.UUID("6f0d8f6e-6c1a-4b57-9a0e-3b1f6d1b7c52")
_MARKED_ID = str(uuid.UUID(int=0))
_MARKED_MOMENT = 0
_MARKED_DESK = "[desk]"
_LINK_MARK = re.compile(r"\[link ([0-9]+)\]")


def challenge_id(number: int) -> str:
    """The id of a challenge, numbered from 0: a UUID of version 7, as the service makes them, but always the same."""
    random_bits = uuid.uuid5(_NAMESPACE, str(number)).int & (1 << 76) - 1
    return str(uuid.UUID(int=_created_at(number) // 1000 << 80 | 0x7 << 76 | random_bits))


def terms(number: int) -> ChallengeTerms:
    """The terms of a challenge."""
    return _terms(challenge_id(number), _created_at(number), _desk(number))


def trade(sequence: int) -> Trade:
    """The trade that every challenge has at a sequence; the one after the last filled is fit to follow."""
    return Trade(
        trade_id=f"ticket-{sequence:08}",
        realized_pnl=PNLS[(sequence - 1) % len(PNLS)],
        executed_at=FIRST_EXECUTED_AT + (sequence - 1) * TRADE_INTERVAL,
        symbol=SYMBOLS[sequence % len(SYMBOLS)],
    )


def fill(
    conninfo: str,
    *,
    challenges: int,
    trades_per_challenge: int,
    first: int = 0,
    block: int = DEFAULT_BLOCK,
    analyze: bool = True,
) -> list[str]:
    """Store `challenges` challenges of so many trades each, and return their ids in order of creation.

    They are ACTIVE, or without trades PENDING, and numbered from `first`, so that a database can be filled in several
    steps; one that is there already is a `psycopg.errors.UniqueViolation`, with nothing stored. Trades are interleaved
    as live traffic leaves them: the first `block` trades of every challenge, then the next `block` of every one.
    `analyze` ends with VACUUM ANALYZE.
    """
    history = _History.decide(trades_per_challenge).marked()
    own = [_Own.of(number, history) for number in range(first, first + challenges)]
    ids = [each.challenge_id for each in own]
    with psycopg.connect(conninfo) as connection:
        if connection.execute("SELECT current_setting('is_superuser')").fetchone() == ("on",):
            # As a replica, PostgreSQL leaves out the check of every foreign key, which the data fits by its making.
            connection.execute("SET LOCAL session_replication_role = replica")
        ((position,),) = connection.execute("SELECT coalesce(max(position), 0) FROM event_positions").fetchall()
        _copy(connection, "challenges", history.challenge, _of_each(own, [history.challenge]))
        for start in range(0, trades_per_challenge, block):
            marked = history.trades[start : start + block]
            _copy(connection, "trades", marked[0], _of_each(own, marked))
        for event in history.events:
            _copy(connection, "challenge_events", event, _of_each(own, [event]))
            positioned = enumerate(ids, start=position + 1)
            rest = [event["challenge_sequence"], event["new_status"]]
            lines = (_line([place, each, *rest]) for place, each in positioned)
            columns = ("position", "challenge_id", "challenge_sequence", "new_status")
            _copy(connection, "event_positions", columns, lines)
            position += challenges
        connection.commit()
        if analyze:
            connection.autocommit = True
            connection.execute(f"VACUUM (ANALYZE) {', '.join(TABLES)}")
    return ids


Row = dict[str, Any]
"""The values of a row by the names of their columns."""


@dataclass(frozen=True, slots=True)
class _History:
    """The rows of one challenge, with marks where those of another differ, and the outcomes they were made of."""

    challenge: Row
    trades: list[Row]
    events: list[Row]
    outcomes: list[tuple[Trade, Outcome]]

    @classmethod
    def decide(cls, trades_per_challenge: int) -> "_History":
        engine = ChallengeEngine()
        marked = _terms(_MARKED_ID, _MARKED_MOMENT, _MARKED_DESK)
        state, created = engine.create(marked)
        created_state = state
        accepted: list[tuple[RecordedTrade, int]] = []
        events: list[ChallengeEvent] = [created]
        outcomes = []
        for sequence in range(1, trades_per_challenge + 1):
            next_trade = trade(sequence)
            outcome = engine.decide(state, next_trade, recorded_at=next_trade.executed_at + RECORDING_DELAY)
            state = outcome.state
            accepted.append(
                (RecordedTrade(next_trade, outcome.decision, outcome.state.chain_head), marked.initial_balance)
            )
            events.extend(outcome.events)
            outcomes.append((next_trade, outcome))
        assert not state.status.is_terminal
        (moved,) = json.loads(rows.challenges_to_json([(state.version, state)]))
        del moved["read_version"]
        return cls(
            challenge=json.loads(rows.challenge_to_json(created_state)) | moved,
            trades=json.loads(rows.trades_to_json(accepted)),
            events=json.loads(rows.events_to_json(events)),
            outcomes=outcomes,
        )

    def marked(self) -> "_History":
        """The same with marks for its links, too, which each challenge has of its own."""
        trades = [row | {"chain_hash": _mark(number)} for number, row in enumerate(self.trades, start=1)]
        events = [row if row["chain_hash"] is None else row | {"chain_hash": _mark(0)} for row in self.events]
        challenge = self.challenge | {"chain_head": _mark(len(trades))}
        return _History(challenge, trades, events, self.outcomes)

    def links(self, number: int) -> bytes:
        """The links of a challenge, one after the other, from that of its creation on."""
        own = terms(number)
        link = initial_state(own).chain_head
        links = [link]
        for next_trade, outcome in self.outcomes:
            assert outcome.state.activated_at is not None
            link = trade_link(
                link,
                own,
                next_trade,
                outcome.decision,
                event_count=outcome.state.event_count,
                activated_at=outcome.state.activated_at,
                events=[replace(event, challenge_id=own.challenge_id) for event in outcome.events],
            )
            links.append(link)
        return b"".join(links)


def _mark(number: int) -> str:
    return f"[link {number}]"


def _created_at(number: int) -> int:
    return FIRST_CREATED_AT + number * CREATION_INTERVAL


def _desk(number: int) -> str:
    return str(number % DESKS)


def _terms(challenge_id: str, created_at: int, desk: str) -> ChallengeTerms:
    return ChallengeTerms(
        challenge_id=challenge_id,
        initial_balance=INITIAL_BALANCE,
        limits=Limits(),
        currency_code="USD",
        labels=(("desk", desk),),
        rules_version=ChallengeRulesEngine().version,
        created_at=created_at,
    )


@dataclass(frozen=True, slots=True)
class _Own:
    """What a challenge does not share with the others, as text, and its links."""

    challenge_id: str
    created_at: str
    desk: str
    links: bytes

    @classmethod
    def of(cls, number: int, history: _History) -> "_Own":
        return cls(challenge_id(number), to_iso(_created_at(number)), _desk(number), history.links(number))

    def link(self, number: int) -> str:
        """A link as the text of a bytea, for COPY."""
        return "\\\\x" + self.links[number * HASH_BYTES : (number + 1) * HASH_BYTES].hex()


def _of_each(own: Iterable[_Own], marked: list[Row]) -> Iterator[str]:
    """The lines of these rows, challenge by challenge, with what is its own in place of the marks."""
    template = "".join(_line(row.values()) for row in marked)
    marked_moment = to_iso(_MARKED_MOMENT)
    pieces = _LINK_MARK.split(template)
    for each in own:
        # Every other piece is the number of a link.
        text = "".join(each.link(int(piece)) if odd % 2 else piece for odd, piece in enumerate(pieces))
        yield (
            text.replace(_MARKED_ID, each.challenge_id)
            .replace(marked_moment, each.created_at)
            .replace(_MARKED_DESK, each.desk)
        )


def _copy(connection: psycopg.Connection, table: str, columns: Iterable[str], lines: Iterator[str]) -> None:
    names = sql.SQL(", ").join(map(sql.Identifier, columns))
    with connection.cursor().copy(sql.SQL("COPY {} ({}) FROM STDIN").format(sql.Identifier(table), names)) as copy:
        while piece := "".join(islice(lines, PIECES_PER_WRITE)):
            copy.write(piece)


def _line(values: Iterable[object]) -> str:
    """A line of COPY's text format."""
    return "\t".join(map(_field, values)) + "\n"


def _field(value: object) -> str:
    if value is None:
        return r"\N"
    text = value if isinstance(value, str) else json.dumps(value)
    return text.replace("\\", r"\\").replace("\t", r"\t").replace("\n", r"\n")
