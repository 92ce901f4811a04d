"""For proofs: hash chains, checkpoints, archives, and triggers that a replica's session does not bypass."""

from alembic import op

from challenge_engine.migrations.chaining import chain_everything

revision = "0003"
down_revision = "0002"

HASH = "bytea NOT NULL CHECK (octet_length({}) = 32)"

# Each table that only grows, and what is said to who changes it.
APPEND_ONLY = ("trades", "challenge_events", "event_positions")
NEW_APPEND_ONLY = ("checkpoint_leaves", "checkpoint_tiles", "checkpoints", "archives")
TRIGGERS = {
    "challenges": (
        "challenges_terminal_is_final",
        "challenges_steps_allowed",
        "challenges_terms_are_fixed",
        "challenges_stay",
        "challenges_not_emptied",
    ),
    **{table: (f"{table}_append_only", f"{table}_not_emptied") for table in APPEND_ONLY},
    "event_outbox": ("event_outbox_not_emptied",),
}

COLUMNS = (
    # The newest link of each challenge's hash chain, the link that each trade made, and the one of each creation.
    "ALTER TABLE challenges ADD COLUMN chain_head bytea",
    "ALTER TABLE trades ADD COLUMN chain_hash bytea",
    "ALTER TABLE challenge_events ADD COLUMN chain_hash bytea",
)

