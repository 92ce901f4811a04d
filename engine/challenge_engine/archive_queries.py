"""The statements of archiving, each with a sentence."""

ARCHIVER = """
    SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = 'challenge_archiver'),
        (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)
"""
"""Whether the role is there that may archive, and whether this one may make it."""

MAKE_ARCHIVER = (
    "CREATE ROLE challenge_archiver NOLOGIN",
    "GRANT SELECT ON challenges, trades, archives TO challenge_archiver",
    "GRANT UPDATE (archive_id) ON challenges TO challenge_archiver",
    "GRANT DELETE ON trades TO challenge_archiver",
    "GRANT INSERT ON archives TO challenge_archiver",
)
"""Makes it, in a database that has no one else to do so: the embedded one."""

BECOME_ARCHIVER = "SET ROLE challenge_archiver"
"""What is done from here on is done by the role that the triggers admit."""

COUNT_ENDED = "SELECT count(*) FROM challenges WHERE archive_id IS NULL AND closed_at < %s"
"""How many challenges ended before a moment and are not archived."""

NEXT_ENDED = """
    SELECT challenge_id::text, last_sequence FROM challenges
    WHERE archive_id IS NULL AND closed_at < %(before)s AND EXISTS (
        SELECT FROM challenge_events e
        WHERE (e.challenge_id, e.challenge_sequence) = (challenges.challenge_id, challenges.event_count)
            AND e.recorded_at < %(before)s
    ) AND NOT challenge_id = ANY(%(skipped)s::uuid[])
    ORDER BY closed_at, challenge_id LIMIT %(limit)s
"""
"""The next of them, if that was also recorded so long ago, with the number of their trades."""

RECORD_ARCHIVE = """
    INSERT INTO archives (archive_id, file_name, sha256, challenge_count, trade_count, note, sealed_at)
    VALUES (%s, %s, decode(%s, 'hex'), %s, %s, %s, now())
"""
"""Seals an archive: from here on the database knows its digest."""

LOCK_ARCHIVED = """
    SELECT FROM challenges WHERE challenge_id = ANY(%s::uuid[]) ORDER BY challenge_id FOR UPDATE
"""
"""Locks challenges in the order in which everybody does."""

MARK_ARCHIVED = "UPDATE challenges SET archive_id = %s WHERE challenge_id = ANY(%s::uuid[]) AND archive_id IS NULL"
"""Notes where the trades of challenges are."""

REMOVE_TRADES = "DELETE FROM trades WHERE challenge_id = ANY(%s::uuid[])"
"""Removes the trades of archived challenges; a trigger refuses those of any other."""

ARCHIVES = """
    SELECT archive_id::text, file_name, encode(sha256, 'hex'), challenge_count, trade_count, note FROM archives
    ORDER BY archive_id
"""
"""Every archive."""

ARCHIVED_CHALLENGES = "SELECT challenge_id::text FROM challenges WHERE archive_id = %s::uuid"
"""The challenges whose trades an archive has to hold."""

WITHOUT_ARCHIVE = """
    SELECT c.challenge_id::text, c.last_sequence FROM challenges c
    WHERE c.archive_id IS NOT NULL AND NOT EXISTS (SELECT FROM archives a WHERE a.archive_id = c.archive_id)
    ORDER BY c.challenge_id
"""
"""Challenges that name an archive nobody has recorded."""

ARCHIVED_UNSEALED = """
    SELECT c.challenge_id::text, c.last_sequence FROM challenges c
    WHERE c.archive_id IS NOT NULL AND NOT EXISTS (
        SELECT FROM checkpoint_leaves l
        WHERE (l.challenge_id, l.sequence, l.chain_head) = (c.challenge_id, c.last_sequence, c.chain_head)
    ) ORDER BY c.challenge_id
"""
"""Challenges that were archived without having been sealed as they ended."""

MISSING_PRIVILEGES = """
    SELECT 'SELECT on ' || name
    FROM unnest(ARRAY[
        'challenges', 'trades', 'challenge_events', 'checkpoint_leaves', 'checkpoint_tiles', 'checkpoints', 'archives'
    ]) AS needed(name)
    WHERE NOT has_table_privilege(name, 'SELECT')
"""
"""What the role of who archives may not do but has to; what it removes, it removes as challenge_archiver."""
