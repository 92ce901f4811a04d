"""The statements of export and import, each with a sentence. Rows travel as the JSON that PostgreSQL makes of them."""

BOUNDS = """
    SELECT (SELECT log_id::text FROM event_log), (SELECT coalesce(max(position), 0) FROM event_positions),
        (SELECT coalesce(max(tree_size), 0) FROM checkpoints)
"""
"""The log, and how far it goes now."""

NEXT_CHALLENGES = """
    SELECT c.challenge_id::text, c.last_sequence FROM challenges c
    WHERE %(after)s::uuid IS NULL OR c.challenge_id > %(after)s::uuid ORDER BY c.challenge_id LIMIT %(limit)s
"""
"""The challenges that follow on one, by id, with the number of their trades."""

OF_CHALLENGES = "WHERE r.challenge_id = ANY(%(challenge_ids)s::uuid[])"

ROWS_OF_CHALLENGES = {
    "challenges": f"SELECT to_jsonb(r)::text FROM challenges r {OF_CHALLENGES} ORDER BY r.challenge_id",
    "challenge_events": (
        f"SELECT to_jsonb(r)::text FROM challenge_events r {OF_CHALLENGES}"
        " ORDER BY r.challenge_id, r.challenge_sequence"
    ),
    "trades": f"SELECT to_jsonb(r)::text FROM trades r {OF_CHALLENGES} ORDER BY r.challenge_id, r.sequence",
}
"""All rows of some challenges, in the order in which they may be inserted."""

ROWS_OF_TREE = {
    "archives": ("archives", "SELECT to_jsonb(r)::text FROM archives r ORDER BY r.archive_id"),
    "positions": (
        "event_positions",
        (
            "SELECT to_jsonb(r)::text FROM event_positions r"
            " WHERE r.position > %(after)s AND r.position <= %(position)s ORDER BY r.position LIMIT %(limit)s"
        ),
    ),
    "leaves": (
        "checkpoint_leaves",
        (
            "SELECT to_jsonb(r)::text FROM checkpoint_leaves r"
            " WHERE r.leaf_index > %(after)s AND r.leaf_index < %(tree_size)s ORDER BY r.leaf_index LIMIT %(limit)s"
        ),
    ),
    "checkpoints": (
        "checkpoints",
        (
            "SELECT to_jsonb(r)::text FROM checkpoints r"
            " WHERE r.tree_size > %(after)s AND r.tree_size <= %(tree_size)s ORDER BY r.tree_size LIMIT %(limit)s"
        ),
    ),
}
"""The other tables: of which one, and their rows after a place."""

INSERT = """
    INSERT INTO {table} ({columns}) SELECT {columns} FROM jsonb_populate_recordset(NULL::{table}, %s::jsonb)
"""
"""Stores rows as they were exported."""

INSERT_ONCE = f"{INSERT} ON CONFLICT DO NOTHING"
"""The same for rows that an export may hold twice."""

COLUMNS = """
    SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute
    WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = ''
"""
"""The columns of a table that can be written."""

IS_EMPTY = "SELECT NOT EXISTS (SELECT FROM challenges) AND NOT EXISTS (SELECT FROM event_positions)"
"""Whether nothing has been recorded yet."""

IMPORTED = "SELECT chunk, encode(sha256, 'hex') FROM imported_chunks"
"""Which chunks of which digest are here already."""

RECORD_CHUNK = "INSERT INTO imported_chunks (chunk, sha256) VALUES (%s, decode(%s, 'hex'))"
"""Notes a chunk in the transaction that stores its rows."""

LOCK_IMPORT = "SELECT pg_advisory_xact_lock(hashtext('challenge-engine import'))"
"""Lets one import work at a time."""

QUEUE_EVENTS = """
    INSERT INTO event_outbox (challenge_id, challenge_sequence)
    SELECT e.challenge_id, e.challenge_sequence FROM challenge_events e
    WHERE NOT EXISTS (
        SELECT FROM event_positions p
        WHERE (p.challenge_id, p.challenge_sequence) = (e.challenge_id, e.challenge_sequence)
    ) ORDER BY e.recorded_at, e.challenge_id, e.challenge_sequence
"""
"""Events that came too late for a position in the export get one here."""

QUEUE_CHAINS = """
    INSERT INTO seal_outbox (challenge_ids)
    SELECT array_agg(challenge_id ORDER BY challenge_id) FROM (
        SELECT c.challenge_id, (row_number() OVER (ORDER BY c.challenge_id) - 1) / 256 AS piece FROM challenges c
        WHERE NOT EXISTS (
            SELECT FROM checkpoint_leaves l WHERE (l.challenge_id, l.sequence) = (c.challenge_id, c.last_sequence)
        )
    ) numbered GROUP BY piece ORDER BY piece
"""
"""Chains that moved after the last exported checkpoint are sealed here."""

INSERT_TILES = """
    INSERT INTO checkpoint_tiles (level, tile_index, hash)
    SELECT level, tile_index, hash FROM jsonb_to_recordset(%s::jsonb) AS r(level integer, tile_index bigint, hash bytea)
"""
"""Stores the subtrees of the imported leaves."""
