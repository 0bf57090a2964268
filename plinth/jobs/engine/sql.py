"""The SQL of the engine. Whatever moves a job from one state to another stands here, or in `enqueue` and `control`.

Three rules hold it together. Every write of a run is fenced by the run's number (`run_lease`) and by its worker's
session: a run that was replaced changes nothing. Whoever takes a job away from its run raises the number. Only the
database's `now()` counts as time.

The fenced statements look a row up by its id and then compare: with `state = 'running'` among the conditions the
planner may choose the index on running jobs, which old statistics call empty, and is some forty times slower. The
arrays of ids go through `(SELECT …)`, which hides their length: for two hundred known ids the planner may rather read
the whole table. And the session is compared within `COALESCE`: statistics taken when nothing ran say that no row has
one, and the planner would join by comparing every row with every id.
"""

# No other program may use these as advisory locks in the same database: "plinj" and a number.
REAPER_LOCK = 0x706C696E6A01
PRUNE_LOCK = 0x706C696E6A02
SUSPECT_LOCK = 0x706C696E6A03
LIMIT_LOCK = 0x706C696E  # the class of the locks that guard `max_running`, one for each kind

MAX_ERRORS = 50  # kept for a job; the oldest go first
PROMOTE_ROWS = 1000
REAP_ROWS = 500
PRUNE_ROWS = 5000

COMMON_COLUMNS = (
    "id, kind, queue, priority, owner, payload, unique_key, max_attempts, crash_count, run_lease, created_at, run_at, "
    "started_at, progress_done, progress_total, progress_message, trace_context"
)
HISTORY_COLUMNS = f"{COMMON_COLUMNS}, attempt, errors, state, finished_at"

# First look, without locking, how the first $4 in line are spread over queues and kinds; then lock so many of each.
# Locking while looking would lock (and write) that many rows for every kind. A kind that this worker does not know,
# or one at its limit, costs nothing however long its line is: it is never walked along. An expired session gets
# nothing, since the reaper would take it away again.
_CLAIM = """
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
        WHERE state = 'available' AND {line} AND job.queue = w.queue AND job.kind = w.kind
        ORDER BY priority, run_at, id LIMIT least(w.room, $4)
    ) AS first
), shares AS (
    SELECT queue, kind, count(*) AS share
    FROM (SELECT queue, kind FROM ahead WHERE place <= room ORDER BY priority, run_at, id LIMIT $4) AS line
    GROUP BY queue, kind
), mine AS MATERIALIZED (
    SELECT locked.id FROM shares, LATERAL (
        SELECT id FROM job
        WHERE state = 'available' AND {line} AND job.queue = shares.queue AND job.kind = shares.kind
        ORDER BY priority, run_at, id LIMIT shares.share FOR UPDATE SKIP LOCKED
    ) AS locked
)
UPDATE job SET state = 'running', run_lease = run_lease + 1, attempt = attempt + 1, session_id = $5,
    started_at = now(), deadline_at = now() + ($6::jsonb ->> kind)::float8 * interval '1 second',
    progress_done = NULL, progress_total = NULL, progress_message = NULL
WHERE id = ANY (ARRAY(SELECT id FROM mine))
RETURNING id, run_lease, kind, queue, priority, owner, payload::text, attempt, max_attempts, run_at, started_at,
    trace_context, errors = '[]' AS untried
"""
# A job that was running when two workers were lost may be what they died of. Suspects run one at a time in the whole
# fleet: whatever stands beside them is hit once or twice, and not until it is taken for poison itself.
_SOUND, _SUSPECT = "crash_count < 2", "crash_count >= 2"
CLAIM = _CLAIM.format(line=_SOUND)
CLAIM_SUSPECT = _CLAIM.format(line=_SUSPECT)
# Of kinds with a limit, those that have a job in line.
WAITING_KINDS = f"""
SELECT k.name FROM unnest($2::text[]) AS k (name) WHERE EXISTS (
    SELECT FROM unnest($1::text[]) AS q (name), LATERAL (
        SELECT FROM job WHERE state = 'available' AND {_SOUND} AND queue = q.name AND kind = k.name LIMIT 1) AS first)
"""
RUNNING_OF_KIND = "SELECT count(*) FROM job WHERE state = 'running' AND kind = $1"
TRY_LIMIT_LOCK = "SELECT pg_try_advisory_xact_lock($1, hashtext($2))"
TRY_SUSPECT_LOCK = f"SELECT pg_try_advisory_xact_lock({SUSPECT_LOCK})"
SUSPECT_RUNS = f"SELECT EXISTS (SELECT FROM job WHERE state = 'running' AND {_SUSPECT})"

