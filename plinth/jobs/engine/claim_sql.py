"""The SQL of claims: along the line, and in turn for each owner."""

__all__ = ["CLAIM", "CLAIM_IN_TURN", "LIMIT_LOCK", "RUNNING_OF_KIND", "TRY_LIMIT_LOCK", "WAITING_KINDS"]

# The class of the advisory locks that guard `max_running`, one for each kind: "plin".
LIMIT_LOCK = 0x706C696E

_RUN = """UPDATE job SET state = 'running', run_lease = run_lease + 1, attempt = attempt + 1, session_id = $5,
    started_at = now(), deadline_at = now() + ($6::jsonb ->> kind)::float8 * interval '1 second',
    progress_done = NULL, progress_total = NULL, progress_message = NULL"""
_RUNNING = """RETURNING id, run_lease, kind, queue, priority, owner, payload::text, attempt, max_attempts,
    LEAST(GREATEST(run_at, '0001-01-02 UTC'), '9999-12-31 UTC') AS run_at, started_at,
    CASE WHEN jsonb_typeof(trace_context -> 'traceparent') = 'string'
        AND COALESCE(jsonb_typeof(trace_context -> 'tracestate'), 'string') = 'string' THEN trace_context END,
    errors = '[]' AS untried, crash_count >= 2 AS suspect,
    CASE WHEN errors = '[]' THEN 0 ELSE jsonb_array_length(
        jsonb_path_query_array(errors, '$[*] ? (@.outcome == "invalid_payload")')) END AS unreadable, slot_at"""

# First count, without locking, how the first $4 available jobs are spread over queues and kinds; then lock that many of
# each. Locking while counting would lock (and write) that many rows for every kind. A kind that this worker does not
# know, or one at its limit, costs nothing however many of its jobs wait: they are not read. An expired session gets
# nothing, since the reaper would take it away again.
#
# A job that was running when two workers were lost may have killed them: it is suspect. A claim takes one suspect at
# most, and none if the worker runs one already ($7 is false). So the jobs beside a poison job crash once or twice, and
# not until they are taken for poison themselves.
CLAIM = f"""
WITH ahead AS MATERIALIZED (
    SELECT w.queue, w.kind, w.room, first.priority, first.run_at, first.id,
        row_number() OVER (PARTITION BY w.kind ORDER BY first.priority, first.run_at, first.id) AS place
    FROM (
        SELECT q.name AS queue, k.name AS kind, k.room
        FROM unnest($1::text[]) AS q (name), unnest($2::text[], $3::int[]) AS k (name, room)
        WHERE q.name <> ALL (ARRAY(SELECT name FROM job_queue))
            AND EXISTS (SELECT FROM worker_session WHERE id = $5 AND expires_at > now())
    ) AS w,
    LATERAL (
        SELECT priority, run_at, id FROM job
        WHERE state = 'available' AND (crash_count < 2 OR $7) AND job.queue = w.queue AND job.kind = w.kind
        ORDER BY priority, run_at, id LIMIT least(w.room, $4)
    ) AS first
), shares AS (
    SELECT queue, kind, count(*) AS share
    FROM (SELECT queue, kind FROM ahead WHERE place <= room ORDER BY priority, run_at, id LIMIT $4) AS line
    GROUP BY queue, kind
), mine AS MATERIALIZED (
    SELECT locked.* FROM shares, LATERAL (
        SELECT id, crash_count >= 2 AS suspect FROM job
        WHERE state = 'available' AND (crash_count < 2 OR $7) AND job.queue = shares.queue AND job.kind = shares.kind
        ORDER BY priority, run_at, id LIMIT shares.share FOR NO KEY UPDATE SKIP LOCKED
    ) AS locked
)
{_RUN}
WHERE id = ANY (ARRAY(
    SELECT id FROM mine WHERE NOT suspect UNION ALL (SELECT id FROM mine WHERE suspect LIMIT 1)))
{_RUNNING}
"""

# A turn for each owner, after $3 in their order: one job of each, of priority $7 or better, so that many jobs of one
# owner do not keep the few of another waiting. `turn` walks the index from one owner to the next.
CLAIM_IN_TURN = f"""
WITH RECURSIVE turn AS (
    (SELECT owner, 1 AS place FROM job
    WHERE state = 'available' AND owner IS NOT NULL AND owner > $3 ORDER BY owner LIMIT 1)
    UNION ALL
    SELECT next.owner, turn.place + 1 FROM turn, LATERAL (
        SELECT owner FROM job WHERE state = 'available' AND owner IS NOT NULL AND owner > turn.owner
        ORDER BY owner LIMIT 1) AS next
    WHERE turn.place < $4
), mine AS MATERIALIZED (
    SELECT first.id FROM turn, LATERAL (
        SELECT id FROM job
        WHERE state = 'available' AND owner IS NOT NULL AND job.owner = turn.owner AND crash_count < 2
            AND queue = ANY ($1::text[]) AND kind = ANY ($2::text[]) AND priority <= $7
            AND queue <> ALL (ARRAY(SELECT name FROM job_queue))
        ORDER BY priority, run_at, id LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED) AS first
    WHERE EXISTS (SELECT FROM worker_session WHERE id = $5 AND expires_at > now())
)
{_RUN}
WHERE id = ANY (ARRAY(SELECT id FROM mine))
{_RUNNING}
"""
# The kinds with a limit that have an available job.
WAITING_KINDS = """
SELECT k.name FROM unnest($2::text[]) AS k (name) WHERE EXISTS (
    SELECT FROM unnest($1::text[]) AS q (name), LATERAL (
        SELECT FROM job WHERE state = 'available' AND queue = q.name AND kind = k.name LIMIT 1) AS first)
"""
RUNNING_OF_KIND = "SELECT count(*) FROM job WHERE state = 'running' AND kind = $1"
TRY_LIMIT_LOCK = "SELECT pg_try_advisory_xact_lock($1, hashtext($2))"
