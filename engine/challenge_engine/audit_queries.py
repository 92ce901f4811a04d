"""The statements of audits, each with a sentence. All of one audit see the same moment."""

import re

from challenge_engine import queries
from challenge_engine.queries import micros


def _finite(columns: str) -> str:
    """The same columns, but NULL for a moment or day at infinity, which nobody but a tamperer writes."""
    columns, found = re.subn(
        r"\(extract\(epoch FROM (\S+)\) \* 1000000\)::bigint", r"CASE WHEN isfinite(\1) THEN \g<0> END", columns
    )
    if not found:
        raise ValueError("there is no moment in these columns as queries.micros writes one")
    return re.sub(r"(c\.trading_day) - DATE '1970-01-01'", r"CASE WHEN isfinite(\1) THEN \g<0> END", columns)


CHALLENGE_COLUMNS = _finite(queries.CHALLENGE_COLUMNS)
EVENT_COLUMNS = _finite(queries.EVENT_COLUMNS)
TRADE_COLUMNS = _finite(queries.TRADE_COLUMNS)

CHALLENGES = f"""
    SELECT {CHALLENGE_COLUMNS}, c.archive_id::text FROM challenges c {{where}} ORDER BY c.challenge_id
"""
"""Every challenge, or some."""

EVENTS = f"""
    SELECT {EVENT_COLUMNS}, e.chain_hash FROM challenge_events e {{where}}
    ORDER BY e.challenge_id, e.challenge_sequence
"""
"""Their events, also those of challenges that are not there."""

TRADES = f"""
    SELECT {TRADE_COLUMNS}, t.initial_balance::text FROM trades t {{where}} ORDER BY t.challenge_id, t.sequence
"""
"""Their trades, also those of challenges that are not there."""

SOME = "WHERE challenge_id = ANY(%(challenge_ids)s::uuid[])"
"""Narrows the three to some challenges."""

PROVED = "SELECT last_sequence, archive_id::text FROM challenges WHERE challenge_id = %s::uuid"
"""How far a challenge has come, and where its trades are."""

INPUTS = f"""
    SELECT t.trade_id, t.realized_pnl::text, {_finite(micros("t.executed_at"))}, t.symbol,
        {_finite(micros("t.recorded_at"))}
    FROM trades t WHERE t.challenge_id = %s::uuid AND t.sequence BETWEEN 1 AND %s ORDER BY t.sequence
"""
"""What cannot be derived of a challenge's trades."""

COUNTS = """
    SELECT (SELECT count(*) FROM challenges), (SELECT count(*) FROM trades), (SELECT count(*) FROM challenge_events)
"""
"""How much there is, for the progress."""

UNSEALED = """
    SELECT c.challenge_id::text, c.last_sequence FROM challenges c
    WHERE NOT EXISTS (
        SELECT FROM checkpoint_leaves l WHERE (l.challenge_id, l.sequence) = (c.challenge_id, c.last_sequence)
    ) AND NOT EXISTS (
        SELECT FROM seal_outbox o CROSS JOIN unnest(o.challenge_ids) AS w(challenge_id)
        WHERE w.challenge_id = c.challenge_id
    )
    ORDER BY c.challenge_id
"""
"""Chains that are neither sealed as they stand nor wait for it."""

WAITING = "SELECT count(DISTINCT challenge_id) FROM seal_outbox CROSS JOIN unnest(challenge_ids) AS w(challenge_id)"
"""How many chains wait for a seal."""

LEAVES_THAT_DIFFER = """
    SELECT l.leaf_index, l.challenge_id::text, l.sequence, c.archive_id::text,
        CASE WHEN l.sequence = 0 THEN e.chain_hash ELSE t.chain_hash END IS NULL
    FROM checkpoint_leaves l
        LEFT JOIN trades t ON (t.challenge_id, t.sequence) = (l.challenge_id, l.sequence)
        LEFT JOIN challenge_events e ON e.challenge_id = l.challenge_id AND e.challenge_sequence = 1 AND l.sequence = 0
        LEFT JOIN challenges c ON c.challenge_id = l.challenge_id
    WHERE l.chain_head IS DISTINCT FROM (CASE WHEN l.sequence = 0 THEN e.chain_hash ELSE t.chain_hash END)
        AND NOT (c.archive_id IS NOT NULL AND l.sequence > 0
            AND (l.sequence < c.last_sequence OR (l.sequence = c.last_sequence AND l.chain_head = c.chain_head)))
    ORDER BY l.leaf_index
"""
"""What was sealed and is not what is stored now. The trades of archived challenges are not here to be compared."""

