"""The SQL of the engine: finish, retry, release, sweep, reap. `claim_sql` has that of claims.

Three rules hold. Every write of a run is fenced by the run's number (`run_lease`) and its worker session, so a run that
was replaced changes nothing. Each statement that takes a job away from its run raises the number. Only the database's
`now()` counts as time.

The fenced statements look a row up by its id and then compare. With `state = 'running'` among the conditions the
planner may choose the index on running jobs, which stale statistics call empty: 40 times slower. Arrays of ids go
through `(SELECT …)`, which hides their length: for 200 known ids the planner may prefer a scan of the whole table. The
session is compared within `COALESCE`: statistics taken when nothing ran say that no row has one, and the planner would
compare every row with every id.
"""

# No other program may use these as advisory locks in the same database: "plinj" and a number.
REAPER_LOCK = 0x706C696E6A01

MAX_ERRORS = 50  # kept for a job; the oldest go first
PROMOTE_ROWS, MIN_PROMOTE_ROWS = 1000, 10
REAP_ROWS = 500

COMMON_COLUMNS = (
    "id, kind, queue, priority, owner, payload, unique_key, max_attempts, crash_count, run_lease, created_at, run_at, "
    "started_at, progress_done, progress_total, progress_message, trace_context, slot_at, limit_key, "
    "unique_while_waiting, batch_id"
)
HISTORY_COLUMNS = f"{COMMON_COLUMNS}, attempt, errors, state, finished_at"

# Stated twice: a planner that takes the table for empty, as the last ANALYZE found it, would otherwise scan it.
THESE = "job.id = run.id AND job.id = ANY (ARRAY(SELECT id FROM run))"
_FENCE = "job.id = run.id AND job.run_lease = run.lease AND COALESCE(job.session_id = $3, false)"


def _errors(table: str, entry: str) -> str:
    """SQL that appends an entry, if there is one, to a row's errors and drops the oldest above MAX_ERRORS."""
    return (
        f"CASE WHEN {entry} IS NULL THEN {table}.errors "
        f"WHEN jsonb_array_length({table}.errors) >= {MAX_ERRORS} THEN {table}.errors - 0 ELSE {table}.errors END "
        f"|| COALESCE({entry} || jsonb_build_object('at', now()), '[]')"
    )


def ours(columns: str, *parameters: str, lock: str = "NO KEY UPDATE SKIP LOCKED") -> str:
    """A CTE of the runs among the parameters that still hold their job, with the job's row locked.

    A row that another transaction has locked is left out, unless `lock` waits: one transaction must not delay the
    outcomes of all the runs of a worker. An enqueue of the job's unique key locks the key alone. `HELD` tells whether a
    run that is missing is locked or was replaced.
    """
    arrays = ", ".join(f"(SELECT {parameter})" for parameter in parameters)
    return f"""run AS MATERIALIZED (
    SELECT run.* FROM unnest({arrays}) AS run ({columns}),
        LATERAL (SELECT FROM job WHERE {_FENCE} FOR {lock}) AS held
)"""


# A failure after a cancellation request, of which the worker may not have heard: no dead letter comes of it, which a
# retry of all dead letters would run again.
_END_STATE = (
    "CASE WHEN run.state = 'discarded' AND job.cancel_requested_at IS NOT NULL THEN 'cancelled' ELSE run.state END"
)


def _finish(lock: str) -> str:
    columns = ("$1::uuid[]", "$2::bigint[]", "$4::text[]", "$5::jsonb[]", "$6::jsonb[]")
    held = ours("id, lease, state, error, result", *columns, lock=lock)
    return f"""
WITH {held}, ended AS (
    DELETE FROM job USING run
    WHERE {THESE} AND (run.state <> 'cancelled' OR job.cancel_requested_at IS NOT NULL)
    RETURNING job.*, {_END_STATE} AS end_state, run.error, run.result
)
INSERT INTO job_history ({HISTORY_COLUMNS}, result)
SELECT {COMMON_COLUMNS}, attempt, {_errors("ended", "ended.error")}, end_state, now(), ended.result FROM ended
RETURNING id
"""


