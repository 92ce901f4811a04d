"""The statements of a reconciliation, each with a sentence. They read, in one transaction with one snapshot."""

CONFIGURE_SNAPSHOT = """
    SELECT set_config('application_name', 'challenge-engine reconcile', true),
        set_config('lock_timeout', %(lock_timeout)s, true),
        set_config('statement_timeout', %(statement_timeout)s, true),
        set_config('idle_in_transaction_session_timeout', %(idle_in_transaction_session_timeout)s, true),
        set_config('enable_seqscan', 'off', true), set_config('jit', 'off', true)
"""
"""What the transaction is set to, and the moment of its snapshot. Trades are looked up by an index, and the tables are
never read from end to end beside a service at work."""

TRADES_OF_CHALLENGES = """
    SELECT asked.challenge_id::text, c.challenge_id IS NOT NULL, t.sequence, t.trade_id, t.executed_at,
        t.realized_pnl, t.symbol
    FROM unnest(%(challenge_ids)s::uuid[]) WITH ORDINALITY AS asked(challenge_id, number)
        LEFT JOIN LATERAL (
            SELECT challenge_id FROM challenges WHERE challenge_id = asked.challenge_id LIMIT 1
        ) c ON true
        LEFT JOIN LATERAL (
            SELECT sequence, trade_id, (extract(epoch FROM executed_at) * 1000000)::bigint AS executed_at,
                realized_pnl::text AS realized_pnl, symbol
            FROM trades WHERE trades.challenge_id = asked.challenge_id ORDER BY sequence
        ) t ON true
    ORDER BY asked.number, t.sequence
"""
"""The trades of some challenges in the order in which they are asked for, and whether each challenge exists.

There is a row for each challenge that was asked for, one without a trade when it has none. The ORDER BY inside keeps
the planner to one index look-up for each challenge.
"""

ARCHIVED = """
    SELECT challenge_id::text FROM challenges
    WHERE challenge_id = ANY(%(challenge_ids)s::uuid[]) AND archive_id IS NOT NULL ORDER BY challenge_id LIMIT 1
"""
"""The first of some challenges whose trades are in an archive."""

MISSING_PRIVILEGES = """
    SELECT privilege || ' on ' || name
    FROM (VALUES ('challenges', 'SELECT'), ('trades', 'SELECT')) AS needed(name, privilege)
    WHERE NOT has_table_privilege(name, privilege)
"""
"""What the role of a reconciliation may not do but has to: it reads, and an auditor's role may do no more."""
