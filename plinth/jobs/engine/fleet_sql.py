"""The SQL that counts what the whole fleet has to do: jobs by queue and state, workers, dead letters, migrations."""

MAX_LINES = 5000  # combinations of queue, kind, key and priority


# Bounded, whatever the backlog. `hops` walks the claim's index from one (queue, kind, key, priority) to the next: the
# first row of each has waited longest. `waiting` walks that of jobs whose time has not come, by queue and priority. The
# counted rows are ordered, though that changes no count: otherwise the planner may scan the whole table to find them.
def queue_counts(*, max_count: int) -> str:
    return f"""
WITH RECURSIVE hops AS (
    (SELECT queue, kind, limit_key, priority, run_at FROM job WHERE state = 'available'
        ORDER BY queue, kind, limit_key, priority, run_at, id LIMIT 1)
    UNION ALL
    SELECT next.* FROM hops, LATERAL (
        SELECT queue, kind, limit_key, priority, run_at FROM job
        WHERE state = 'available'
            AND (queue, kind, limit_key, priority) > (hops.queue, hops.kind, hops.limit_key, hops.priority)
        ORDER BY queue, kind, limit_key, priority, run_at, id LIMIT 1) AS next
), waiting AS (
    (SELECT queue, priority FROM job WHERE state IN ('scheduled', 'retryable')
        ORDER BY queue, priority, run_at LIMIT 1)
    UNION ALL
    SELECT next.* FROM waiting, LATERAL (
        SELECT queue, priority FROM job
        WHERE state IN ('scheduled', 'retryable') AND (queue, priority) > (waiting.queue, waiting.priority)
        ORDER BY queue, priority, run_at LIMIT 1) AS next
), line AS (
    SELECT queue, min(run_at) AS oldest FROM (SELECT * FROM hops LIMIT {MAX_LINES}) AS counted GROUP BY queue
), counts (name, state, jobs, oldest) AS (
    SELECT queue, 'available', (SELECT count(*) FROM (
        SELECT FROM job WHERE state = 'available' AND job.queue = line.queue
        ORDER BY kind, limit_key, priority, run_at, id LIMIT {max_count}) AS counted), oldest
    FROM line
    UNION ALL
    SELECT queue, state, count(*), min(run_at) FILTER (WHERE run_at <= now())
    FROM (SELECT * FROM waiting LIMIT {MAX_LINES}) AS level, LATERAL (
        SELECT state, run_at FROM job WHERE state IN ('scheduled', 'retryable')
            AND job.queue = level.queue AND job.priority = level.priority
        ORDER BY run_at LIMIT {max_count}) AS counted
    GROUP BY queue, state
    UNION ALL
    SELECT queue, 'running', count(*), NULL
    FROM (SELECT queue FROM job WHERE state = 'running' ORDER BY session_id LIMIT {max_count}) AS counted
    GROUP BY queue
    UNION ALL
    SELECT name, 'paused', 0, NULL FROM job_queue
)
SELECT name, bool_or(state = 'paused') AS paused,
    COALESCE(sum(jobs) FILTER (WHERE state = 'available'), 0)::int AS available,
    COALESCE(sum(jobs) FILTER (WHERE state = 'scheduled'), 0)::int AS scheduled,
    COALESCE(sum(jobs) FILTER (WHERE state = 'retryable'), 0)::int AS retryable,
    COALESCE(sum(jobs) FILTER (WHERE state = 'running'), 0)::int AS running,
    EXTRACT(epoch FROM now() - min(oldest))::float8 AS oldest_due_age
FROM counts GROUP BY name ORDER BY name
"""


# The first condition locks nothing: while another process has the duty, asking for it writes nothing.
TAKE_DUTY = """
INSERT INTO duty (name, holder, expires_at)
SELECT $1::text, $2::uuid, now() + $3::interval
WHERE NOT EXISTS (SELECT FROM duty WHERE name = $1 AND holder <> $2 AND expires_at > now())
ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, expires_at = excluded.expires_at
    WHERE duty.holder = excluded.holder OR duty.expires_at <= now()
RETURNING name
"""
LEAVE_DUTY = "DELETE FROM duty WHERE name = $1 AND holder = $2"

MAX_COUNT = 100_000
FLEET_QUEUES = queue_counts(max_count=MAX_COUNT)
MIGRATION_LOCK = 0x706C696E7468  # `plinth.database.migrator.LOCK_KEY`, whose module brings Alembic along
# `migrating`: for how many seconds the migrating process has been connected. Null if there is none, -1 if it has
# another role and pg_stat_activity hides it.
FLEET = f"""
SELECT
    (SELECT count(*) FROM worker_session WHERE expires_at > now()) AS workers,
    ARRAY(SELECT DISTINCT unnest(queues) FROM worker_session WHERE expires_at > now()) AS queues,
    (SELECT count(*) FROM (
        SELECT FROM job_history WHERE state = 'discarded' ORDER BY finished_at LIMIT {MAX_COUNT}) AS counted
    ) AS dead_letters,
    ARRAY(SELECT version_num FROM alembic_version ORDER BY version_num) AS revisions,
    (SELECT max(COALESCE(EXTRACT(epoch FROM now() - backend_start), -1))::float8
        FROM pg_locks LEFT JOIN pg_stat_activity USING (pid)
        WHERE locktype = 'advisory' AND granted AND objsubid = 1
            AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
            AND classid = {MIGRATION_LOCK >> 32} AND objid = {MIGRATION_LOCK & 0xFFFFFFFF}
    ) AS migrating
"""