FINISH = _finish("UPDATE SKIP LOCKED")
FINISH_HERE = _finish("UPDATE")  # in a handler's own transaction

_FAILURES = ("$1::uuid[]", "$2::bigint[]", "$4::float8[]", "$5::jsonb[]", "$6::boolean[]")
RETRY = f"""
WITH {ours("id, lease, delay, error, counts", *_FAILURES)}
UPDATE job SET state = CASE WHEN run.error IS NULL THEN 'scheduled' ELSE 'retryable' END,
    attempt = attempt - (NOT run.counts)::int,
    run_at = now() + run.delay * interval '1 second', session_id = NULL, deadline_at = NULL,
    errors = {_errors("job", "run.error")}
FROM run WHERE {THESE} AND job.cancel_requested_at IS NULL
RETURNING job.id
"""

# Undoes the claim: the attempt is not counted.
RELEASE = f"""
WITH {ours("id, lease", "$1::uuid[]", "$2::bigint[]")}
UPDATE job SET state = 'available', attempt = attempt - 1, run_lease = run_lease + 1, session_id = NULL,
    deadline_at = NULL
FROM run WHERE {THESE} AND job.cancel_requested_at IS NULL
RETURNING job.id
"""

_WORDS = ("$1::uuid[]", "$2::bigint[]", "$4::bigint[]", "$5::bigint[]", "$6::text[]")
PROGRESS = f"""
WITH {ours("id, lease, done, total, message", *_WORDS)}
UPDATE job SET progress_done = run.done, progress_total = run.total, progress_message = run.message
FROM run WHERE {THESE}
RETURNING job.id, job.run_lease
"""

# The runs, of those given, that still hold their job. LIMIT: otherwise it is planned as a join with the whole table.
HELD = f"""
SELECT run.id, run.lease FROM unnest((SELECT $1::uuid[]), (SELECT $2::bigint[])) AS run (id, lease),
    LATERAL (SELECT FROM job WHERE {_FENCE} LIMIT 1) AS held
"""

# Runs of a session that its worker does not know.
UNKNOWN_RUNS = """
SELECT id, run_lease FROM job WHERE state = 'running' AND session_id = $1
    AND NOT EXISTS (SELECT FROM unnest($2::uuid[], $3::bigint[]) AS run (id, lease)
        WHERE run.id = job.id AND run.lease = job.run_lease)
"""

# Runs without a live session, and runs past their deadline; `margin` is a parameter. A session that has expired is that
# of a lost worker. One that is not there was closed by its worker, which lives or has ended in order.
_RUNS = """FROM job
    LEFT JOIN worker_session ON worker_session.id = job.session_id,
    LATERAL (
        SELECT COALESCE(worker_session.expires_at > now(), false) AS hung, worker_session.id IS NULL AS closed) AS run
"""
_LOST = "WHERE job.state = 'running' AND (NOT run.hung OR job.deadline_at + {margin}::interval < now())"
_RECENT_CRASH = """COALESCE((
    SELECT max((entry ->> 'at')::timestamptz) FROM jsonb_array_elements(job.errors) AS entry
    WHERE entry ->> 'outcome' = 'crash') > now() - interval '1 day', false)"""
_CRASHES = f"""LATERAL (
        SELECT here, count, here AND count >= $1 AS poison FROM (
            SELECT here, CASE WHEN NOT here THEN job.crash_count WHEN {_RECENT_CRASH} THEN job.crash_count + 1 ELSE 1
                END AS count FROM (SELECT NOT (run.hung OR run.closed) AS here) AS crash) AS crash) AS crash"""