# Said twice: a planner that takes the table for empty, as the last ANALYZE found it, would else read all of it.
_THESE = "job.id = run.id AND job.id = ANY (ARRAY(SELECT id FROM run))"
_FENCE = "job.id = run.id AND job.run_lease = run.lease AND COALESCE(job.session_id = $3, false)"


def _errors(table: str, entry: str) -> str:
    """The errors of a row with one more, if there is one; of too many the oldest go."""
    return (
        f"CASE WHEN {entry} IS NULL THEN {table}.errors "
        f"WHEN jsonb_array_length({table}.errors) >= {MAX_ERRORS} THEN {table}.errors - 0 ELSE {table}.errors END "
        f"|| COALESCE({entry} || jsonb_build_object('at', now()), '[]')"
    )


def _ours(columns: str, *parameters: str, wait: bool = False) -> str:
    """The runs among the parameters whose job still is theirs, with its row locked.

    A row that somebody else has locked is left out unless we `wait` for it: nobody's transaction may hold up what all
    the runs of a worker have to say. Who gets no answer for a run asks with `HELD` what that means.
    """
    arrays = ", ".join(f"(SELECT {parameter})" for parameter in parameters)
    return f"""run AS MATERIALIZED (
    SELECT run.* FROM unnest({arrays}) AS run ({columns}),
        LATERAL (SELECT FROM job WHERE {_FENCE} FOR UPDATE{"" if wait else " SKIP LOCKED"}) AS held
)"""


def _finish(*, wait: bool) -> str:
    ours = _ours("id, lease, state, error", "$1::uuid[]", "$2::bigint[]", "$4::text[]", "$5::jsonb[]", wait=wait)
    return f"""
WITH {ours}, ended AS (
    DELETE FROM job USING run
    WHERE {_THESE} AND (run.state <> 'cancelled' OR job.cancel_requested_at IS NOT NULL)
    RETURNING job.*, run.state AS end_state, run.error
)
INSERT INTO job_history ({HISTORY_COLUMNS})
SELECT {COMMON_COLUMNS}, attempt, {_errors("ended", "ended.error")}, end_state, now() FROM ended
RETURNING id
"""


FINISH = _finish(wait=False)
FINISH_HERE = _finish(wait=True)  # in a handler's own transaction

RETRY = f"""
WITH {_ours("id, lease, delay, error", "$1::uuid[]", "$2::bigint[]", "$4::float8[]", "$5::jsonb[]")}
UPDATE job SET state = 'retryable', run_at = now() + run.delay * interval '1 second', session_id = NULL,
    deadline_at = NULL, errors = {_errors("job", "run.error")}
FROM run WHERE {_THESE} AND job.cancel_requested_at IS NULL
RETURNING job.id
"""

# The run is taken back: as if it had not been.
RELEASE = f"""
WITH {_ours("id, lease", "$1::uuid[]", "$2::bigint[]")}
UPDATE job SET state = 'available', attempt = attempt - 1, run_lease = run_lease + 1, session_id = NULL,
    deadline_at = NULL
FROM run WHERE {_THESE} AND job.cancel_requested_at IS NULL
RETURNING job.id
"""

_WORDS = ("$1::uuid[]", "$2::bigint[]", "$4::bigint[]", "$5::bigint[]", "$6::text[]")
PROGRESS = f"""
WITH {_ours("id, lease, done, total, message", *_WORDS)}
UPDATE job SET progress_done = run.done, progress_total = run.total, progress_message = run.message
FROM run WHERE {_THESE}
RETURNING job.id, job.run_lease
"""

# Of these runs, those whose job still is theirs. LIMIT: else it would be planned as a join, with the whole table.
HELD = f"""
SELECT run.id, run.lease FROM unnest((SELECT $1::uuid[]), (SELECT $2::bigint[])) AS run (id, lease),
    LATERAL (SELECT FROM job WHERE {_FENCE} LIMIT 1) AS held
"""

