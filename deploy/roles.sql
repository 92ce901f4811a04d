-- Makes the roles of the service's database, and grants each what it needs and no more. docs/roles.md explains them.
--
--     psql -X -d postgresql://postgres@db:5432/challenge -f deploy/roles.sql
--
-- Run it as a superuser, or as the owner of the database with CREATEROLE: once before the first `challenge-engine migrate`,
-- and again after every one, also beside a running service. Either all of it happens or nothing. What it finds it takes
-- over: tables get the owner, and the four roles below lose every other privilege on them. Other roles keep theirs.
--
-- Names: -v owner=NAME, -v service=NAME, -v relay=NAME, -v auditor=NAME; `challenge_archiver` has no other, as triggers
-- know it by that. Passwords come from the environment: CHALLENGE_OWNER_PASSWORD, CHALLENGE_SERVICE_PASSWORD,
-- CHALLENGE_RELAY_PASSWORD, CHALLENGE_AUDITOR_PASSWORD. A role without one there keeps what it has, and a new one has none;
-- psql's \password sets one that the server's log cannot show. PostgreSQL and psql 15 or newer.

\set ON_ERROR_STOP on
\set QUIET on
\if :{?owner} \else \set owner challenge_owner \endif
\if :{?service} \else \set service challenge_service \endif
\if :{?relay} \else \set relay challenge_relay \endif
\if :{?auditor} \else \set auditor challenge_auditor \endif
\set owner_password ''
\set service_password ''
\set relay_password ''
\set auditor_password ''
\getenv owner_password CHALLENGE_OWNER_PASSWORD
\getenv service_password CHALLENGE_SERVICE_PASSWORD
\getenv relay_password CHALLENGE_RELAY_PASSWORD
\getenv auditor_password CHALLENGE_AUDITOR_PASSWORD

SELECT
    '{challenges, trades, challenge_events, event_positions,
      checkpoint_leaves, checkpoint_tiles, checkpoints, archives}'::text[] AS history,
    '{event_outbox, event_log, event_relays, seal_outbox, imported_chunks, alembic_version}'::text[] AS others
\gset

BEGIN;
SET LOCAL client_min_messages = warning;

-- Neither a migration nor another run of this comes in between.
DO $$ BEGIN PERFORM pg_advisory_xact_lock(hashtext('challenge-engine migrate')); END $$;

SELECT format('CREATE ROLE %I %s', role, login)
FROM (VALUES
    (:'owner', 'LOGIN'), (:'service', 'LOGIN'), (:'relay', 'LOGIN'), (:'auditor', 'LOGIN'),
    ('challenge_archiver', 'NOLOGIN')
) AS wanted(role, login)
WHERE to_regrole(quote_ident(role)) IS NULL
\gexec

SELECT format('ALTER ROLE %I PASSWORD %L', role, password)
FROM (VALUES
    (:'owner', :'owner_password'), (:'service', :'service_password'),
    (:'relay', :'relay_password'), (:'auditor', :'auditor_password')
) AS given(role, password)
WHERE password <> ''
\gexec

-- Who is no superuser has to be a member of the owner to give it anything.
SELECT format('GRANT %I TO CURRENT_USER', :'owner')
FROM pg_roles WHERE rolname = current_user AND NOT rolsuper AND rolname <> :'owner'
\gexec

-- The owner makes tables, and temporary ones while it migrates; auditors make a temporary one to compare with, by
-- `challenge-engine rebuild`. Nobody else makes any, because a temporary table comes before another of its name.
REVOKE ALL ON DATABASE :"DBNAME" FROM :"service", :"relay", :"auditor", challenge_archiver;
REVOKE TEMPORARY ON DATABASE :"DBNAME" FROM PUBLIC;
GRANT CONNECT, TEMPORARY ON DATABASE :"DBNAME" TO :"owner", :"auditor";
GRANT CONNECT ON DATABASE :"DBNAME" TO :"service", :"relay", challenge_archiver;
SELECT format('ALTER SCHEMA public OWNER TO %I', :'owner')
FROM pg_namespace WHERE nspname = 'public' AND pg_get_userbyid(nspowner) <> :'owner'
\gexec
REVOKE CREATE ON SCHEMA public FROM PUBLIC, :"service", :"relay", :"auditor", challenge_archiver;
GRANT USAGE ON SCHEMA public TO :"service", :"relay", :"auditor", challenge_archiver;

-- What was made by another role, such as one that both migrated and served, becomes the owner's. Functions too: whoever
-- owns the one that a trigger calls can put another into its place.
SELECT format('ALTER TABLE public.%I OWNER TO %I', relname, :'owner')
FROM pg_class
WHERE relnamespace = 'public'::regnamespace AND relname = ANY(:'history'::text[] || :'others'::text[])
    AND pg_get_userbyid(relowner) <> :'owner'
