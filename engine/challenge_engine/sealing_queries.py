"""The statements of sealing, each with a sentence."""

from challenge_engine.queries import LOCK_LOG, LOG_ORIGIN, MOVE_LOG

NEWEST_CHECKPOINT = "SELECT tree_size, note FROM checkpoints ORDER BY tree_size DESC LIMIT 1"
"""The newest checkpoint, if there is one."""

FIRST_CHECKPOINT_WITH = "SELECT tree_size, note FROM checkpoints WHERE tree_size > %s ORDER BY tree_size LIMIT 1"
"""The checkpoint that sealed a leaf."""

NEWEST_LEAF = """
    SELECT leaf_index, sequence, chain_head FROM checkpoint_leaves
    WHERE challenge_id = %s::uuid ORDER BY sequence DESC LIMIT 1
"""
"""How far a challenge is sealed."""

LOG_ID = f"SELECT log_id::text FROM event_log WHERE origin = {LOG_ORIGIN}"
"""What checkpoints name the tree after. No row when the log has yet to find out that it lives elsewhere now."""

SETTLE_LOG = f"BEGIN; {LOCK_LOG}; {MOVE_LOG}; COMMIT"
"""Lets it find out."""

WAITING_TO_SEAL = "SELECT outbox_id, challenge_ids::text FROM seal_outbox ORDER BY outbox_id LIMIT %s"
"""The next chains to seal: those that each transaction moved, in the order in which transactions began to write."""

CHAINS = """
    SELECT w.challenge_id::text, c.last_sequence, c.chain_head,
        EXISTS (
            SELECT FROM checkpoint_leaves l WHERE (l.challenge_id, l.sequence) = (c.challenge_id, c.last_sequence)
        )
    FROM unnest(%s::uuid[]) WITH ORDINALITY AS w(challenge_id, place)
        JOIN challenges c ON c.challenge_id = w.challenge_id
    ORDER BY w.place
"""
"""Some chains as they are now, and whether they are sealed so.

One that moves while it waits is sealed once: its later place in the queue then finds it sealed.
"""

LEAVES = """
    SELECT challenge_id::text, sequence, chain_head FROM checkpoint_leaves
    WHERE leaf_index >= %s AND leaf_index < %s ORDER BY leaf_index
"""
"""Some neighbouring leaves of the tree."""

TILES = """
    SELECT hash FROM checkpoint_tiles WHERE level = %s AND tile_index >= %s AND tile_index < %s ORDER BY tile_index
"""
"""Some neighbouring subtrees of one size."""

INSERT_LEAVES = """
    INSERT INTO checkpoint_leaves (leaf_index, challenge_id, sequence, chain_head)
    SELECT leaf_index, challenge_id, sequence, chain_head FROM jsonb_to_recordset(%s::jsonb)
        AS r(leaf_index bigint, challenge_id uuid, sequence bigint, chain_head bytea)
"""
"""Appends leaves. Their numbers are those that follow; another sealer that took them first is a unique violation."""

INSERT_TILES = """
    INSERT INTO checkpoint_tiles (level, tile_index, hash)
    SELECT level, tile_index, hash FROM jsonb_to_recordset(%s::jsonb) AS r(level integer, tile_index bigint, hash bytea)
"""
"""Stores the subtrees that were completed."""

INSERT_CHECKPOINT = "INSERT INTO checkpoints (tree_size, note, sealed_at) VALUES (%s::bigint, %s, %s::timestamptz)"
"""Stores the signed checkpoint."""

DELETE_SEALED = "DELETE FROM seal_outbox WHERE outbox_id = ANY(%s::bigint[])"
"""What has been sealed waits no more."""

SEAL = (
    "BEGIN; EXECUTE insert_leaves(%s); EXECUTE insert_tiles(%s); EXECUTE insert_checkpoint(%s, %s, %s);"
    " EXECUTE delete_sealed(%s); COMMIT"
)
"""One message, so that no sealer can stop in the middle and keep the others waiting."""

FORGET_REPEATED = """
    WITH taken AS (
        DELETE FROM seal_outbox
        WHERE outbox_id IN (SELECT outbox_id FROM seal_outbox ORDER BY outbox_id LIMIT %s)
        RETURNING challenge_ids
    )
    INSERT INTO seal_outbox (challenge_ids)
    SELECT array_agg(challenge_id) FROM (
        SELECT challenge_id, (row_number() OVER () - 1) / 256 AS piece
        FROM (SELECT DISTINCT unnest(challenge_ids) AS challenge_id FROM taken) once
    ) numbered GROUP BY piece
"""
"""Where nobody seals: of a challenge that waits several times, once is enough."""

OUTBOX_ROWS = "SELECT count(*) FROM (SELECT FROM seal_outbox LIMIT %s) o"
"""How many rows wait, as far as that matters."""

PREPARED_TO_SEAL = {
    "newest_checkpoint": NEWEST_CHECKPOINT,
    "waiting_to_seal": WAITING_TO_SEAL,
    "chains": CHAINS,
    "insert_leaves": INSERT_LEAVES,
    "insert_tiles": INSERT_TILES,
    "insert_checkpoint": INSERT_CHECKPOINT,
    "delete_sealed": DELETE_SEALED,
}
