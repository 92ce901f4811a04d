"""The statements of a rebuild, each with a sentence."""

MAKE_TABLE = "CREATE TEMPORARY TABLE rebuilt (LIKE challenges INCLUDING GENERATED)"
"""The rebuilt rows, for this session alone."""

LOCK = "LOCK TABLE challenges, trades, challenge_events IN SHARE ROW EXCLUSIVE MODE"
"""Keeps everybody else from writing, while others may read."""

SERVERS = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = 'challenge-engine' AND pid <> pg_backend_pid()
"""
"""Sessions of servers. Every server has some as long as it runs."""

FILL = """
    INSERT INTO rebuilt (
        challenge_id, status, status_reason, initial_balance, max_daily_drawdown_pct, max_total_drawdown_pct,
        profit_target_pct, currency_code, labels, rules_version, equity, peak_equity, daily_start_equity, trading_day,
        last_sequence, event_count, created_at, activated_at, closed_at, last_executed_at, chain_head)
    SELECT challenge_id, status, status_reason, initial_balance, max_daily_drawdown_pct, max_total_drawdown_pct,
        profit_target_pct, currency_code, labels, rules_version, equity, peak_equity, daily_start_equity, trading_day,
        last_sequence, event_count, created_at, activated_at, closed_at, last_executed_at, chain_head
    FROM jsonb_populate_recordset(NULL::challenges, %s::jsonb)
"""
"""Stores rebuilt rows."""

DIFFERING = """
    SELECT coalesce(c.challenge_id, r.challenge_id)::text, to_jsonb(c), to_jsonb(r)
    FROM (SELECT * FROM challenges WHERE archive_id IS NULL) c FULL JOIN rebuilt r ON r.challenge_id = c.challenge_id
    WHERE c.challenge_id IS NULL OR r.challenge_id IS NULL OR c.* *<> r.*
    ORDER BY 1
"""
"""Rows that differ, compared as they are stored: by their bits, not by what they are equal to."""

TRIGGERS = "SELECT tgname FROM pg_trigger WHERE tgrelid = 'challenges'::regclass AND tgenabled = 'A'"
"""The triggers of the table that are in force."""

LET_REST = "ALTER TABLE challenges DISABLE TRIGGER {name}"
PUT_IN_FORCE = "ALTER TABLE challenges ENABLE ALWAYS TRIGGER {name}"
"""They rest while rows are put right, which the owner of the table alone can have them do."""

SWAP = (
    """
    UPDATE challenges c SET
        status = r.status, status_reason = r.status_reason, initial_balance = r.initial_balance,
        max_daily_drawdown_pct = r.max_daily_drawdown_pct, max_total_drawdown_pct = r.max_total_drawdown_pct,
        profit_target_pct = r.profit_target_pct, currency_code = r.currency_code, labels = r.labels,
        rules_version = r.rules_version, equity = r.equity, peak_equity = r.peak_equity,
        daily_start_equity = r.daily_start_equity, trading_day = r.trading_day, last_sequence = r.last_sequence,
        event_count = r.event_count, created_at = r.created_at, activated_at = r.activated_at,
        closed_at = r.closed_at, last_executed_at = r.last_executed_at, chain_head = r.chain_head
    FROM rebuilt r WHERE r.challenge_id = c.challenge_id AND c.* *<> r.*
    """,
    """
    INSERT INTO challenges (
        challenge_id, status, status_reason, initial_balance, max_daily_drawdown_pct, max_total_drawdown_pct,
        profit_target_pct, currency_code, labels, rules_version, equity, peak_equity, daily_start_equity, trading_day,
        last_sequence, event_count, created_at, activated_at, closed_at, last_executed_at, chain_head)
    SELECT challenge_id, status, status_reason, initial_balance, max_daily_drawdown_pct, max_total_drawdown_pct,
        profit_target_pct, currency_code, labels, rules_version, equity, peak_equity, daily_start_equity, trading_day,
        last_sequence, event_count, created_at, activated_at, closed_at, last_executed_at, chain_head
    FROM rebuilt r WHERE NOT EXISTS (SELECT FROM challenges c WHERE c.challenge_id = r.challenge_id)
    """,
)
"""Puts right what differs. Nothing is deleted: a row too many is a fault, and then nothing is swapped in."""
