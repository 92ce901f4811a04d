"""Every statement the service runs, each with a name and a sentence.

Amounts leave the database as the text of numeric(24,8), moments as microseconds since 1970, days as days since 1970:
the exact integers of the rules. Amounts and moments enter as text inside one JSON parameter for each statement, which
was measured at twice the speed of typed array parameters.
"""


def micros(column: str) -> str:
    """A moment as microseconds since 1970."""
    return f"(extract(epoch FROM {column}) * 1000000)::bigint"


def _tenthousandths(column: str) -> str:
    return f"({column} * 10000)::bigint"


CHALLENGE_COLUMNS = f"""
    c.challenge_id::text, c.status, c.status_reason, c.initial_balance::text,
    {_tenthousandths("c.max_daily_drawdown_pct")}, {_tenthousandths("c.max_total_drawdown_pct")},
    {_tenthousandths("c.profit_target_pct")}, c.currency_code, c.labels::text, c.rules_version,
    c.equity::text, c.peak_equity::text, c.daily_start_equity::text, c.trading_day - DATE '1970-01-01',
    c.last_sequence, c.event_count,
    {micros("c.created_at")}, {micros("c.activated_at")}, {micros("c.closed_at")}, {micros("c.last_executed_at")},
    c.chain_head
"""

TRADE_COLUMNS = f"""
    t.challenge_id::text, t.sequence, t.trade_id, t.realized_pnl::text, {micros("t.executed_at")}, t.symbol,
    t.equity::text, t.peak_equity::text, t.daily_start_equity::text,
    t.previous_status, t.status, t.reason, {micros("t.recorded_at")}, t.chain_hash
"""

EVENT_COLUMNS = f"""
    e.challenge_id::text, e.challenge_sequence, e.event_type, e.old_status, e.new_status, e.reason,
    e.trade_id, e.trade_sequence, e.equity::text, e.evaluations::text, e.terms::text,
    {micros("e.occurred_at")}, {micros("e.recorded_at")}
"""

LOCK_CHALLENGES = f"""
    SELECT {CHALLENGE_COLUMNS}, c.archive_id IS NOT NULL FROM challenges c
    WHERE c.challenge_id = ANY(%s::uuid[]) ORDER BY c.challenge_id FOR UPDATE
"""
"""Locks the challenges of a group and reads them, and whether their trades are in an archive.

In challenge_id order, so that two groups never wait in a circle.
"""

FIND_RECORDED_TRADES = f"""
    SELECT {TRADE_COLUMNS}
    FROM jsonb_to_recordset(%s::jsonb) AS asked(challenge_id uuid, trade_id text)
    CROSS JOIN LATERAL (
        SELECT * FROM trades t WHERE t.challenge_id = asked.challenge_id AND t.trade_id = asked.trade_id LIMIT 1
    ) t
"""
"""Finds which of a group's trades were accepted before. The LIMIT keeps the planner to one index look-up for each."""

INSERT_TRADES = """
    INSERT INTO trades (
        challenge_id, sequence, trade_id, realized_pnl, executed_at, symbol, initial_balance,
        equity, peak_equity, daily_start_equity, previous_status, status, reason, recorded_at, chain_hash)
    SELECT challenge_id, sequence, trade_id, realized_pnl, executed_at, symbol, initial_balance,
        equity, peak_equity, daily_start_equity, previous_status, status, reason, recorded_at,
        decode(chain_hash, 'hex')
    FROM jsonb_to_recordset(%s::jsonb) AS r(
        challenge_id uuid, sequence bigint, trade_id text, realized_pnl numeric, executed_at timestamptz, symbol text,
        initial_balance numeric, equity numeric, peak_equity numeric, daily_start_equity numeric,
        previous_status text, status text, reason text, recorded_at timestamptz, chain_hash text)
"""
"""Records the accepted trades of a group."""

