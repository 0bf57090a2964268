"""The SQL of claims: along the line, within the limits of keys, and in turn for each owner."""

__all__ = [
    "CLAIM",
    "CLAIM_IN_TURN",
    "CLAIM_WITH_KEYS",
    "LIMIT_LOCK",
    "RUNNING_OF_KIND",
    "TRY_LIMIT_LOCK",
    "WAITING_KINDS",
]

# The class of the advisory locks that guard the limits, one for each kind: "plin".
LIMIT_LOCK = 0x706C696E

_RUN = """UPDATE job SET state = 'running', run_lease = run_lease + 1, attempt = attempt + 1, session_id = $5,
    started_at = now(), deadline_at = now() + ($6::jsonb ->> kind)::float8 * interval '1 second',
    progress_done = NULL, progress_total = NULL, progress_message = NULL,
    unique_key = CASE WHEN NOT unique_while_waiting THEN unique_key END"""
_RUNNING = """RETURNING id, run_lease, kind, queue, priority, owner, payload::text, attempt, max_attempts,
    LEAST(GREATEST(run_at, '0001-01-02 UTC'), '9999-12-31 UTC') AS run_at, started_at,
    CASE WHEN jsonb_typeof(trace_context -> 'traceparent') = 'string'
        AND COALESCE(jsonb_typeof(trace_context -> 'tracestate'), 'string') = 'string'
        AND COALESCE(jsonb_typeof(trace_context -> 'baggage'), 'string') = 'string' THEN trace_context END,
    crash_count >= 2 AS suspect,
    CASE WHEN errors = '[]' THEN 0 ELSE jsonb_array_length(
        jsonb_path_query_array(errors, '$[*] ? (@.outcome == "invalid_payload")')) END AS unreadable, slot_at,
    batch_id"""

# First count, without locking, how the first $4 available jobs are spread over queues and kinds; then lock that many of
# each. Locking while counting would lock (and write) that many rows for every kind. A kind that this worker does not
# know, or one at its limit, costs nothing however many of its jobs wait: they are not read. An expired session gets
# nothing, since the reaper would take it away again.
#
# A job that was running when two workers were lost may have killed them: it is suspect. A claim takes one suspect at
# most, and none if the worker runs one already ($7 is false). So the jobs beside a poison job crash once or twice, and
# not until they are taken for poison themselves.
_OPEN_QUEUES = """q.name <> ALL (ARRAY(SELECT name FROM job_queue))
            AND EXISTS (SELECT FROM worker_session WHERE id = $5 AND expires_at > now())"""
_FREE = "state = 'available' AND (crash_count < 2 OR $7)"


def _line(columns: str) -> str:
    return f"""SELECT w.queue, w.kind, {columns} first.priority, first.run_at, first.id
    FROM (
        SELECT q.name AS queue, k.name AS kind, k.room
        FROM unnest($1::text[]) AS q (name), unnest($2::text[], $3::int[]) AS k (name, room)
        WHERE {_OPEN_QUEUES}
    ) AS w,
    LATERAL (
        SELECT priority, run_at, id FROM job
        WHERE {_FREE} AND job.queue = w.queue AND job.kind = w.kind AND limit_key = ''
        ORDER BY priority, run_at, id LIMIT least(w.room, $4)
    ) AS first"""


def _locked(key: str) -> str:
    return f"""SELECT locked.* FROM shares, LATERAL (
        SELECT id, crash_count >= 2 AS suspect FROM job
        WHERE {_FREE} AND job.queue = shares.queue AND job.kind = shares.kind AND limit_key = {key}
        ORDER BY priority, run_at, id LIMIT shares.share FOR NO KEY UPDATE SKIP LOCKED
    ) AS locked"""


_TAKE = f"""{_RUN}
WHERE id = ANY (ARRAY(
    SELECT id FROM mine WHERE NOT suspect UNION ALL (SELECT id FROM mine WHERE suspect LIMIT 1)))
{_RUNNING}
"""
_PLACE = "row_number() OVER (PARTITION BY {of} ORDER BY {line}.priority, {line}.run_at, {line}.id) AS place"

CLAIM = f"""
WITH ahead AS MATERIALIZED (
    {_line(f"w.room, {_PLACE.format(of='w.kind', line='first')},")}
), shares AS (
    SELECT queue, kind, count(*) AS share
    FROM (SELECT queue, kind FROM ahead WHERE place <= room ORDER BY priority, run_at, id LIMIT $4) AS line
    GROUP BY queue, kind
), mine AS MATERIALIZED (
    {_locked("''")}
)
{_TAKE}"""

