"""The SQL of steps, and of the events that they wait for."""

from plinth.jobs.engine.sql import THESE, ours

__all__ = [
    "EVENT",
    "KEEP_STEPS",
    "KEEP_STEP_HERE",
    "SHARE_EVENT",
    "STEPS",
    "SUSPEND",
    "TIME_OUT",
]

STEPS = "SELECT name, kind, state, result::text, error, due_at <= now() FROM job_step WHERE job_id = $1"

_KEPT = ("$4::text[]", "$5::text[]", "$6::text[]", "$7::text[]", "$8::text[]", "$9::float8[]")


def _keep(lock: str) -> str:
    columns = "id, lease, name, kind, state, result, error, seconds"
    # A row that is there already is this run's own: its answer was lost, and it is written again. now() would be the
    # begin of the handler's transaction, before that of the step.
    return f"""
WITH {ours(columns, "$1::uuid[]", "$2::bigint[]", *_KEPT, lock=lock)}
INSERT INTO job_step (job_id, name, kind, state, result, error, started_at, finished_at)
SELECT id, name, kind, state, result::jsonb, error,
    clock_timestamp() - seconds * interval '1 second', clock_timestamp() FROM run
ON CONFLICT (job_id, name) DO UPDATE SET name = excluded.name
RETURNING job_id, name
"""


KEEP_STEPS = _keep("NO KEY UPDATE SKIP LOCKED")
KEEP_STEP_HERE = _keep("NO KEY UPDATE")  # in a handler's own transaction

# Against `plinth.jobs.events.LOCK_EVENT`.
SHARE_EVENT = "SELECT pg_advisory_xact_lock_shared($1)"

EVENT = "SELECT payload::text FROM job_event WHERE name = $1"

# Gives the slot back until the step is over. The time stands in the step's row, which an earlier run may have made. A
# job whose event has been emitted meanwhile goes on at once. No attempt is spent.
_WAITS = ("$4::text[]", "$5::text[]", "$6::text[]", "$7::float8[]", "$8::timestamptz[]")
SUSPEND = f"""
WITH {ours("id, lease, name, kind, event, seconds, until", "$1::uuid[]", "$2::bigint[]", *_WAITS)}, kept AS (
    INSERT INTO job_step (job_id, name, kind, state, result, event, due_at, finished_at)
    SELECT run.id, run.name, run.kind, CASE WHEN job_event.name IS NULL THEN 'waiting' ELSE 'done' END,
        job_event.payload, run.event, COALESCE(run.until, now() + run.seconds * interval '1 second'),
        job_event.emitted_at
    FROM run LEFT JOIN job_event ON job_event.name = run.event
    ON CONFLICT (job_id, name) DO UPDATE SET name = excluded.name
    RETURNING job_id, state = 'waiting' AS waits, COALESCE(due_at, '9999-12-31 UTC') AS due_at
)
UPDATE job SET state = CASE WHEN kept.waits AND kept.due_at > now() THEN 'scheduled' ELSE 'available' END,
    run_at = CASE WHEN kept.waits THEN LEAST(kept.due_at, '9999-12-31 UTC') ELSE now() END,
    attempt = attempt - 1, run_lease = run_lease + 1, session_id = NULL, deadline_at = NULL
FROM run, kept WHERE {THESE} AND kept.job_id = run.id AND job.cancel_requested_at IS NULL
RETURNING job.id
"""

# A wait that is over without the event. An event that came first has won.
TIME_OUT = """
UPDATE job_step SET state = 'timed_out', finished_at = now() FROM job
WHERE job_step.job_id = $1 AND job_step.name = $4 AND job_step.state = 'waiting' AND job_step.due_at <= now()
    AND job.id = $1 AND job.run_lease = $2 AND COALESCE(job.session_id = $3, false)
RETURNING job_step.name
"""