# What runs in a session's name without being known to it.
UNKNOWN_RUNS = """
SELECT id, run_lease FROM job WHERE state = 'running' AND session_id = $1
    AND NOT EXISTS (SELECT FROM unnest($2::uuid[], $3::bigint[]) AS run (id, lease)
        WHERE run.id = job.id AND run.lease = job.run_lease)
"""

_ANY_IN_LINE = """EXISTS (
    SELECT FROM unnest($1::text[]) AS q (name), unnest($2::text[]) AS k (name), LATERAL (
        SELECT FROM job WHERE state = 'available' AND {line} AND queue = q.name AND kind = k.name LIMIT 1) AS first)"""

# Runs whose worker is lost, and runs past their deadline; `margin` is a parameter.
_LOST = """FROM job
    LEFT JOIN worker_session ON worker_session.id = job.session_id AND worker_session.expires_at > now(),
    LATERAL (SELECT worker_session.id IS NOT NULL AS yes) AS hung
    WHERE job.state = 'running' AND (worker_session.id IS NULL OR job.deadline_at + {margin}::interval < now())"""

# What has become due becomes available. The answer: whether this worker may find something to claim, or a suspect, and
# whether there is something to reap.
SWEEP = f"""
WITH due AS (
    UPDATE job SET state = 'available' WHERE id = ANY (ARRAY(
        SELECT id FROM job WHERE state IN ('scheduled', 'retryable') AND run_at <= now()
        ORDER BY run_at LIMIT {PROMOTE_ROWS} FOR UPDATE SKIP LOCKED))
    RETURNING queue, kind
)
SELECT EXISTS (SELECT FROM due WHERE queue = ANY ($1::text[]) AND kind = ANY ($2::text[]))
        OR {_ANY_IN_LINE.format(line=_SOUND)} AS work,
    {_ANY_IN_LINE.format(line=_SUSPECT)} AS suspects,
    EXISTS (SELECT {_LOST.format(margin="$3")}) AS lost
"""

# What becomes of lost runs: cancelled if that was asked for; discarded as poison when the job has cost too many workers
# their lives, or when the hung attempt was its last; else available at once. A hung attempt counts as one, a crash does
# not.
REAP = f"""
WITH reaper AS MATERIALIZED (SELECT pg_try_advisory_xact_lock({REAPER_LOCK}) AS alone),
lost AS MATERIALIZED (
    SELECT job.id, hung.yes AS hung, CASE
            WHEN job.cancel_requested_at IS NOT NULL THEN 'cancelled'
            WHEN hung.yes AND job.attempt >= job.max_attempts THEN 'discarded'
            WHEN NOT hung.yes AND job.crash_count + 1 >= $1 THEN 'discarded'
            ELSE 'available' END AS fate,
        CASE WHEN hung.yes THEN $2::jsonb WHEN job.crash_count + 1 >= $1 THEN $5::jsonb ELSE $3::jsonb END
            || jsonb_build_object('run', job.run_lease, 'attempt', job.attempt) AS entry
    {_LOST.format(margin="$4")} AND (SELECT alone FROM reaper)
    LIMIT {REAP_ROWS} FOR UPDATE OF job SKIP LOCKED
), returned AS (
    UPDATE job SET state = lost.fate, session_id = NULL, deadline_at = NULL, run_lease = run_lease + 1,
        attempt = CASE WHEN lost.hung THEN attempt ELSE attempt - 1 END,
        crash_count = CASE WHEN lost.hung THEN crash_count ELSE crash_count + 1 END,
        errors = {_errors("job", "lost.entry")}
    FROM lost WHERE job.id = lost.id AND lost.fate = 'available'
    RETURNING job.id, job.kind, job.queue, lost.fate, lost.hung
), removed AS (
    DELETE FROM job USING lost WHERE job.id = lost.id AND lost.fate IN ('cancelled', 'discarded')
    RETURNING job.*, lost.fate, lost.hung, lost.entry
), ended AS (
    INSERT INTO job_history ({HISTORY_COLUMNS})
    SELECT {COMMON_COLUMNS.replace("crash_count", "crash_count + (NOT hung)::int")}, attempt - (NOT hung)::int,
        {_errors("removed", "entry")}, fate, now()
    FROM removed RETURNING id
), forgotten AS (
    DELETE FROM worker_session USING reaper WHERE reaper.alone AND expires_at < now() - $6::interval
)
SELECT id, kind, queue, fate, hung FROM returned UNION ALL SELECT id, kind, queue, fate, hung FROM removed
"""