# The same with the jobs of keys: of the kinds $8 and keys $9, for which so many have room ($10) and run already ($11).
# Within a kind those of which the fewest run go first. Each kind is cut off by itself: one that has many keys, or
# little room of its own, must not take the places of others.
CLAIM_WITH_KEYS = f"""
WITH keyed AS MATERIALIZED (
    SELECT queue, kind, key, priority, run_at, id FROM (
        SELECT turn.*, row_number() OVER (PARTITION BY kind ORDER BY priority, running + place, run_at, id) AS nth
        FROM (
            SELECT w.*, first.*, {_PLACE.format(of="w.kind, w.key", line="first")}
            FROM (
                SELECT q.name AS queue, k.* FROM unnest($1::text[]) AS q (name),
                    unnest($8::text[], $9::text[], $10::int[], $11::int[]) AS k (kind, key, room, running)
                WHERE {_OPEN_QUEUES}
            ) AS w,
            LATERAL (
                SELECT priority, run_at, id FROM job
                WHERE {_FREE} AND job.queue = w.queue AND job.kind = w.kind AND limit_key = w.key
                ORDER BY priority, run_at, id LIMIT least(w.room, $4)
            ) AS first
        ) AS turn
        WHERE place <= room
    ) AS line JOIN unnest($2::text[], $3::int[]) AS k (kind, most) USING (kind)
    WHERE nth <= least(most, $4)
), seen AS (
    {_line("'' AS key,")}
    UNION ALL
    SELECT queue, kind, key, priority, run_at, id FROM keyed
), ahead AS MATERIALIZED (
    SELECT seen.*, {_PLACE.format(of="seen.kind", line="seen")} FROM seen
), shares AS (
    SELECT queue, kind, key, count(*) AS share FROM (
        SELECT ahead.* FROM ahead JOIN unnest($2::text[], $3::int[]) AS k (kind, room) USING (kind)
        WHERE place <= room ORDER BY priority, run_at, id LIMIT $4
    ) AS line
    GROUP BY queue, kind, key
), mine AS MATERIALIZED (
    {_locked("shares.key")}
)
{_TAKE}"""

# A turn for each owner, after $3 in their order: one job of each, of priority $7 or better, so that many jobs of one
# owner do not keep the few of another waiting. `turn` walks the index from one owner to the next.
CLAIM_IN_TURN = f"""
WITH RECURSIVE turn AS (
    (SELECT owner, 1 AS place FROM job
    WHERE state = 'available' AND owner IS NOT NULL AND limit_key = '' AND owner > $3
    ORDER BY owner LIMIT 1)
    UNION ALL
    SELECT next.owner, turn.place + 1 FROM turn, LATERAL (
        SELECT owner FROM job
        WHERE state = 'available' AND owner IS NOT NULL AND limit_key = '' AND owner > turn.owner
        ORDER BY owner LIMIT 1) AS next
    WHERE turn.place < $4
), mine AS MATERIALIZED (
    SELECT first.id FROM turn, LATERAL (
        SELECT id FROM job
        WHERE state = 'available' AND owner IS NOT NULL AND limit_key = '' AND job.owner = turn.owner
            AND crash_count < 2
            AND queue = ANY ($1::text[]) AND kind = ANY ($2::text[]) AND priority <= $7
            AND queue <> ALL (ARRAY(SELECT name FROM job_queue))
        ORDER BY priority, run_at, id LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED) AS first
    WHERE EXISTS (SELECT FROM worker_session WHERE id = $5 AND expires_at > now())
)
{_RUN}
WHERE id = ANY (ARRAY(SELECT id FROM mine))
{_RUNNING}
"""
# The kinds with a limit that have an available job, and whether they have one with a key.
WAITING_KINDS = """
SELECT k.name, bool_or(keyed.found) FROM unnest($2::text[]) AS k (name), unnest($1::text[]) AS q (name),
    LATERAL (SELECT FROM job WHERE state = 'available' AND queue = q.name AND kind = k.name LIMIT 1) AS first,
    LATERAL (SELECT EXISTS (
        SELECT FROM job WHERE state = 'available' AND queue = q.name AND kind = k.name AND limit_key > ''
        ORDER BY limit_key LIMIT 1) AS found) AS keyed
GROUP BY k.name
"""
RUNNING_OF_KIND = "SELECT count(*) FROM job WHERE state = 'running' AND kind = $1"
TRY_LIMIT_LOCK = "SELECT pg_try_advisory_xact_lock($1, hashtext($2))"
