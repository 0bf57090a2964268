"""The SQL of limits by key: which keys have room, and when their jobs started."""

__all__ = ["KEYS", "KEYS_OF_A_WALK", "PRUNE_STARTS", "RECORD_STARTS"]

from plinth.jobs.engine.prune_sql import PRUNE_LOCK, PRUNE_ROWS

KEYS_OF_A_WALK = 100

# The next keys, after $3 of each kind, that have an available job in the queues $1: how many more of their jobs may
# start, how many run, and in how many seconds the limit of starts lets the next one go. `walk` goes through the claim's
# index from one key to the next.
KEYS = f"""
WITH found AS MATERIALIZED (
    SELECT q.name AS queue, k.*, walk.key
    FROM unnest($1::text[]) AS q (name),
        unnest($2::text[], $3::text[], $4::int[], $5::int[], $6::float8[]) AS k (kind, after, running, starts, per),
        LATERAL (
            WITH RECURSIVE walk AS (
                (SELECT limit_key AS key, 1 AS place FROM job
                WHERE state = 'available' AND queue = q.name AND job.kind = k.kind AND limit_key > k.after
                ORDER BY limit_key LIMIT 1)
                UNION ALL
                SELECT next.limit_key, place + 1 FROM walk, LATERAL (
                    SELECT limit_key FROM job
                    WHERE state = 'available' AND queue = q.name AND job.kind = k.kind AND limit_key > walk.key
                    ORDER BY limit_key LIMIT 1) AS next
                WHERE place < {KEYS_OF_A_WALK}
            )
            SELECT key FROM walk
        ) AS walk
    WHERE q.name <> ALL (ARRAY(SELECT name FROM job_queue))
)
SELECT found.queue, found.kind, found.key, running.number AS running,
    GREATEST(0, LEAST(found.running - running.number, found.starts - started.number, 10000))::int AS room,
    CASE WHEN started.number >= found.starts THEN GREATEST(0, started.free_in) END AS free_in
FROM found,
    LATERAL (
        SELECT count(*)::int AS number FROM job
        WHERE state = 'running' AND job.kind = found.kind AND limit_key = found.key AND limit_key > '') AS running,
    LATERAL (
        SELECT COALESCE(sum(starts), 0)::int AS number,
            EXTRACT(epoch FROM min(at) - clock_timestamp())::float8 + found.per AS free_in
        FROM job_start
        WHERE job_start.kind = found.kind AND limit_key = found.key
            AND at > clock_timestamp() - found.per * interval '1 second') AS started
ORDER BY found.kind, found.key
"""

# Of the claimed jobs $1, whose kinds $2 have limits of starts per $3 seconds. Older starts of the same keys go. Those
# of a hundredth of the time are one row, which counts until the last of them could be that old: with a row for each
# claim, a claim read 10,000 for each key of a large limit, and took 0.4 s for thirty keys.
RECORD_STARTS = """
WITH began AS (
    SELECT kind, limit_key, count(*) AS starts FROM job
    WHERE id = ANY ($1::uuid[]) AND limit_key > '' GROUP BY kind, limit_key
), old AS (
    DELETE FROM job_start USING began, unnest($2::text[], $3::float8[]) AS k (kind, per)
    WHERE job_start.kind = began.kind AND job_start.limit_key = began.limit_key AND k.kind = began.kind
        AND at < clock_timestamp() - per * interval '1 second'
)
INSERT INTO job_start (kind, limit_key, at, starts)
SELECT kind, limit_key, to_timestamp(ceil(now.seconds / (per / 100)) * (per / 100)), starts
FROM began JOIN unnest($2::text[], $3::float8[]) AS k (kind, per) USING (kind),
    (SELECT extract(epoch FROM clock_timestamp())::float8 AS seconds) AS now
ON CONFLICT (kind, limit_key, at) DO UPDATE SET starts = job_start.starts + excluded.starts
"""
PRUNE_STARTS = f"""
WITH old AS (
    DELETE FROM job_start WHERE (kind, limit_key, at) IN (
        SELECT kind, limit_key, at FROM job_start
        WHERE (SELECT pg_try_advisory_xact_lock({PRUNE_LOCK})) AND at < now() - $1::interval
        ORDER BY at LIMIT {PRUNE_ROWS})
    RETURNING kind
)
SELECT count(*) FROM old
"""
