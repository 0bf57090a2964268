"""The SQL of owners and operators. It locks the job first, or takes only rows that are not locked."""

from plinth.jobs.engine.fleet_sql import queue_counts

# Inserted into `job` before it leaves the history: if a live job has the unique key, nothing changes. A job that has
# crashed two workers stays suspect.
_BACK = """
INSERT INTO job (id, kind, queue, priority, owner, payload, unique_key, max_attempts, crash_count, run_lease,
    created_at, run_at, errors, trace_context, slot_at, limit_key, unique_while_waiting, batch_id, state)
SELECT id, kind, queue, priority, owner, payload, unique_key, max_attempts, LEAST(crash_count, 2), run_lease + 1,
    created_at, now(), errors, trace_context, slot_at, limit_key, unique_while_waiting, batch_id, 'available'
FROM {source}
ON CONFLICT (kind, unique_key) WHERE unique_key IS NOT NULL DO NOTHING
RETURNING id
"""
# Steps that have failed or timed out are tried again; those that are done stay done.
_AGAIN = "DELETE FROM job_step USING back WHERE job_step.job_id = back.id AND job_step.state IN ('failed', 'timed_out')"
_LEAVE_HISTORY = "DELETE FROM job_history USING back WHERE job_history.id = back.id RETURNING job_history.queue"

RETRY_ENDED = f"""
WITH back AS ({_BACK.format(source="job_history WHERE id = $1")}), again AS ({_AGAIN})
{_LEAVE_HISTORY}
"""

# Dead letters whose unique key is taken do not count towards the limit: a thousand of them would block all others.
_DEAD_LETTERS = """
SELECT * FROM job_history
WHERE state = 'discarded' AND ($1::text IS NULL OR kind = $1)
    AND finished_at >= COALESCE($2::timestamptz, '-infinity') AND finished_at < COALESCE($3::timestamptz, 'infinity')
    AND (unique_key IS NULL OR NOT EXISTS (
        SELECT FROM job WHERE job.kind = job_history.kind AND job.unique_key = job_history.unique_key))
ORDER BY finished_at LIMIT $4
"""
RETRY_DEAD_LETTERS = f"""
WITH dead AS MATERIALIZED ({_DEAD_LETTERS} FOR UPDATE SKIP LOCKED),
back AS ({_BACK.format(source="dead")}),
again AS ({_AGAIN})
{_LEAVE_HISTORY}
"""
# Of dead letters that share a unique key, one would come back.
COUNT_DEAD_LETTERS = f"""
SELECT count(DISTINCT (kind, unique_key, CASE WHEN unique_key IS NULL THEN id END)) FROM ({_DEAD_LETTERS}) AS dead
"""

QUEUE_COUNTS = queue_counts(max_count=10_000)
PAUSE_QUEUE = "INSERT INTO job_queue (name) VALUES ($1) ON CONFLICT DO NOTHING"
RESUME_QUEUE = "DELETE FROM job_queue WHERE name = $1"

WORKERS = """
SELECT id, name, version, queues, kinds, concurrency, started_at, renewed_at, COALESCE(run.count, 0) AS running,
    CASE WHEN expires_at <= now() THEN 'lost' WHEN stopping THEN 'stopping' ELSE 'alive' END AS status
FROM worker_session
LEFT JOIN (SELECT session_id, count(*) FROM job WHERE state = 'running' GROUP BY session_id) AS run
    ON run.session_id = worker_session.id
ORDER BY name, id
"""

SCHEDULES = """
SELECT name, kind, cron, timezone, last_slot, paused_at, declared_at, now() AS now FROM job_schedule ORDER BY name
"""
PAUSE_SCHEDULE = "UPDATE job_schedule SET paused_at = COALESCE(paused_at, now()) WHERE name = $1 RETURNING name"
# Slots missed while it was paused are skipped.
RESUME_SCHEDULE = """
UPDATE job_schedule SET paused_at = NULL,
    last_slot = CASE WHEN paused_at IS NULL THEN last_slot ELSE GREATEST(last_slot, now()) END
WHERE name = $1 RETURNING name
"""
