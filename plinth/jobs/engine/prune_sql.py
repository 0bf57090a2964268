"""The SQL that deletes old records, some at a time, and by one worker of the fleet."""

__all__ = ["PRUNE", "PRUNE_AUDIT", "PRUNE_BATCHES", "PRUNE_EVENTS", "PRUNE_KEYS", "PRUNE_ROWS"]

PRUNE_LOCK = 0x706C696E6A02
PRUNE_ROWS = 5000

# A job reads what came of the members of a batch: the one that is enqueued at its end, or their parent. Until it has
# done so they are kept, however short a time their kinds say. A dead letter may be retried, and reads them then.
_READERS = "(job_batch.on_end_id, job_batch.parent_id)"
_WANTED = f"""(job_batch.finished_at IS NULL
    OR EXISTS (SELECT FROM job WHERE job.id IN {_READERS})
    OR EXISTS (SELECT FROM job_history AS reader WHERE reader.id IN {_READERS} AND reader.state = 'discarded'))"""

# Of each kind by itself, since $3 keeps some for another time than $2: what is kept longer is not walked over. `ended`
# walks the index from one kind to the next. A job whose children are not done is kept too: to workers children without
# a parent are those of a deleted one, and are cancelled.
PRUNE = f"""
WITH RECURSIVE ended AS (
    (SELECT kind FROM job_history WHERE state = $1 AND (SELECT pg_try_advisory_xact_lock({PRUNE_LOCK}))
    ORDER BY kind LIMIT 1)
    UNION ALL
    SELECT next.kind FROM ended, LATERAL (
        SELECT kind FROM job_history WHERE state = $1 AND kind > ended.kind ORDER BY kind LIMIT 1) AS next
), old AS (
    DELETE FROM job_history WHERE id = ANY (ARRAY(
        SELECT first.id FROM ended, LATERAL (
            SELECT id FROM job_history
            WHERE state = $1 AND job_history.kind = ended.kind
                AND finished_at < now() - COALESCE(($3::jsonb ->> ended.kind)::float8 * interval '1 second', $2)
                AND NOT EXISTS (SELECT FROM job_batch WHERE job_batch.id = batch_id AND {_WANTED})
                AND NOT EXISTS (
                    SELECT FROM job_batch WHERE parent_id = job_history.id AND job_batch.finished_at IS NULL)
            ORDER BY finished_at LIMIT {PRUNE_ROWS}) AS first
        LIMIT {PRUNE_ROWS}))
    RETURNING id
), steps AS (
    DELETE FROM job_step WHERE job_id = ANY (ARRAY(SELECT id FROM old))
), keys AS (
    UPDATE job_key_hold SET until_success = false WHERE (kind, key) IN (
        SELECT kind, key FROM job_key_hold WHERE until_success AND job_id = ANY (ARRAY(SELECT id FROM old))
        FOR UPDATE SKIP LOCKED)
)
SELECT count(*) FROM old
"""
# Unique keys that are free. One that an enqueue is about to hold again is left out.
PRUNE_KEYS = f"""
WITH old AS (
    DELETE FROM job_key_hold WHERE (kind, key) IN (
        SELECT kind, key FROM job_key_hold
        WHERE (SELECT pg_try_advisory_xact_lock({PRUNE_LOCK})) AND NOT until_success AND free_at < now()
        ORDER BY free_at LIMIT {PRUNE_ROWS} FOR UPDATE SKIP LOCKED)
    RETURNING key
)
SELECT count(*) FROM old
"""
PRUNE_AUDIT = f"""
WITH old AS (
    DELETE FROM audit_record WHERE id = ANY (ARRAY(
        SELECT id FROM audit_record
        WHERE (SELECT pg_try_advisory_xact_lock({PRUNE_LOCK})) AND at < now() - $1::interval
        ORDER BY at LIMIT {PRUNE_ROWS}))
    RETURNING id
)
SELECT count(*) FROM old
"""
PRUNE_BATCHES = f"""
WITH old AS (
    DELETE FROM job_batch WHERE id = ANY (ARRAY(
        SELECT id FROM job_batch
        WHERE (SELECT pg_try_advisory_xact_lock({PRUNE_LOCK})) AND finished_at < now() - $1::interval AND NOT {_WANTED}
        ORDER BY finished_at LIMIT {PRUNE_ROWS}))
    RETURNING id
)
SELECT count(*) FROM old
"""
PRUNE_EVENTS = f"""
WITH old AS (
    DELETE FROM job_event WHERE name = ANY (ARRAY(
        SELECT name FROM job_event
        WHERE (SELECT pg_try_advisory_xact_lock({PRUNE_LOCK})) AND emitted_at < now() - $1::interval
        ORDER BY emitted_at LIMIT {PRUNE_ROWS}))
    RETURNING name
)
SELECT count(*) FROM old
"""
