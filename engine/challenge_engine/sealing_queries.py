"""The statements of sealing, each with a sentence."""

NEWEST_CHECKPOINT = "SELECT tree_size, note FROM checkpoints ORDER BY tree_size DESC LIMIT 1"
"""The newest checkpoint, if there is one."""

FIRST_CHECKPOINT_WITH = "SELECT tree_size, note FROM checkpoints WHERE tree_size > %s ORDER BY tree_size LIMIT 1"
"""The checkpoint that sealed a leaf."""

NEWEST_LEAF = """
    SELECT leaf_index, sequence, chain_head FROM checkpoint_leaves
    WHERE challenge_id = %s::uuid ORDER BY sequence DESC LIMIT 1
"""
"""How far a challenge is sealed."""

LOG_ID = "SELECT log_id::text FROM event_log"
"""What the first checkpoint names the tree after."""

WAITING_TO_SEAL = """
    SELECT w.outbox_ids, c.challenge_id::text, c.last_sequence, c.chain_head,
        EXISTS (
            SELECT FROM checkpoint_leaves l WHERE (l.challenge_id, l.sequence) = (c.challenge_id, c.last_sequence)
        )
    FROM (
        SELECT challenge_id, array_agg(outbox_id) AS outbox_ids, min(outbox_id) AS first
        FROM (SELECT outbox_id, challenge_id FROM seal_outbox ORDER BY outbox_id LIMIT %s) o
        GROUP BY challenge_id
    ) w LEFT JOIN challenges c ON c.challenge_id = w.challenge_id
    ORDER BY w.first
"""
"""The chains that moved since they were last sealed, as they are now, in the order in which they began to wait.

Of one challenge there may be several rows, and of one that was removed by force no state.
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
    DELETE FROM seal_outbox WHERE outbox_id IN (
        SELECT o.outbox_id FROM (SELECT * FROM seal_outbox ORDER BY outbox_id LIMIT %s) o
        WHERE EXISTS (
            SELECT FROM seal_outbox later WHERE later.challenge_id = o.challenge_id AND later.outbox_id > o.outbox_id
        )
    )
"""
"""Where nobody seals: of a challenge that waits several times, only the last time counts."""

PREPARED_TO_SEAL = {
    "newest_checkpoint": NEWEST_CHECKPOINT,
    "waiting_to_seal": WAITING_TO_SEAL,
    "insert_leaves": INSERT_LEAVES,
    "insert_tiles": INSERT_TILES,
    "insert_checkpoint": INSERT_CHECKPOINT,
    "delete_sealed": DELETE_SEALED,
}