STATEMENTS = (
    "ALTER TABLE challenges ALTER COLUMN chain_head SET NOT NULL",
    "ALTER TABLE challenges ADD CONSTRAINT challenges_chain_head_is_sha256 CHECK (octet_length(chain_head) = 32)",
    "ALTER TABLE trades ALTER COLUMN chain_hash SET NOT NULL",
    "ALTER TABLE trades ADD CONSTRAINT trades_chain_hash_is_sha256 CHECK (octet_length(chain_hash) = 32)",
    """
    ALTER TABLE challenge_events ADD CONSTRAINT challenge_events_creation_is_chained CHECK (
        CASE event_type WHEN 'CHALLENGE_CREATED' THEN coalesce(octet_length(chain_hash) = 32, false)
            ELSE chain_hash IS NULL END)
    """,
    # Chains that moved and wait to be sealed: a row for each transaction, with all that it moved. They stay in the row,
    # which is not worth a table of its own for long values.
    """
    CREATE TABLE seal_outbox (
        outbox_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        challenge_ids uuid[] NOT NULL
            CHECK (cardinality(challenge_ids) BETWEEN 1 AND 256 AND array_position(challenge_ids, NULL) IS NULL)
    )
    """,
    "ALTER TABLE seal_outbox ALTER COLUMN challenge_ids SET STORAGE PLAIN",
    """
    INSERT INTO seal_outbox (challenge_ids)
    SELECT array_agg(challenge_id ORDER BY created_at, challenge_id) FROM (
        SELECT challenge_id, created_at, (row_number() OVER (ORDER BY created_at, challenge_id) - 1) / 256 AS piece
        FROM challenges
    ) numbered GROUP BY piece ORDER BY piece
    """,
    # The leaves of the one Merkle tree (RFC 6962): the chains that moved, with their heads, in the order of sealing.
    f"""
    CREATE TABLE checkpoint_leaves (
        leaf_index bigint PRIMARY KEY CHECK (leaf_index >= 0),
        challenge_id uuid NOT NULL,
        sequence bigint NOT NULL CHECK (sequence >= 0),
        chain_head {HASH.format("chain_head")},
        CONSTRAINT checkpoint_leaves_once UNIQUE (challenge_id, sequence)
    )
    """,
    # Hashes of complete subtrees of 256, 65536, ... leaves, so that a proof reads a few rows and not the whole tree.
    f"""
    CREATE TABLE checkpoint_tiles (
        level integer NOT NULL CHECK (level > 0 AND level % 8 = 0),
        tile_index bigint NOT NULL CHECK (tile_index >= 0),
        hash {HASH.format("hash")},
        PRIMARY KEY (level, tile_index)
    )
    """,
    # The signed checkpoints: a signed note on the root of the tree of so many leaves.
    """
    CREATE TABLE checkpoints (
        tree_size bigint PRIMARY KEY CHECK (tree_size > 0),
        note text NOT NULL,
        sealed_at timestamptz NOT NULL
    )
    """,
    # Archives that hold the trades of closed challenges, each with the digest of its file.
    f"""
    CREATE TABLE archives (
        archive_id uuid PRIMARY KEY,
        file_name text NOT NULL,
        sha256 {HASH.format("sha256")},
        challenge_count bigint NOT NULL,
        trade_count bigint NOT NULL,
        note text NOT NULL,
        sealed_at timestamptz NOT NULL
    )
    """,
    "ALTER TABLE challenges ADD COLUMN archive_id uuid REFERENCES archives",
    "CREATE INDEX challenges_by_archive ON challenges (archive_id) WHERE archive_id IS NOT NULL",
    # Which chunks of an export are in this database already.
    f"""
    CREATE TABLE imported_chunks (
        chunk text PRIMARY KEY,
        sha256 {HASH.format("sha256")},
        imported_at timestamptz NOT NULL DEFAULT now()
    )
    """,
    *(
        f"""
        CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE ON {table} FOR EACH ROW
            EXECUTE FUNCTION challenge_engine_refuse('this table is append-only')
        """
        for table in NEW_APPEND_ONLY
    ),
    *(
        f"""
        CREATE TRIGGER {table}_not_emptied BEFORE TRUNCATE ON {table}
            EXECUTE FUNCTION challenge_engine_refuse('this table is append-only')
        """
        for table in NEW_APPEND_ONLY
    ),
    # What has FAILED or is FUNDED never changes, but for the note of the archive that holds its trades.
    "DROP TRIGGER challenges_terminal_is_final ON challenges",
    # A generated column has no value yet before the update.
    """
    CREATE FUNCTION challenge_engine_keep_terminal() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF OLD.archive_id IS NOT DISTINCT FROM NEW.archive_id
            OR (to_jsonb(OLD) - '{archive_id,version}'::text[]) <> (to_jsonb(NEW) - '{archive_id,version}'::text[]) THEN
            RAISE EXCEPTION 'UPDATE on challenges is refused: a challenge that has FAILED or is FUNDED never changes'
                USING ERRCODE = 'restrict_violation';
        END IF;
        RETURN NEW;
    END
    $$
    """,
    """
    CREATE TRIGGER challenges_terminal_is_final BEFORE UPDATE ON challenges FOR EACH ROW
        WHEN (OLD.status IN ('FAILED', 'FUNDED'))
        EXECUTE FUNCTION challenge_engine_keep_terminal()
    """,
    """
    CREATE TRIGGER challenges_archived_once BEFORE UPDATE ON challenges FOR EACH ROW
        WHEN (OLD.archive_id IS DISTINCT FROM NEW.archive_id AND NOT (
            OLD.archive_id IS NULL AND NEW.status IN ('FAILED', 'FUNDED') AND current_user = 'challenge_archiver'))
        EXECUTE FUNCTION challenge_engine_refuse('only the role challenge_archiver archives, once, what has ended')
    """,
    # The trades of a challenge may go once a sealed archive holds them, and by the hand of one role alone.
    """
    CREATE FUNCTION challenge_engine_admit_archiver() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF current_user = 'challenge_archiver' AND EXISTS (
            SELECT FROM challenges c JOIN archives a USING (archive_id) WHERE c.challenge_id = OLD.challenge_id
        ) THEN
            RETURN OLD;
        END IF;
        RAISE EXCEPTION 'DELETE on trades is refused: this table is append-only' USING ERRCODE = 'restrict_violation';
    END
    $$
    """,
    # It looks into these two tables, and not into temporary ones of their names, which the role may have made.
    """
    DO $$ BEGIN
        EXECUTE format(
            'ALTER FUNCTION challenge_engine_admit_archiver() SET search_path = pg_catalog, %I, pg_temp',
            current_schema());
    END $$
    """,
    "DROP TRIGGER trades_append_only ON trades",
    """
    CREATE TRIGGER trades_append_only BEFORE UPDATE ON trades FOR EACH ROW
        EXECUTE FUNCTION challenge_engine_refuse('this table is append-only')
    """,
    """
    CREATE TRIGGER trades_archived_before_deleted BEFORE DELETE ON trades FOR EACH ROW
        EXECUTE FUNCTION challenge_engine_admit_archiver()
    """,
)


def upgrade() -> None:
    """Change the schema, and chain what was recorded before."""
    for statement in COLUMNS:
        op.execute(statement)
    for table in ("challenges", "trades", "challenge_events"):
        op.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER")
    chain_everything(op.get_bind())
    for table in ("challenges", "trades", "challenge_events"):
        op.execute(f"ALTER TABLE {table} ENABLE TRIGGER USER")
    for statement in STATEMENTS:
        op.execute(statement)
    always = TRIGGERS | {table: (f"{table}_append_only", f"{table}_not_emptied") for table in NEW_APPEND_ONLY}
    always["trades"] += ("trades_archived_before_deleted",)
    always["challenges"] += ("challenges_archived_once",)
    for table, triggers in always.items():
        for trigger in triggers:
            op.execute(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {trigger}")
