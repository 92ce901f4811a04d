"""The first schema: challenges, their trades, their events, and the positions of the events."""

from alembic import op

revision = "0001"
down_revision = None

# Statement by statement, because each begins with the sentence that explains it.
STATEMENTS = (
    # A challenge as it stands now. Terms are fixed at creation; the rest changes with each accepted trade, under a row
    # lock. `version` is 1 + the number of accepted trades. Half of each page is left free, so that the update of a
    # trade finds room beside the row and touches no index.
    """
    CREATE TABLE challenges (
        challenge_id uuid PRIMARY KEY,
        status text NOT NULL DEFAULT 'PENDING',  -- PENDING -> ACTIVE -> FAILED | FUNDED
        status_reason text,                      -- the rule that ended it
        initial_balance numeric(24, 8) NOT NULL,
        max_daily_drawdown_pct numeric(6, 4) NOT NULL,
        max_total_drawdown_pct numeric(6, 4) NOT NULL,
        profit_target_pct numeric(9, 4) NOT NULL,
        currency_code text NOT NULL,
        labels jsonb NOT NULL,
        rules_version integer NOT NULL,
        equity numeric(24, 8) NOT NULL,
        peak_equity numeric(24, 8) NOT NULL,
        daily_start_equity numeric(24, 8) NOT NULL,
        trading_day date,
        last_sequence bigint NOT NULL DEFAULT 0,
        version bigint NOT NULL GENERATED ALWAYS AS (last_sequence + 1) STORED,
        event_count bigint NOT NULL DEFAULT 1,
        created_at timestamptz NOT NULL,
        activated_at timestamptz,
        closed_at timestamptz,
        last_executed_at timestamptz,
        CONSTRAINT challenges_status_known CHECK (status IN ('PENDING', 'ACTIVE', 'FAILED', 'FUNDED')),
        CONSTRAINT challenges_reason_fits_status CHECK (
            CASE status
                WHEN 'FAILED' THEN coalesce(status_reason IN ('MAX_DAILY_DRAWDOWN', 'MAX_TOTAL_DRAWDOWN'), false)
                WHEN 'FUNDED' THEN coalesce(status_reason = 'PROFIT_TARGET', false)
                ELSE status_reason IS NULL
            END),
        CONSTRAINT challenges_closed_when_terminal CHECK ((status IN ('FAILED', 'FUNDED')) = (closed_at IS NOT NULL)),
        CONSTRAINT challenges_closed_by_last_trade CHECK (closed_at = last_executed_at),
        CONSTRAINT challenges_active_after_first_trade CHECK (
            (status = 'PENDING') = (last_sequence = 0)
            AND (last_sequence = 0) = (activated_at IS NULL)
            AND (last_sequence = 0) = (last_executed_at IS NULL)
            AND (last_sequence = 0) = (trading_day IS NULL)),
        CONSTRAINT challenges_initial_balance_minimum CHECK (initial_balance >= 0.01),
        CONSTRAINT challenges_equity_not_negative CHECK (equity >= 0),
        CONSTRAINT challenges_peak_is_highest CHECK (
            peak_equity >= equity AND peak_equity >= initial_balance AND peak_equity >= daily_start_equity),
        CONSTRAINT challenges_daily_start_positive CHECK (daily_start_equity > 0),
        CONSTRAINT challenges_limits_in_range CHECK (
            max_daily_drawdown_pct > 0 AND max_daily_drawdown_pct < 100
            AND max_total_drawdown_pct > 0 AND max_total_drawdown_pct < 100
            AND profit_target_pct > 0 AND profit_target_pct <= 10000),
        CONSTRAINT challenges_sequences_not_negative CHECK (last_sequence >= 0 AND event_count >= 1)
    ) WITH (fillfactor = 50)
    """,
    "CREATE INDEX challenges_by_creation ON challenges (created_at, challenge_id)",
    "CREATE INDEX challenges_by_status ON challenges (status, created_at, challenge_id)",
    "CREATE INDEX challenges_by_closing ON challenges (closed_at) WHERE closed_at IS NOT NULL",
    "CREATE INDEX challenges_by_label ON challenges USING gin (labels jsonb_path_ops)",
    # Accepted trades with the figures after each. The evidence is not stored: it follows from these figures and the
    # challenge's limits by the rules of its version. `initial_balance` repeats the challenge's, so that the running
    # sum an auditor pastes needs no join.
    """
    CREATE TABLE trades (
        challenge_id uuid NOT NULL REFERENCES challenges,
        sequence bigint NOT NULL,
        trade_id text NOT NULL,
        realized_pnl numeric(24, 8) NOT NULL,
        executed_at timestamptz NOT NULL,
        symbol text NOT NULL,
        initial_balance numeric(24, 8) NOT NULL,
        equity numeric(24, 8) NOT NULL,
        peak_equity numeric(24, 8) NOT NULL,
        daily_start_equity numeric(24, 8) NOT NULL,
        previous_status text NOT NULL,
        status text NOT NULL,
        reason text,
        recorded_at timestamptz NOT NULL,
        PRIMARY KEY (challenge_id, sequence),
        CONSTRAINT trades_trade_id_unique UNIQUE (challenge_id, trade_id),
        CONSTRAINT trades_sequence_from_one CHECK (sequence >= 1),
        CONSTRAINT trades_status_change_allowed CHECK (
            previous_status IN ('PENDING', 'ACTIVE') AND status IN ('ACTIVE', 'FAILED', 'FUNDED')
            AND (previous_status = 'PENDING') = (sequence = 1)),
        CONSTRAINT trades_reason_fits_status CHECK (
            CASE status
                WHEN 'FAILED' THEN coalesce(reason IN ('MAX_DAILY_DRAWDOWN', 'MAX_TOTAL_DRAWDOWN'), false)
                WHEN 'FUNDED' THEN coalesce(reason = 'PROFIT_TARGET', false)
                ELSE reason IS NULL
            END),
        CONSTRAINT trades_figures_in_order CHECK (equity >= 0 AND peak_equity >= equity AND daily_start_equity > 0)
    )
    """,
    # What happened to each challenge, numbered per challenge, written in the transaction of its cause. `terms` holds
    # what CHALLENGE_CREATED needs to make the challenge again.
    """
    CREATE TABLE challenge_events (
        challenge_id uuid NOT NULL REFERENCES challenges,
        challenge_sequence bigint NOT NULL,
        event_type text NOT NULL,
        old_status text,
        new_status text NOT NULL,
        reason text,
        trade_id text,
        trade_sequence bigint,
        equity numeric(24, 8) NOT NULL,
        evaluations jsonb NOT NULL,
        terms jsonb,
        occurred_at timestamptz NOT NULL,
        recorded_at timestamptz NOT NULL,
        PRIMARY KEY (challenge_id, challenge_sequence),
        CONSTRAINT challenge_events_shape CHECK (
            CASE event_type
                WHEN 'CHALLENGE_CREATED' THEN
                    challenge_sequence = 1 AND old_status IS NULL AND new_status = 'PENDING'
                    AND trade_sequence IS NULL AND trade_id IS NULL AND terms IS NOT NULL
                WHEN 'CHALLENGE_STATUS_CHANGED' THEN
                    challenge_sequence > 1 AND terms IS NULL
                    AND trade_sequence IS NOT NULL AND trade_id IS NOT NULL
                    AND coalesce(
                        (old_status = 'PENDING' AND new_status = 'ACTIVE' AND reason IS NULL)
                        OR (old_status = 'ACTIVE' AND new_status = 'FAILED'
                            AND reason IN ('MAX_DAILY_DRAWDOWN', 'MAX_TOTAL_DRAWDOWN'))
                        OR (old_status = 'ACTIVE' AND new_status = 'FUNDED' AND reason = 'PROFIT_TARGET'), false)
                ELSE false
            END)
    )
    """,
    # The place of each event in the log of all challenges: 1, 2, 3 ... without gaps, given after the event's
    # transaction has committed, so that a reader who has seen position n has seen everything before it.
    """
    CREATE TABLE event_positions (
        position bigint PRIMARY KEY,
        challenge_id uuid NOT NULL,
        challenge_sequence bigint NOT NULL,
        CONSTRAINT event_positions_event_unique UNIQUE (challenge_id, challenge_sequence),
        FOREIGN KEY (challenge_id, challenge_sequence) REFERENCES challenge_events,
        CONSTRAINT event_positions_from_one CHECK (position >= 1)
    )
    """,
    # Events that wait for their position. A row comes with its event's transaction and goes when the position is given.
    """
    CREATE TABLE event_outbox (
        outbox_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        challenge_id uuid NOT NULL,
        challenge_sequence bigint NOT NULL
    )
    """,
    # The identity of this log, one row: cursors of another log are refused. Its row lock admits one giver of positions.
    """
    CREATE TABLE event_log (
        only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
        log_id uuid NOT NULL DEFAULT gen_random_uuid()
    )
    """,
    "INSERT INTO event_log DEFAULT VALUES",
    # Refuses what a trigger names: the history is append-only, and a verdict is never reversed.
    """
    CREATE FUNCTION challenge_engine_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION '% on % is refused: %', TG_OP, TG_TABLE_NAME, TG_ARGV[0] USING ERRCODE = 'restrict_violation';
    END
    $$
    """,
    """
    CREATE TRIGGER challenges_terminal_is_final BEFORE UPDATE ON challenges FOR EACH ROW
        WHEN (OLD.status IN ('FAILED', 'FUNDED'))
        EXECUTE FUNCTION challenge_engine_refuse('a challenge that has FAILED or is FUNDED never changes')
    """,
    """
    CREATE TRIGGER challenges_steps_allowed BEFORE UPDATE ON challenges FOR EACH ROW
        WHEN (NOT (OLD.status = NEW.status OR (OLD.status = 'PENDING' AND NEW.status <> 'PENDING')
            OR (OLD.status = 'ACTIVE' AND NEW.status IN ('FAILED', 'FUNDED'))))
        EXECUTE FUNCTION challenge_engine_refuse('the status only goes PENDING, ACTIVE, FAILED or FUNDED')
    """,
    """
    CREATE TRIGGER challenges_terms_are_fixed BEFORE UPDATE ON challenges FOR EACH ROW
        WHEN ((OLD.challenge_id, OLD.initial_balance, OLD.max_daily_drawdown_pct, OLD.max_total_drawdown_pct,
               OLD.profit_target_pct, OLD.currency_code, OLD.labels, OLD.rules_version, OLD.created_at)
              IS DISTINCT FROM
              (NEW.challenge_id, NEW.initial_balance, NEW.max_daily_drawdown_pct, NEW.max_total_drawdown_pct,
               NEW.profit_target_pct, NEW.currency_code, NEW.labels, NEW.rules_version, NEW.created_at))
        EXECUTE FUNCTION challenge_engine_refuse('the terms of a challenge are fixed at its creation')
    """,
    """
    CREATE TRIGGER challenges_stay BEFORE DELETE ON challenges FOR EACH ROW
        EXECUTE FUNCTION challenge_engine_refuse('a challenge is never deleted')
    """,
    """
    CREATE TRIGGER challenges_not_emptied BEFORE TRUNCATE ON challenges
        EXECUTE FUNCTION challenge_engine_refuse('a challenge is never deleted')
    """,
    *(
        f"""
        CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE ON {table} FOR EACH ROW
            EXECUTE FUNCTION challenge_engine_refuse('this table is append-only')
        """
        for table in ("trades", "challenge_events", "event_positions")
    ),
    *(
        f"""
        CREATE TRIGGER {table}_not_emptied BEFORE TRUNCATE ON {table}
            EXECUTE FUNCTION challenge_engine_refuse('this table is append-only')
        """
        for table in ("trades", "challenge_events", "event_positions")
    ),
    """
    CREATE TRIGGER event_outbox_not_emptied BEFORE TRUNCATE ON event_outbox
        EXECUTE FUNCTION challenge_engine_refuse('events that wait for their position would lose it')
    """,
)


def upgrade() -> None:
    """Make the schema."""
    for statement in STATEMENTS:
        op.execute(statement)