OPEN_SESSION = """
INSERT INTO worker_session (name, version, queues, kinds, concurrency, expires_at)
VALUES ($1, $2, $3, $4, $5, now() + $6::interval) RETURNING id
"""
# An expired session is never renewed: its jobs may be somebody else's by now.
RENEW_SESSION = """
WITH renewed AS (
    UPDATE worker_session SET renewed_at = now(), expires_at = now() + $2::interval
    WHERE id = $1 AND expires_at > now() RETURNING id
)
SELECT EXISTS (SELECT FROM renewed) AS alive,
    ARRAY(
        SELECT id FROM job WHERE state = 'running' AND session_id = $1 AND cancel_requested_at IS NOT NULL
    ) AS cancelled
"""
STOP_SESSION = "UPDATE worker_session SET stopping = true WHERE id = $1"
CLOSE_SESSION = "DELETE FROM worker_session WHERE id = $1"
CANCELLED_AMONG = (
    "SELECT id FROM job WHERE id = ANY ($1::uuid[]) AND session_id = $2 AND cancel_requested_at IS NOT NULL"
)

PRUNE = f"""
DELETE FROM job_history WHERE id = ANY (ARRAY(
    SELECT id FROM job_history
    WHERE (SELECT pg_try_advisory_xact_lock({PRUNE_LOCK})) AND state = $1 AND finished_at < now() - $2::interval
    ORDER BY finished_at LIMIT {PRUNE_ROWS}))
"""

# --- what owners and operators do; each locks the job first, or takes only what nobody has locked ---

CANCEL_WAITING = f"""
WITH ended AS (DELETE FROM job WHERE id = $1 RETURNING *)
INSERT INTO job_history ({HISTORY_COLUMNS})
SELECT {COMMON_COLUMNS}, attempt, errors, 'cancelled', now() FROM ended
"""
CANCEL_RUNNING = "UPDATE job SET cancel_requested_at = now() WHERE id = $1 AND cancel_requested_at IS NULL"

# Written into the one table before it leaves the other: where a live job has the unique key, nothing happens at all.
# What has cost two workers their lives stays suspect, whoever brings it back.
_BACK = """
INSERT INTO job (id, kind, queue, priority, owner, payload, unique_key, max_attempts, crash_count, run_lease,
    created_at, run_at, errors, trace_context, state)
SELECT id, kind, queue, priority, owner, payload, unique_key, max_attempts, LEAST(crash_count, 2), run_lease + 1,
    created_at, now(), errors, trace_context, 'available' FROM {source}
ON CONFLICT (kind, unique_key) WHERE unique_key IS NOT NULL DO NOTHING
RETURNING id
"""
_LEAVE_HISTORY = "DELETE FROM job_history USING back WHERE job_history.id = back.id RETURNING job_history.queue"

RETRY_ENDED = f"WITH back AS ({_BACK.format(source='job_history WHERE id = $1')}) {_LEAVE_HISTORY}"

# Those whose unique key is taken do not count towards the limit, or a thousand of them would bar the way for ever.
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
back AS ({_BACK.format(source="dead")})
{_LEAVE_HISTORY}
"""
# Of those that share a unique key one would come back.
COUNT_DEAD_LETTERS = f"""
SELECT count(DISTINCT (kind, unique_key, CASE WHEN unique_key IS NULL THEN id END)) FROM ({_DEAD_LETTERS}) AS dead
"""

MAX_LINES = 5000


# Bounded, whatever the backlog. `hops` go through the claim's index from one (queue, kind, priority) to the next: the
# first row of each has waited longest. Nothing orders waiting jobs by queue, so only the next in time are looked at.
# What is counted is ordered, though that changes no count: else the whole table might be read to find those few.
def _queue_figures(*, max_count: int, max_waiting: int) -> str:
    return f"""