LINKS = """
    SELECT l.challenge_id::text, l.sequence,
        CASE WHEN l.sequence = 0 THEN e.chain_hash ELSE t.chain_hash END, c.archive_id IS NOT NULL
    FROM unnest(%(challenge_ids)s::uuid[], %(sequences)s::bigint[]) AS l(challenge_id, sequence)
        LEFT JOIN trades t ON (t.challenge_id, t.sequence) = (l.challenge_id, l.sequence)
        LEFT JOIN challenge_events e ON e.challenge_id = l.challenge_id AND e.challenge_sequence = 1 AND l.sequence = 0
        LEFT JOIN challenges c ON c.challenge_id = l.challenge_id
"""
"""The stored links of some sealed places."""

ALL_LEAVES = "SELECT leaf_index, challenge_id::text, sequence, chain_head FROM checkpoint_leaves ORDER BY leaf_index"
"""The whole tree."""

SOME_LEAVES = """
    SELECT leaf_index, challenge_id::text, sequence, chain_head FROM checkpoint_leaves
    WHERE leaf_index BETWEEN %s AND %s ORDER BY leaf_index
"""
"""Some neighbouring leaves, with their numbers."""

LEAVES_OF = "SELECT sequence, chain_head FROM checkpoint_leaves WHERE challenge_id = %s::uuid ORDER BY sequence"
"""Every seal of one challenge."""

ALL_TILES = "SELECT level, tile_index, hash FROM checkpoint_tiles ORDER BY level, tile_index"
"""Every stored subtree."""

ALL_CHECKPOINTS = f"SELECT tree_size, note, {_finite(micros('sealed_at'))} FROM checkpoints ORDER BY tree_size"
"""Every signed checkpoint."""

LARGEST_CHECKPOINT = "SELECT coalesce(max(tree_size), 0) FROM checkpoints"
"""How many leaves are signed."""

CHECKPOINT_OF = "SELECT note FROM checkpoints WHERE tree_size = %s"
"""The checkpoint of so many leaves."""

RESTING_TRIGGERS = """
    SELECT expected.name, expected.trigger FROM (VALUES {triggers}) AS expected(name, trigger)
    WHERE NOT EXISTS (
        SELECT FROM pg_trigger t
        WHERE t.tgrelid = to_regclass(expected.name) AND t.tgname = expected.trigger AND t.tgenabled = 'A'
    ) ORDER BY 1, 2
"""
"""Triggers that should keep history as it is, and are not in force."""

EVENT_LOG_ROWS = "SELECT count(*) FROM event_log"
"""The log has one identity."""

STRAY_WAITING = """
    SELECT o.challenge_id::text, o.challenge_sequence FROM event_outbox o
    WHERE NOT EXISTS (
        SELECT FROM challenge_events e
        WHERE (e.challenge_id, e.challenge_sequence) = (o.challenge_id, o.challenge_sequence)
    ) ORDER BY 1, 2
"""
"""Places in the outbox of events that are not there."""

LOG_GAPS = """
    SELECT position, previous FROM (
        SELECT position, lag(position, 1, 0::bigint) OVER (ORDER BY position) AS previous FROM event_positions
    ) p WHERE position <> previous + 1 ORDER BY position
"""
"""Positions that do not follow on the one before."""

EVENTS_WITHOUT_PLACE = """
    SELECT e.challenge_id::text, e.challenge_sequence FROM challenge_events e
    WHERE NOT EXISTS (
        SELECT FROM event_positions p
        WHERE (p.challenge_id, p.challenge_sequence) = (e.challenge_id, e.challenge_sequence)
    ) AND NOT EXISTS (
        SELECT FROM event_outbox o
        WHERE (o.challenge_id, o.challenge_sequence) = (e.challenge_id, e.challenge_sequence)
    )
    ORDER BY e.challenge_id, e.challenge_sequence
"""
"""Events that neither have a position nor wait for one."""

POSITIONS_THAT_DIFFER = """
    SELECT p.position, p.challenge_id::text, p.challenge_sequence, e.challenge_id IS NULL
    FROM event_positions p LEFT JOIN challenge_events e USING (challenge_id, challenge_sequence)
    WHERE e.challenge_id IS NULL OR e.new_status <> p.new_status
    ORDER BY p.position
"""
"""Positions of no event, or that name another status than their event."""

POSITIONS_OUT_OF_ORDER = """
    SELECT position, challenge_id::text, challenge_sequence FROM (
        SELECT position, challenge_id, challenge_sequence,
            lag(challenge_sequence) OVER (PARTITION BY challenge_id ORDER BY position) AS before
        FROM event_positions
    ) p WHERE before >= challenge_sequence ORDER BY position
"""
"""Events of one challenge whose places are not in their order."""

MISSING_PRIVILEGES = """
    SELECT 'SELECT on ' || name
    FROM unnest(ARRAY[
        'challenges', 'trades', 'challenge_events', 'event_positions', 'event_outbox', 'event_log', 'seal_outbox',
        'checkpoint_leaves', 'checkpoint_tiles', 'checkpoints', 'archives'
    ]) AS needed(name)
    WHERE NOT has_table_privilege(name, 'SELECT')
"""
"""What the role of an auditor may not do but has to: it reads everything, and writes nothing."""
