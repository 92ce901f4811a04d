"""For the event stream: events found by their new status, the origin of the log, and how far each relay has come."""

from alembic import op

revision = "0002"
down_revision = "0001"

# Statement by statement, because each begins with the sentence that explains it.
STATEMENTS = (
    # The status an event led to, beside its position, so that a reader of FUNDED events need not look at all others.
    "ALTER TABLE event_positions ADD COLUMN new_status text",
    "ALTER TABLE event_positions DISABLE TRIGGER event_positions_append_only",
    """
    UPDATE event_positions p SET new_status = e.new_status
    FROM challenge_events e
    WHERE (e.challenge_id, e.challenge_sequence) = (p.challenge_id, p.challenge_sequence)
    """,
    "ALTER TABLE event_positions ENABLE TRIGGER event_positions_append_only",
    "ALTER TABLE event_positions ALTER COLUMN new_status SET NOT NULL",
    "CREATE INDEX event_positions_by_status ON event_positions (new_status, position)",
    # Where the log lives: which cluster, database and timeline. Restored or copied it finds itself elsewhere, takes a
    # new identity, and honours no cursor of the old one.
    "ALTER TABLE event_log ADD COLUMN origin text",
    # How far each relay has brought the log to its sink.
    """
    CREATE TABLE event_relays (
        sink text PRIMARY KEY,
        log_id uuid NOT NULL,
        position bigint NOT NULL,
        updated_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT event_relays_position_not_negative CHECK (position >= 0)
    )
    """,
)


def upgrade() -> None:
    """Change the schema."""
    for statement in STATEMENTS:
        op.execute(statement)