UPDATE_CHALLENGES = """
    WITH queued AS (INSERT INTO seal_outbox (challenge_ids) VALUES (%s::uuid[]))
    UPDATE challenges c SET
        status = r.status, status_reason = r.status_reason, equity = r.equity, peak_equity = r.peak_equity,
        daily_start_equity = r.daily_start_equity, trading_day = r.trading_day, last_sequence = r.last_sequence,
        event_count = r.event_count, activated_at = r.activated_at, closed_at = r.closed_at,
        last_executed_at = r.last_executed_at, chain_head = decode(r.chain_head, 'hex')
    FROM jsonb_to_recordset(%s::jsonb) AS r(
        challenge_id uuid, read_version bigint, status text, status_reason text, equity numeric, peak_equity numeric,
        daily_start_equity numeric, trading_day date, last_sequence bigint, event_count bigint,
        activated_at timestamptz, closed_at timestamptz, last_executed_at timestamptz, chain_head text)
    WHERE c.challenge_id = ANY(%s::uuid[]) AND c.challenge_id = r.challenge_id AND c.version = r.read_version
"""
"""Moves the challenges of a group on, each only from the version that was read, and records that they wait for a seal.

The ids are given once more, as an array: by them it enters the index, however small the planner takes the table for.
They are queued whether they move or not; if one does not, nothing of this is committed.
"""

INSERT_EVENTS = """
    WITH recorded AS (
        INSERT INTO challenge_events (
            challenge_id, challenge_sequence, event_type, old_status, new_status, reason, trade_id, trade_sequence,
            equity, evaluations, terms, occurred_at, recorded_at, chain_hash)
        SELECT challenge_id, challenge_sequence, event_type, old_status, new_status, reason, trade_id, trade_sequence,
            equity, evaluations, terms, occurred_at, recorded_at, decode(chain_hash, 'hex')
        FROM jsonb_to_recordset(%s::jsonb) AS r(
            challenge_id uuid, challenge_sequence bigint, event_type text, old_status text, new_status text,
            reason text, trade_id text, trade_sequence bigint, equity numeric, evaluations jsonb, terms jsonb,
            occurred_at timestamptz, recorded_at timestamptz, chain_hash text)
        RETURNING challenge_id, challenge_sequence
    )
    INSERT INTO event_outbox (challenge_id, challenge_sequence)
    SELECT challenge_id, challenge_sequence FROM recorded ORDER BY challenge_id, challenge_sequence
"""
"""Records the events of a transaction, and that they wait for a position."""

BEGIN_AND_READ = "BEGIN; EXECUTE lock_challenges(%s); EXECUTE find_recorded_trades(%s)"
"""Begins the transaction of a group: one message for three statements.

The last takes its snapshot after the one before has its locks, so it sees every trade that earlier holders of the
challenges committed.
"""

WRITE = "EXECUTE insert_trades(%s); EXECUTE update_challenges(%s, %s, %s)"
"""Writes what was decided. The last result counts the challenges that were moved on."""

WRITE_EVENTS_AND = f"EXECUTE insert_events(%s); {WRITE}"
"""The same, when there are events as well."""

LOCK_AND = "BEGIN; EXECUTE lock_challenges(%s); "
"""Goes before either of them when the decision was made on remembered states: then the transaction is one message, and
its COMMIT another. The second result is what the states were in truth."""

CONFIGURE_SESSION = """
    SELECT set_config('application_name', 'challenge-engine', false), set_config('TimeZone', 'UTC', false),
        set_config('lock_timeout', %(lock_timeout)s, false),
        set_config('statement_timeout', %(statement_timeout)s, false),
        set_config('idle_in_transaction_session_timeout', %(idle_in_transaction_session_timeout)s, false),
        set_config('default_transaction_isolation', 'read committed', false),
        set_config('enable_seqscan', 'off', false), set_config('jit', 'off', false)
"""
"""What every session of the service is set to.

Each statement looks rows up by an index. Without this a plan made while a table was small, or on old statistics, may
scan it for as long as the plan lives; those of foreign keys too, which PostgreSQL keeps in the session.
"""

CONFIGURE_WRITER = "SELECT set_config('plan_cache_mode', 'force_generic_plan', false)"
"""What a session with prepared statements is set to as well: each of them is planned once."""

INSERT_CHALLENGE = """
    WITH made AS (INSERT INTO challenges (
        challenge_id, initial_balance, max_daily_drawdown_pct, max_total_drawdown_pct, profit_target_pct,
        currency_code, labels, rules_version, equity, peak_equity, daily_start_equity, created_at, chain_head)
    SELECT challenge_id, initial_balance, max_daily_drawdown_pct, max_total_drawdown_pct, profit_target_pct,
        currency_code, labels, rules_version, initial_balance, initial_balance, initial_balance, created_at,
        decode(chain_head, 'hex')
    FROM jsonb_to_record(%s::jsonb) AS r(
        challenge_id uuid, initial_balance numeric, max_daily_drawdown_pct numeric, max_total_drawdown_pct numeric,
        profit_target_pct numeric, currency_code text, labels jsonb, rules_version integer, created_at timestamptz,
        chain_head text)
    ON CONFLICT (challenge_id) DO NOTHING
        RETURNING challenge_id
    )
    INSERT INTO seal_outbox (challenge_ids) SELECT ARRAY[challenge_id] FROM made
"""
"""Makes a challenge, unless there is one of that id; waits for another transaction that is just making it."""

