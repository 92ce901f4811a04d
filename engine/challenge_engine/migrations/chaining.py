"""Chains what was recorded before there were chains. Used by one revision, and frozen with it.

It reads with statements of its own, so that later changes of the service's do not change what it does.
"""

from collections import defaultdict
from collections.abc import Iterator
from itertools import islice
from typing import Any, cast

import psycopg
from sqlalchemy.engine import Connection

from challenge_engine import rows
from challenge_rules.chain import creation_link, trade_link
from challenge_rules.challenge import Decision, Trade
from challenge_rules.events import ChallengeEvent

CHALLENGES_AT_A_TIME = 200
READ_AHEAD = 5_000

MICROS = "(extract(epoch FROM {}) * 1000000)::bigint"
EVENTS = f"""
    SELECT challenge_id::text, challenge_sequence, event_type, old_status, new_status, reason, trade_id,
        trade_sequence, equity::text, evaluations::text, terms::text,
        {MICROS.format("occurred_at")}, {MICROS.format("recorded_at")}
    FROM challenge_events WHERE challenge_id = ANY(%s::uuid[]) ORDER BY challenge_id, challenge_sequence
"""
TRADES = f"""
    SELECT challenge_id::text, sequence, trade_id, realized_pnl::text, {MICROS.format("executed_at")}, symbol,
        equity::text, peak_equity::text, daily_start_equity::text, previous_status, status, reason,
        {MICROS.format("recorded_at")}
    FROM trades WHERE challenge_id = ANY(%s::uuid[]) ORDER BY challenge_id, sequence
"""


def chain_everything(bind: Connection) -> None:
    """Give every creation and trade its link, and every challenge its head, in the transaction of the migration.

    A challenge without its CHALLENGE_CREATED event ends the migration with a `ValueError` that names it.
    """
    connection = cast("psycopg.Connection[Any]", bind.connection.driver_connection)
    with connection.cursor() as cursor:
        cursor.execute("CREATE TEMPORARY TABLE links (challenge_id uuid, sequence bigint, hash bytea) ON COMMIT DROP")
        with connection.cursor("chained_challenges") as challenges:
            challenges.itersize = READ_AHEAD
            challenges.execute("SELECT challenge_id::text FROM challenges ORDER BY challenge_id")
            while ids := [row[0] for row in islice(challenges, CHALLENGES_AT_A_TIME)]:
                links = list(_links(cursor, ids))
                with cursor.copy("COPY links (challenge_id, sequence, hash) FROM STDIN") as copy:
                    for link in links:
                        copy.write_row(link)
        cursor.execute("ANALYZE links")
        cursor.execute(
            "UPDATE trades t SET chain_hash = l.hash FROM links l"
            " WHERE (l.challenge_id, l.sequence) = (t.challenge_id, t.sequence)"
        )
        cursor.execute(
            "UPDATE challenge_events e SET chain_hash = l.hash FROM links l"
            " WHERE l.challenge_id = e.challenge_id AND l.sequence = 0 AND e.event_type = 'CHALLENGE_CREATED'"
        )
        cursor.execute(
            "UPDATE challenges c SET chain_head = l.hash FROM links l"
            " WHERE (l.challenge_id, l.sequence) = (c.challenge_id, c.last_sequence)"
        )


def _links(cursor: "psycopg.Cursor[Any]", challenge_ids: list[str]) -> Iterator[tuple[str, int, bytes]]:
    """The links of some challenges: challenge_id, sequence (0: the creation), hash."""
    events: dict[str, list[ChallengeEvent]] = defaultdict(list)
    for row in cursor.execute(EVENTS, (challenge_ids,)).fetchall():
        events[row[0]].append(rows.event_from_row(row))
    trades: dict[str, list[rows.Row]] = defaultdict(list)
    for row in cursor.execute(TRADES, (challenge_ids,)).fetchall():
        trades[row[0]].append(row)
    for challenge_id in challenge_ids:
        created = next(iter(events[challenge_id]), None)
        if created is None or created.terms is None:
            raise ValueError(f"challenge {challenge_id} has no CHALLENGE_CREATED event, so it cannot be chained")
        link = creation_link(created)
        yield challenge_id, 0, link
        caused: dict[int | None, list[ChallengeEvent]] = defaultdict(list)
        for event in events[challenge_id]:
            caused[event.trade_sequence].append(event)
        event_count = 1
        activated_at = None
        for row in trades[challenge_id]:
            trade, decision = _trade(row)
            activated_at = trade.executed_at if activated_at is None else activated_at
            event_count += len(caused[decision.sequence])
            link = trade_link(
                link,
                created.terms,
                trade,
                decision,
                event_count=event_count,
                activated_at=activated_at,
                events=caused[decision.sequence],
            )
            yield challenge_id, decision.sequence, link


def _trade(row: rows.Row) -> tuple[Trade, Decision]:
    (
        challenge_id, sequence, trade_id, realized_pnl, executed_at, symbol, equity, peak_equity, daily_start_equity,
        previous_status, status, reason, recorded_at,
    ) = row  # fmt: skip
    decision = Decision(
        challenge_id=challenge_id,
        trade_id=trade_id,
        sequence=sequence,
        replayed=False,
        previous_status=rows.status(previous_status),
        status=rows.status(status),
        reason=rows.rule(reason),
        equity=rows.units(equity),
        peak_equity=rows.units(peak_equity),
        daily_start_equity=rows.units(daily_start_equity),
        evaluations=(),
        executed_at=executed_at,
        recorded_at=recorded_at,
    )
    return Trade(trade_id, rows.units(realized_pnl), executed_at, symbol), decision