# Makes due jobs available, so many of each queue and priority: the due jobs of one do not wait for those of another.
# `level` walks the index from one (queue, priority) to the next. Returns whether this worker may find a job to claim,
# whether more jobs may be due, whether there are runs to reap, and the kinds
# with waiting jobs that have a key.
_WAITS = "state IN ('scheduled', 'retryable')"
SWEEP = f"""
WITH RECURSIVE level AS (
    (SELECT queue, priority FROM job WHERE {_WAITS} ORDER BY queue, priority, run_at LIMIT 1)
    UNION ALL
    SELECT next.* FROM level, LATERAL (
        SELECT queue, priority FROM job WHERE {_WAITS} AND (queue, priority) > (level.queue, level.priority)
        ORDER BY queue, priority, run_at LIMIT 1) AS next
), share AS MATERIALIZED (
    SELECT GREATEST({MIN_PROMOTE_ROWS}, {PROMOTE_ROWS} / GREATEST(1, count(*))) AS size FROM level
), due AS (
    UPDATE job SET state = 'available' WHERE id = ANY (ARRAY(
        SELECT first.id FROM level, LATERAL (
            SELECT id FROM job
            WHERE {_WAITS} AND job.queue = level.queue AND job.priority = level.priority AND run_at <= now()
            ORDER BY run_at LIMIT (SELECT size FROM share) FOR NO KEY UPDATE SKIP LOCKED) AS first))
    RETURNING queue, kind
)
SELECT EXISTS (SELECT FROM due WHERE queue = ANY ($1::text[]) AND kind = ANY ($2::text[]))
    OR EXISTS (SELECT FROM unnest($1::text[]) AS q (name), unnest($2::text[]) AS k (name), LATERAL (
        SELECT FROM job WHERE state = 'available' AND queue = q.name AND kind = k.name LIMIT 1) AS first) AS work,
    (SELECT count(*) FROM due) >= (SELECT size FROM share) AS more,
    EXISTS (SELECT {_RUNS} {_LOST.format(margin="$3")}) AS lost,
    ARRAY(SELECT k.name FROM unnest($2::text[]) AS k (name) WHERE EXISTS (
        SELECT FROM unnest($1::text[]) AS q (name), LATERAL (
            SELECT FROM job WHERE state = 'available' AND queue = q.name AND kind = k.name AND limit_key > ''
            ORDER BY limit_key LIMIT 1) AS first)) AS keyed
"""

# A job whose run was lost is cancelled if that was requested, discarded as poison if it has crashed too many workers or
# if its last attempt hung, and otherwise available at once. A hung attempt is counted as an attempt. A crash is not,
# and is forgotten a day later: workers that are lost so long after each other are lost for other reasons.
_TAKEN = "job.id = lost.id AND job.id = ANY (ARRAY(SELECT id FROM lost))"  # twice, as in `_THESE`
REAP = f"""
WITH reaper AS MATERIALIZED (SELECT pg_try_advisory_xact_lock({REAPER_LOCK}) AS alone),
lost AS MATERIALIZED (
    SELECT job.id, run.hung, crash.count AS crash_count, CASE
            WHEN job.cancel_requested_at IS NOT NULL THEN 'cancelled'
            WHEN run.hung AND job.attempt >= job.max_attempts THEN 'discarded'
            WHEN crash.poison THEN 'discarded'
            ELSE 'available' END AS fate,
        CASE WHEN run.hung THEN $2::jsonb WHEN crash.poison THEN $5::jsonb WHEN crash.here THEN $3::jsonb END
            || jsonb_build_object('run', job.run_lease, 'attempt', job.attempt) AS entry
    {_RUNS}, {_CRASHES}
    {_LOST.format(margin="$4")} AND (SELECT alone FROM reaper)
    LIMIT {REAP_ROWS} FOR UPDATE OF job SKIP LOCKED
), returned AS (
    UPDATE job SET state = lost.fate, session_id = NULL, deadline_at = NULL, run_lease = run_lease + 1,
        attempt = CASE WHEN lost.hung THEN attempt ELSE attempt - 1 END, crash_count = lost.crash_count,
        errors = {_errors("job", "lost.entry")}
    FROM lost WHERE {_TAKEN} AND lost.fate = 'available'
    RETURNING job.id, job.kind, job.queue, lost.fate, lost.hung, job.batch_id
), removed AS (
    DELETE FROM job USING lost WHERE {_TAKEN} AND lost.fate IN ('cancelled', 'discarded')
    RETURNING job.*, lost.fate, lost.hung, lost.entry, lost.crash_count AS crashes
), ended AS (
    INSERT INTO job_history ({HISTORY_COLUMNS})
    SELECT {COMMON_COLUMNS.replace("crash_count", "crashes")}, attempt - (NOT hung)::int,
        {_errors("removed", "entry")}, fate, now()
    FROM removed RETURNING id
), forgotten AS (
    DELETE FROM worker_session USING reaper WHERE reaper.alone AND expires_at < now() - $6::interval
)
SELECT id, kind, queue, fate, hung, batch_id FROM returned
UNION ALL SELECT id, kind, queue, fate, hung, batch_id FROM removed
"""

