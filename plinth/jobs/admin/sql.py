"""The SQL of owners and operators. It locks the job first, or takes only rows that are not locked."""

from plinth.jobs.engine.fleet_sql import queue_counts

# A part of what a failed run has said, in upper or lower case; or in quotes the whole error of the last one, or its
# digest. Most jobs have no errors, and none of those is taken apart.
ERROR_HAS = """(CASE WHEN {text} ~ '^"sha256:[0-9a-f]+"$'
    THEN errors <> '[]' AND encode(sha256(convert_to(errors -> -1 ->> 'error', 'UTF8')), 'hex') = substr({text}, 9, 64)
    WHEN {text} LIKE '"%"'
    THEN COALESCE(errors -> -1 ->> 'error', '') = substr({text}, 2, length({text}) - 2)
    ELSE errors <> '[]' AND EXISTS (
        SELECT FROM jsonb_array_elements(errors) AS entry
        WHERE strpos(lower(concat_ws(' ', entry ->> 'error', entry ->> 'detail')), lower({text})) > 0) END)"""

# Of errors, as they are stored, for one page: a job that failed 25 times with tracebacks has 40 KB of them, and 40 MB
# are read in some 0.3 s.
MAX_ERROR_BYTES = 40_000_000

# Inserted into `job` before it leaves the history: if a live job has the unique key, nothing changes. A job that has
# crashed two workers stays suspect.
BACK = """
INSERT INTO job (id, kind, queue, priority, owner, payload, unique_key, max_attempts, crash_count, run_lease,
    created_at, run_at, errors, trace_context, slot_at, limit_key, unique_while_waiting, batch_id, state)
SELECT id, kind, queue, priority, owner, payload, unique_key, max_attempts, LEAST(crash_count, 2), run_lease + 1,
    created_at, now(), errors, trace_context, slot_at, limit_key, unique_while_waiting, batch_id, 'available'
FROM {source}
ON CONFLICT (kind, unique_key) WHERE unique_key IS NOT NULL DO NOTHING
RETURNING id
"""
# Steps that have failed or timed out are tried again; those that are done stay done.
AGAIN = "DELETE FROM job_step USING back WHERE job_step.job_id = back.id AND job_step.state IN ('failed', 'timed_out')"
_LEAVE_HISTORY = "DELETE FROM job_history USING back WHERE job_history.id = back.id RETURNING job_history.queue"

RETRY_ENDED = f"""
WITH back AS ({BACK.format(source="job_history WHERE id = $1")}), again AS ({AGAIN})
{_LEAVE_HISTORY}
"""

# Ended jobs whose unique key is taken do not count towards a limit: a thousand of them would block all others.
KEY_IS_FREE = """(unique_key IS NULL OR NOT EXISTS (
        SELECT FROM job WHERE job.kind = job_history.kind AND job.unique_key = job_history.unique_key))"""
# Of ended jobs that share a unique key, one would come back.
NUMBER_BACK = "count(DISTINCT (kind, unique_key, CASE WHEN unique_key IS NULL THEN id END))"
_DEAD_LETTERS = f"""
SELECT * FROM job_history
WHERE state = 'discarded' AND ($1::text IS NULL OR kind = $1)
    AND finished_at >= COALESCE($2::timestamptz, '-infinity') AND finished_at < COALESCE($3::timestamptz, 'infinity')
    AND {KEY_IS_FREE}
ORDER BY finished_at LIMIT $4
"""
RETRY_DEAD_LETTERS = f"""
WITH dead AS MATERIALIZED ({_DEAD_LETTERS} FOR UPDATE SKIP LOCKED),
back AS ({BACK.format(source="dead")}),
again AS ({AGAIN})
{_LEAVE_HISTORY}
"""
COUNT_DEAD_LETTERS = f"SELECT {NUMBER_BACK} FROM ({_DEAD_LETTERS}) AS dead"

MAX_COUNTED = 10_000
QUEUE_COUNTS = queue_counts(max_count=MAX_COUNTED)
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

MAX_ENDED = 1000  # jobs of a kind, a state and a minute
MAX_ENDS = 300  # combinations of state and kind
# `ends` walks the index of the pruning from one state and kind to the next, and each minute of each is a part of it.
ENDED_BY_MINUTE = f"""
WITH RECURSIVE ends AS (
    (SELECT state, kind FROM job_history ORDER BY state, kind, finished_at LIMIT 1)
    UNION ALL
    SELECT next.* FROM ends, LATERAL (
        SELECT state, kind FROM job_history WHERE (state, kind) > (ends.state, ends.kind)
        ORDER BY state, kind, finished_at LIMIT 1) AS next
), minutes AS (
    SELECT generate_series(minute - interval '59 minutes', minute, interval '1 minute') AS at
    FROM date_trunc('minute', now()) AS minute
), counted AS (
    SELECT at, state, (SELECT count(*) FROM (
        SELECT FROM job_history
        WHERE job_history.state = ends.state AND job_history.kind = ends.kind
            AND finished_at >= minutes.at AND finished_at < minutes.at + interval '1 minute'
        ORDER BY job_history.state, job_history.kind, finished_at LIMIT {MAX_ENDED}) AS found) AS jobs
    FROM (SELECT * FROM ends LIMIT {MAX_ENDS}) AS ends, minutes
)
SELECT minutes.at,
    COALESCE(sum(jobs) FILTER (WHERE state = 'succeeded'), 0)::int AS succeeded,
    COALESCE(sum(jobs) FILTER (WHERE state = 'cancelled'), 0)::int AS cancelled,
    COALESCE(sum(jobs) FILTER (WHERE state = 'discarded'), 0)::int AS discarded
FROM minutes LEFT JOIN counted ON counted.at = minutes.at
GROUP BY minutes.at ORDER BY minutes.at
"""

MAX_GROUPED = 10_000
DEAD_LETTER_GROUPS = f"""
SELECT kind, COALESCE(errors -> -1 ->> 'error', '') AS error, count(*) AS number,
    min(finished_at) AS first, max(finished_at) AS last, (array_agg(id ORDER BY finished_at DESC))[1] AS newest,
    COALESCE((array_agg(errors -> -1 ->> 'detail' ORDER BY finished_at DESC))[1], '') AS detail
FROM (
    SELECT *, sum(pg_column_size(errors)) OVER (ORDER BY finished_at DESC ROWS UNBOUNDED PRECEDING) AS size
    FROM (
        SELECT id, kind, errors, finished_at FROM job_history WHERE state = 'discarded'
        ORDER BY finished_at DESC LIMIT {MAX_GROUPED}) AS newest) AS sized
WHERE size - pg_column_size(errors) < $1
GROUP BY kind, error ORDER BY number DESC, last DESC LIMIT 100
"""