\gexec
SELECT format('ALTER FUNCTION %s OWNER TO %I', oid::regprocedure, :'owner')
FROM pg_proc
WHERE pronamespace = 'public'::regnamespace AND proname LIKE 'challenge\_engine\_%'
    AND pg_get_userbyid(proowner) <> :'owner'
\gexec

SELECT format(
    'REVOKE ALL ON public.%I FROM PUBLIC, %I, %I, %I, challenge_archiver', name, :'service', :'relay', :'auditor')
FROM unnest(:'history'::text[] || :'others'::text[]) AS name WHERE to_regclass('public.' || name) IS NOT NULL
\gexec

-- Auditors read everything; who archives reads as much, to know what is archived.
SELECT format('GRANT SELECT ON public.%I TO %I, challenge_archiver', name, :'auditor')
FROM unnest(:'history'::text[] || :'others'::text[]) AS name WHERE to_regclass('public.' || name) IS NOT NULL
\gexec

-- The service makes challenges that are PENDING, moves them on, and appends. The terms of a challenge, and where its trades
-- are archived, are columns that it cannot update.
SELECT format('GRANT %s ON public.%I TO %I', privileges, name, role)
FROM (VALUES
    (:'service', 'alembic_version', 'SELECT'),
    (:'service', 'challenges',
        'SELECT,
        INSERT (challenge_id, initial_balance, max_daily_drawdown_pct, max_total_drawdown_pct, profit_target_pct,
            currency_code, labels, rules_version, equity, peak_equity, daily_start_equity, created_at, chain_head),
        UPDATE (status, status_reason, equity, peak_equity, daily_start_equity, trading_day, last_sequence,
            event_count, activated_at, closed_at, last_executed_at, chain_head)'),
    (:'service', 'trades', 'SELECT, INSERT'),
    (:'service', 'challenge_events', 'SELECT, INSERT'),
    (:'service', 'event_positions', 'SELECT, INSERT'),
    (:'service', 'event_outbox', 'SELECT, INSERT, DELETE'),
    (:'service', 'event_log', 'SELECT, UPDATE (origin, log_id)'),
    (:'service', 'seal_outbox', 'SELECT, INSERT, DELETE'),
    (:'service', 'checkpoint_leaves', 'SELECT, INSERT'),
    (:'service', 'checkpoint_tiles', 'SELECT, INSERT'),
    (:'service', 'checkpoints', 'SELECT, INSERT'),
    (:'service', 'archives', 'SELECT'),
    (:'service', 'imported_chunks', 'SELECT'),
    (:'relay', 'alembic_version', 'SELECT'),
    (:'relay', 'challenge_events', 'SELECT'),
    (:'relay', 'event_positions', 'SELECT'),
    (:'relay', 'event_log', 'SELECT'),
    (:'relay', 'event_relays', 'SELECT, INSERT, UPDATE'),
    ('challenge_archiver', 'archives', 'INSERT'),
    ('challenge_archiver', 'challenges', 'UPDATE (archive_id)'),
    ('challenge_archiver', 'trades', 'DELETE')
) AS needed(role, name, privileges)
WHERE to_regclass('public.' || name) IS NOT NULL
\gexec

-- What a role has by its attributes or by way of other roles is not taken away here, so it ends all of this.
WITH role AS (
    SELECT oid, rolname, rolsuper, rolcreaterole FROM pg_roles
    WHERE rolname IN (:'service', :'relay', :'auditor', 'challenge_archiver')
), found(name, why) AS (
    SELECT rolname, 'is a superuser' FROM role WHERE rolsuper
    UNION ALL
    SELECT rolname, 'has CREATEROLE' FROM role WHERE rolcreaterole
    UNION ALL
    SELECT rolname, 'is a member of ' || :'owner' FROM role WHERE pg_has_role(oid, :'owner', 'MEMBER')
    UNION ALL
    SELECT rolname, 'owns the database' FROM role, pg_database
    WHERE datname = current_database() AND pg_has_role(role.oid, datdba, 'MEMBER')
    UNION ALL
    SELECT rolname, 'may change ' || history || ' by way of another role'
    FROM role CROSS JOIN unnest(:'history'::text[]) AS history
    WHERE has_table_privilege(
        oid, to_regclass('public.' || history),
        CASE WHEN rolname = 'challenge_archiver' AND history = 'trades' THEN '' ELSE 'DELETE, ' END
            || 'UPDATE, TRUNCATE, TRIGGER')
)
SELECT format('DO $do$ BEGIN RAISE EXCEPTION USING MESSAGE = %L; END $do$', string_agg(name || ' ' || why, '; '))
FROM found HAVING count(*) > 0
\gexec

COMMIT;

SELECT to_regclass('public.challenges') IS NULL AS is_without_schema \gset
\if :is_without_schema
\echo 'There is no schema yet. Run challenge-engine migrate by the URL of' :owner 'and then this once more.'
\endif