OPEN_SESSION = """
INSERT INTO worker_session (name, version, queues, kinds, concurrency, expires_at)
VALUES ($1, $2, $3, $4, $5, now() + $6::interval) RETURNING id
"""
# An expired session is never renewed: other workers may have its jobs by now.
RENEW_SESSION = """
UPDATE worker_session SET renewed_at = now(), expires_at = now() + $2::interval
WHERE id = $1 AND expires_at > now() RETURNING id
"""
# By itself: a lock on the table of jobs, as a migration takes it, must not keep a session from being renewed.
CANCELLED_RUNS = "SELECT id FROM job WHERE state = 'running' AND session_id = $1 AND cancel_requested_at IS NOT NULL"
STOP_SESSION = "UPDATE worker_session SET stopping = true WHERE id = $1"
# The reaper gives back what still runs in its name, and counts no crash.
CLOSE_SESSION = "DELETE FROM worker_session WHERE id = $1"
# A worker that lost its session and lives has not crashed: undo what the reaper counted for its runs. A row that is
# locked is left out, as it is about to end: the worker must not wait for another transaction before it works again.
UNCOUNT_CRASHES = """
WITH run AS MATERIALIZED (
    SELECT known.id, known.crash FROM (
        SELECT id, jsonb_build_object('run', lease, 'outcome', 'crash') AS crash
        FROM unnest((SELECT $1::uuid[]), (SELECT $2::bigint[])) AS known (id, lease)) AS known,
    LATERAL (
        SELECT FROM job WHERE job.id = known.id AND job.crash_count > 0 AND job.errors @> jsonb_build_array(known.crash)
        FOR NO KEY UPDATE SKIP LOCKED) AS held
)
UPDATE job SET crash_count = crash_count - 1, errors = (
    SELECT jsonb_agg(CASE WHEN entry @> run.crash THEN entry || $3::jsonb ELSE entry END ORDER BY place)
    FROM jsonb_array_elements(job.errors) WITH ORDINALITY AS entries (entry, place))
FROM run WHERE job.id = run.id AND job.id = ANY (ARRAY(SELECT id FROM run))
RETURNING job.id
"""
CANCELLED_AMONG = (
    "SELECT id FROM job WHERE id = ANY ($1::uuid[]) AND session_id = $2 AND cancel_requested_at IS NOT NULL"
)

# Of a job whose row is locked.
CANCEL_WAITING = f"""
WITH ended AS (DELETE FROM job WHERE id = $1 RETURNING *)
INSERT INTO job_history ({HISTORY_COLUMNS})
SELECT {COMMON_COLUMNS}, attempt, errors, 'cancelled', now() FROM ended
"""
CANCEL_RUNNING = "UPDATE job SET cancel_requested_at = now() WHERE id = $1 AND cancel_requested_at IS NULL"
