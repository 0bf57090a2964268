"""The SQL that counts what the whole fleet has to do: jobs by queue and state, workers, dead letters, migrations."""

MAX_LINES = 5000  # combinations of queue, kind and priority


# Bounded, whatever the backlog. `hops` walks the claim's index from one (queue, kind, priority) to the next: the first
# row of each has waited longest. No index orders waiting jobs by queue, so only the next in time are read. The counted
# rows are ordered, though that changes no count: otherwise the planner may scan the whole table to find them.
def queue_counts(*, max_count: int, max_waiting: int) -> str:
    return f"""
WITH RECURSIVE hops AS (
    (SELECT queue, kind, priority, run_at FROM job WHERE state = 'available'
        ORDER BY queue, kind, priority, run_at, id LIMIT 1)
    UNION ALL
    SELECT next.* FROM hops, LATERAL (
        SELECT queue, kind, priority, run_at FROM job
        WHERE state = 'available' AND (queue, kind, priority) > (hops.queue, hops.kind, hops.priority)
        ORDER BY queue, kind, priority, run_at, id LIMIT 1) AS next
), line AS (
    SELECT queue, min(run_at) AS oldest FROM (SELECT * FROM hops LIMIT {MAX_LINES}) AS counted GROUP BY queue
), available AS (
    SELECT line.queue, line.oldest, (SELECT count(*) FROM (
        SELECT FROM job WHERE state = 'available' AND job.queue = line.queue
        ORDER BY kind, priority, run_at, id LIMIT {max_count}) AS counted
    ) AS figure
    FROM line
), waiting AS (
    SELECT queue, count(*) FILTER (WHERE state = 'scheduled') AS scheduled,
        count(*) FILTER (WHERE state = 'retryable') AS retryable, min(run_at) FILTER (WHERE run_at <= now()) AS oldest
    FROM (SELECT queue, state, run_at FROM job WHERE state IN ('scheduled', 'retryable')
        ORDER BY run_at LIMIT {max_waiting}) AS counted
    GROUP BY queue
), running AS (
    SELECT queue, count(*) AS figure
    FROM (SELECT queue FROM job WHERE state = 'running' ORDER BY session_id LIMIT {max_count}) AS counted
    GROUP BY queue
)
SELECT name, EXISTS (SELECT FROM job_queue WHERE job_queue.name = names.name) AS paused,
    COALESCE(available.figure, 0) AS available, COALESCE(waiting.scheduled, 0) AS scheduled,
    COALESCE(waiting.retryable, 0) AS retryable, COALESCE(running.figure, 0) AS running,
    EXTRACT(epoch FROM now() - LEAST(available.oldest, waiting.oldest))::float8 AS oldest_due_age
FROM (
    SELECT queue AS name FROM available UNION SELECT queue FROM waiting
    UNION SELECT queue FROM running UNION SELECT name FROM job_queue
) AS names
LEFT JOIN available ON available.queue = name
LEFT JOIN waiting ON waiting.queue = name
LEFT JOIN running ON running.queue = name
ORDER BY name
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
FLEET_QUEUES = queue_counts(max_count=MAX_COUNT, max_waiting=MAX_COUNT)
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
