"""The statements of a relay's claim and cursor, each with a sentence. The log itself is read by those of `queries`."""

CONFIGURE_CLAIM = """
    SELECT set_config('application_name', 'challenge-engine relay', false),
        set_config('statement_timeout', %(timeout)s, false), set_config('lock_timeout', %(timeout)s, false),
        set_config('tcp_keepalives_idle', '5', false), set_config('tcp_keepalives_interval', '5', false),
        set_config('tcp_keepalives_count', '3', false)
"""
"""What the session that holds the claim is set to.

By the keep-alives the server learns within 20 s that the machine of a relay is gone, and lets the next one have its
claim; a relay that merely dies lets go at once.
"""

TRY_CLAIM = "SELECT pg_try_advisory_lock(hashtextextended('challenge-engine relay ' || %(sink)s, 0))"
"""Claims a sink for as long as the session lasts, unless another session has it."""

BEGIN_AT_CURSOR = """
    INSERT INTO event_relays AS r (sink, log_id, position) VALUES (%(sink)s, %(log_id)s::uuid, %(position)s)
    ON CONFLICT (sink) DO UPDATE SET updated_at = now()
    RETURNING r.log_id::text, r.position
"""
"""The cursor of a sink, begun at a position when there is none. It writes in any case, so that a relay which could not
store its cursor afterwards sends nothing."""

RESET_CURSOR = """
    INSERT INTO event_relays (sink, log_id, position) VALUES (%(sink)s, %(log_id)s::uuid, %(position)s)
    ON CONFLICT (sink) DO UPDATE SET log_id = excluded.log_id, position = excluded.position, updated_at = now()
"""
"""Sets the cursor of a sink to a position of this log, whatever it was."""

MOVE_CURSOR = """
    UPDATE event_relays SET position = %(to)s, updated_at = now()
    WHERE sink = %(sink)s AND log_id = %(log_id)s::uuid AND position = %(position)s
"""
"""Moves the cursor of a sink from where this relay knows it; no row when somebody else has moved it."""

CURSOR_IS = "SELECT FROM event_relays WHERE sink = %(sink)s AND log_id = %(log_id)s::uuid AND position = %(position)s"
"""A row while the cursor of a sink is where this relay knows it, asked over the session that holds the claim."""

MISSING_PRIVILEGES = """
    SELECT privilege || ' on ' || name
    FROM (VALUES
        ('challenge_events', 'SELECT'), ('event_positions', 'SELECT'), ('event_log', 'SELECT'),
        ('event_relays', 'SELECT'), ('event_relays', 'INSERT'), ('event_relays', 'UPDATE')
    ) AS needed(name, privilege)
    WHERE NOT has_table_privilege(name, privilege)
"""
"""What the role of a relay may not do but has to: it reads the log, and writes nothing but its cursor."""