GET_CHALLENGE = f"SELECT {CHALLENGE_COLUMNS} FROM challenges c WHERE c.challenge_id = %(challenge_id)s::uuid"
"""Reads one challenge."""

IS_ARCHIVED = "SELECT FROM challenges WHERE challenge_id = %(challenge_id)s::uuid AND archive_id IS NOT NULL"
"""A row when the trades of a challenge are in an archive."""

GET_TRADE = f"""
    SELECT {TRADE_COLUMNS} FROM trades t
    WHERE t.challenge_id = %(challenge_id)s::uuid AND t.sequence BETWEEN %(sequence)s AND %(sequence)s
    ORDER BY t.sequence LIMIT 1
"""
"""Reads one trade by its sequence. As a range in order, it goes by the index of sequences whatever the statistics."""

LIST_CHALLENGES = f"""
    SELECT {CHALLENGE_COLUMNS} FROM challenges c WHERE {{conditions}}
    ORDER BY c.created_at, c.challenge_id LIMIT %(limit)s
"""
"""A page of challenges, oldest first."""

CHALLENGES_AFTER = "(c.created_at, c.challenge_id) > (%(after_created)s::timestamptz, %(after_id)s::uuid)"
CHALLENGES_WITH_STATUS = "c.status = ANY(%(statuses)s)"
CHALLENGES_WITH_LABELS = "c.labels @> %(labels)s::jsonb"
CHALLENGES_CLOSED_FROM = "c.closed_at >= %(closed_from)s::timestamptz"
CHALLENGES_CLOSED_BEFORE = "c.closed_at < %(closed_before)s::timestamptz"

LIST_TRADES = f"""
    SELECT {TRADE_COLUMNS} FROM trades t
    WHERE t.challenge_id = %(challenge_id)s::uuid AND t.sequence BETWEEN %(first)s AND %(last)s
    ORDER BY t.sequence LIMIT %(limit)s
"""
"""A page of one challenge's trades."""

LOG_ORIGIN = """
    (SELECT system_identifier FROM pg_control_system())
    || '/' || (SELECT oid FROM pg_database WHERE datname = current_database())
    || '/' || left(pg_walfile_name(pg_current_wal_lsn()), 8)
"""
"""Names the cluster, the database and the timeline that a log lives in.

A dump or a copy takes neither of the first two along; a cluster restored from its files to a moment, and a standby that
takes over, begin a new timeline.
"""

LOG_END = f"""
    SELECT l.log_id::text, coalesce(p.position, 0),
        e.challenge_id::text, e.challenge_sequence, {micros("e.recorded_at")}
    FROM event_log l
        LEFT JOIN (SELECT * FROM event_positions ORDER BY position DESC LIMIT 1) p ON true
        LEFT JOIN LATERAL (
            SELECT * FROM challenge_events e
            WHERE e.challenge_id = p.challenge_id AND e.challenge_sequence = p.challenge_sequence LIMIT 1
        ) e ON true
    WHERE l.origin = {LOG_ORIGIN}
"""
"""The identity of the log, and its last event. No row when the log has yet to find out that it lives elsewhere now.

Positions are given one transaction after the other, so everything before the last is visible too.
"""

LOG_AT = f"""
    SELECT e.challenge_id::text, e.challenge_sequence, {micros("e.recorded_at")}
    FROM event_positions p JOIN challenge_events e USING (challenge_id, challenge_sequence)
    WHERE p.position = %(position)s
"""
"""The event at a position, as far as a cursor remembers it."""

LIST_EVENTS = f"""
    SELECT p.position, {EVENT_COLUMNS}
    FROM ({{positions}}) p JOIN challenge_events e USING (challenge_id, challenge_sequence)
    ORDER BY p.position LIMIT %(limit)s
"""
"""A page of events by position; which positions, says one of the following."""

EVENTS_BETWEEN = "SELECT * FROM event_positions WHERE position > %(after)s AND position <= %(last)s"
"""Those of all events."""