WITH RECURSIVE hops AS (
    (SELECT queue, kind, priority, run_at FROM job WHERE state = 'available' AND {_SOUND}
        ORDER BY queue, kind, priority, run_at, id LIMIT 1)
    UNION ALL
    SELECT next.* FROM hops, LATERAL (
        SELECT queue, kind, priority, run_at FROM job
        WHERE state = 'available' AND {_SOUND} AND (queue, kind, priority) > (hops.queue, hops.kind, hops.priority)
        ORDER BY queue, kind, priority, run_at, id LIMIT 1) AS next
), line AS (
    SELECT queue, min(run_at) AS oldest FROM (SELECT * FROM hops LIMIT {MAX_LINES}) AS counted GROUP BY queue
), available AS (
    SELECT line.queue, line.oldest, (SELECT count(*) FROM (
        SELECT FROM job WHERE state = 'available' AND {_SOUND} AND job.queue = line.queue
        ORDER BY kind, priority, run_at, id LIMIT {max_count}) AS counted
    ) AS figure
    FROM line
), suspects AS (
    SELECT queue, count(*) AS figure, min(run_at) AS oldest
    FROM (SELECT queue, run_at FROM job WHERE state = 'available' AND {_SUSPECT}
        ORDER BY queue, kind, priority, run_at, id LIMIT {max_count}) AS counted
    GROUP BY queue
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
    COALESCE(available.figure, 0) + COALESCE(suspects.figure, 0) AS available,
    COALESCE(waiting.scheduled, 0) AS scheduled, COALESCE(waiting.retryable, 0) AS retryable,
    COALESCE(running.figure, 0) AS running,
    EXTRACT(epoch FROM now() - LEAST(available.oldest, suspects.oldest, waiting.oldest))::float8 AS oldest_due_age
FROM (
    SELECT queue AS name FROM available UNION SELECT queue FROM suspects
    UNION SELECT queue FROM waiting UNION SELECT queue FROM running
    UNION SELECT name FROM job_queue
) AS names
LEFT JOIN available ON available.queue = name
LEFT JOIN suspects ON suspects.queue = name
LEFT JOIN waiting ON waiting.queue = name
LEFT JOIN running ON running.queue = name
ORDER BY name
"""


QUEUE_FIGURES = _queue_figures(max_count=10_000, max_waiting=20_000)
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
# What was missed while it was paused is passed over. One that is not paused misses nothing.
RESUME_SCHEDULE = """
UPDATE job_schedule SET paused_at = NULL,
    last_slot = CASE WHEN paused_at IS NULL THEN last_slot ELSE GREATEST(last_slot, now()) END
WHERE name = $1 RETURNING name
"""

# --- what one process tells of the whole fleet: see `plinth.jobs.engine.fleet_metrics` ---

# The first look locks nothing: while somebody else has the duty, asking for it writes nothing.
TAKE_DUTY = """
INSERT INTO duty (name, holder, expires_at)
SELECT $1::text, $2::uuid, now() + $3::interval
WHERE NOT EXISTS (SELECT FROM duty WHERE name = $1 AND holder <> $2 AND expires_at > now())
ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, expires_at = excluded.expires_at
    WHERE duty.holder = excluded.holder OR duty.expires_at <= now()
RETURNING name
"""
LEAVE_DUTY = "DELETE FROM duty WHERE name = $1 AND holder = $2"

MAX_FIGURE = 100_000
FLEET_QUEUES = _queue_figures(max_count=MAX_FIGURE, max_waiting=MAX_FIGURE)
MIGRATION_LOCK = 0x706C696E7468  # `plinth.database.migrator.LOCK_KEY`, whose module brings Alembic along
# `migrating`: for how many seconds the process has been connected that migrates now. Null where nobody does, and -1
# where that is hidden from us: it has a role of its own.
FLEET = f"""
SELECT
    (SELECT count(*) FROM worker_session WHERE expires_at > now()) AS workers,
    ARRAY(SELECT DISTINCT unnest(queues) FROM worker_session WHERE expires_at > now()) AS queues,
    (SELECT count(*) FROM (
        SELECT FROM job_history WHERE state = 'discarded' ORDER BY finished_at LIMIT {MAX_FIGURE}) AS counted
    ) AS dead_letters,
    ARRAY(SELECT version_num FROM alembic_version ORDER BY version_num) AS revisions,
    (SELECT max(COALESCE(EXTRACT(epoch FROM now() - backend_start), -1))::float8
        FROM pg_locks LEFT JOIN pg_stat_activity USING (pid)
        WHERE locktype = 'advisory' AND granted AND objsubid = 1
            AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
            AND classid = {MIGRATION_LOCK >> 32} AND objid = {MIGRATION_LOCK & 0xFFFFFFFF}
    ) AS migrating
"""