EVENTS_OF_CHALLENGES = f"{EVENTS_BETWEEN} AND challenge_id = ANY(%(challenge_ids)s::uuid[])"
"""Those of some challenges."""

EVENTS_OF_CHALLENGES_WITH_STATUS = f"{EVENTS_OF_CHALLENGES} AND new_status = ANY(%(new_statuses)s)"
"""Those of some challenges that led to some statuses."""

EVENTS_WITH_STATUS = """
    SELECT found.* FROM unnest(%(new_statuses)s::text[]) AS wanted(status) CROSS JOIN LATERAL (
        SELECT * FROM event_positions
        WHERE (new_status, position) > (wanted.status, %(after)s)
            AND (new_status, position) <= (wanted.status, %(last)s)
        ORDER BY new_status, position LIMIT %(limit)s
    ) found
"""
"""Those that led to some statuses: a page for each. Compared as pairs, so that only their index has them in order."""

OUTBOX_HAS_ROWS = "SELECT EXISTS (SELECT FROM event_outbox)"
"""Whether any event waits for its position."""

LOCK_LOG = "SELECT FROM event_log FOR UPDATE"
"""Admits one giver of positions at a time, until its transaction ends."""

MOVE_LOG = f"""
    UPDATE event_log SET
        origin = {LOG_ORIGIN}, log_id = CASE WHEN origin IS NULL THEN log_id ELSE gen_random_uuid() END
    WHERE origin IS DISTINCT FROM {LOG_ORIGIN}
"""
"""Gives a log that finds itself in another place than before a new identity; a new log takes note of its place."""

NEW_EVENTS = f"""
    SELECT p.position, {EVENT_COLUMNS}
    FROM (SELECT * FROM event_positions WHERE position > %s ORDER BY position LIMIT %s) p
    CROSS JOIN LATERAL (
        SELECT * FROM challenge_events e
        WHERE e.challenge_id = p.challenge_id AND e.challenge_sequence = p.challenge_sequence LIMIT 1
    ) e
    ORDER BY p.position
"""
"""The next events of all, for the one reader of a process that follows the log.

The inner LIMIT keeps the planner to one index look-up for each.
"""

FOLLOW_LOG = "EXECUTE log_end; EXECUTE new_events(%s, %s)"
"""The end of the log and the next events in one message. The second statement may see events beyond that end."""

NOTIFY_CHANNEL = "challenge_events"

ASSIGN_POSITIONS = f"""
    WITH waiting AS (
        DELETE FROM event_outbox
        WHERE outbox_id IN (SELECT outbox_id FROM event_outbox ORDER BY outbox_id LIMIT %s)
        RETURNING outbox_id, challenge_id, challenge_sequence
    ), placed AS (
        INSERT INTO event_positions (position, challenge_id, challenge_sequence, new_status)
        SELECT (SELECT coalesce(max(position), 0) FROM event_positions) + row_number() OVER (ORDER BY w.outbox_id),
            w.challenge_id, w.challenge_sequence,
            (SELECT e.new_status FROM challenge_events e
             WHERE e.challenge_id = w.challenge_id AND e.challenge_sequence = w.challenge_sequence)
        FROM waiting w
        RETURNING position
    )
    SELECT count(*), pg_notify('{NOTIFY_CHANNEL}', max(position)::text) FROM placed HAVING count(*) > 0
"""
"""Gives the next positions to the events that wait, in the order in which they came, and wakes the readers of the log
in every process.

An event's outbox_id is drawn while its challenge is locked, so the events of one challenge keep their order; and one
that committed before another began has the smaller outbox_id, so causes come before their effects.
"""

GIVE_POSITIONS = "BEGIN; EXECUTE lock_log; EXECUTE move_log; EXECUTE assign_positions(%s); COMMIT"
RESULTS_BEFORE_POSITIONS = 3
"""One message, so that no giver of positions can stop in the middle and keep the lock. The lock comes first and in a
statement of its own: the next ones then see all that was placed before."""

PREPARED_TO_WRITE = {
    "lock_challenges": LOCK_CHALLENGES,
    "find_recorded_trades": FIND_RECORDED_TRADES,
    "insert_trades": INSERT_TRADES,
    "update_challenges": UPDATE_CHALLENGES,
    "insert_events": INSERT_EVENTS,
}
PREPARED_TO_GIVE_POSITIONS = {"lock_log": LOCK_LOG, "move_log": MOVE_LOG, "assign_positions": ASSIGN_POSITIONS}
PREPARED_TO_FOLLOW = {"log_end": LOG_END, "new_events": NEW_EVENTS}
PREPARED = PREPARED_TO_WRITE | PREPARED_TO_GIVE_POSITIONS | PREPARED_TO_FOLLOW
"""What connections that do one kind of work prepare once, by name: to plan these anew each time costs as much as they
do."""

IS_WRITABLE = """
    SELECT NOT pg_is_in_recovery() AND current_setting('transaction_read_only') = 'off' FROM event_log
"""
"""Whether this is a database to write to, with the schema in place."""

MISSING_PRIVILEGES = """
    SELECT privilege || ' on ' || name || coalesce(' (' || missing.columns || ')', '')
    FROM (VALUES
        ('challenges', 'SELECT', NULL),
        ('challenges', 'INSERT', ARRAY[
            'challenge_id', 'initial_balance', 'max_daily_drawdown_pct', 'max_total_drawdown_pct', 'profit_target_pct',
            'currency_code', 'labels', 'rules_version', 'equity', 'peak_equity', 'daily_start_equity', 'created_at',
            'chain_head']),
        ('challenges', 'UPDATE', ARRAY[
            'status', 'status_reason', 'equity', 'peak_equity', 'daily_start_equity', 'trading_day', 'last_sequence',
            'event_count', 'activated_at', 'closed_at', 'last_executed_at', 'chain_head']),
        ('trades', 'SELECT', NULL), ('trades', 'INSERT', NULL),
        ('challenge_events', 'SELECT', NULL), ('challenge_events', 'INSERT', NULL),
        ('event_positions', 'SELECT', NULL), ('event_positions', 'INSERT', NULL),
        ('event_outbox', 'SELECT', NULL), ('event_outbox', 'INSERT', NULL), ('event_outbox', 'DELETE', NULL),
        ('event_log', 'SELECT', NULL), ('event_log', 'UPDATE', ARRAY['origin', 'log_id']),
        ('seal_outbox', 'SELECT', NULL), ('seal_outbox', 'INSERT', NULL), ('seal_outbox', 'DELETE', NULL),
        ('checkpoint_leaves', 'SELECT', NULL), ('checkpoint_leaves', 'INSERT', NULL),
        ('checkpoint_tiles', 'SELECT', NULL), ('checkpoint_tiles', 'INSERT', NULL),
        ('checkpoints', 'SELECT', NULL), ('checkpoints', 'INSERT', NULL), ('archives', 'SELECT', NULL),
        ('imported_chunks', 'SELECT', NULL)
    ) AS needed(name, privilege, columns) CROSS JOIN LATERAL (
        SELECT string_agg(c, ', ') AS columns FROM unnest(needed.columns) AS c
        WHERE NOT has_column_privilege(name, c, privilege)
    ) AS missing
    WHERE missing.columns IS NOT NULL OR (needed.columns IS NULL AND NOT has_table_privilege(name, privilege))
"""
"""What the role of the service may not do but has to: it needs no ownership and no more than this.

Of some tables it needs a privilege on some columns alone, so that it can neither change the terms of a challenge nor
say where its trades are archived.
"""

ROLE_THAT_CAN_REWRITE = """
    SELECT current_user FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace
    WHERE pg_class.oid IN ('challenges'::regclass, 'trades'::regclass, 'challenge_events'::regclass)
        AND (pg_has_role(relowner, 'MEMBER') OR pg_has_role(nspowner, 'MEMBER'))
    LIMIT 1
"""
"""The role of the session if it is a superuser, or owns the tables or their schema, by itself or by way of another.

Then no trigger keeps it from changing history.
"""

IMPORT_IS_UNFINISHED = """
    SELECT EXISTS (SELECT FROM imported_chunks) AND NOT EXISTS (SELECT FROM imported_chunks WHERE chunk = 'finish')
"""
"""Whether an import has stored some of an exported log, and not all of it."""

# Whether the schema has ever been made, and its revision. Alembic writes the table.
HAS_REVISION = "SELECT to_regclass('alembic_version') IS NOT NULL"
REVISION = "SELECT version_num FROM alembic_version"

USABLE_CONNECTIONS = """
    SELECT current_setting('max_connections')::integer - current_setting('superuser_reserved_connections')::integer
        - coalesce(current_setting('reserved_connections', true), '0')::integer
"""
"""How many connections ordinary roles may have together; PostgreSQL 15 knows no `reserved_connections`."""
