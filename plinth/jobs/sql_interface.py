"""What other programs see of jobs in SQL: the view `job_status`, and the function `plinth_enqueue`."""

__all__ = ["CREATE_ENQUEUE", "CREATE_JOB_STATUS"]

# What a service may ask of jobs in its own SQL. A join on `id` is two look-ups, and one with `live`; docs/jobs/sql.md.
CREATE_JOB_STATUS = """
CREATE OR REPLACE VIEW job_status AS
SELECT id, state, true AS live, run_lease AS run, progress_done, progress_total, progress_message,
    NULL::timestamptz AS finished_at
FROM job
UNION ALL
SELECT id, state, false, run_lease, progress_done, progress_total, progress_message, finished_at
FROM job_history
"""
# For triggers and programs in other languages; docs/jobs/sql.md. Workers find the job when they look, within a second.
CREATE_ENQUEUE = """
CREATE OR REPLACE FUNCTION plinth_enqueue(
    kind text,
    payload jsonb,
    queue text DEFAULT 'default',
    priority int DEFAULT 0,
    owner text DEFAULT NULL,
    unique_key text DEFAULT NULL,
    max_attempts int DEFAULT 25,
    run_at timestamptz DEFAULT NULL,
    limit_key text DEFAULT '',
    unique_mode text DEFAULT 'live'
) RETURNS uuid LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    found uuid;
    due timestamptz := COALESCE(plinth_enqueue.run_at, now());
BEGIN
    IF plinth_enqueue.kind !~ '^[A-Za-z0-9][A-Za-z0-9._:-]{0,99}$'
        OR plinth_enqueue.queue !~ '^[A-Za-z0-9][A-Za-z0-9._:-]{0,99}$' THEN
        RAISE EXCEPTION 'the kind or the queue of a job has no such name' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF plinth_enqueue.unique_mode NOT IN ('live', 'waiting') THEN
        RAISE EXCEPTION 'unique_mode is live or waiting' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    LOOP
        INSERT INTO job (kind, queue, priority, owner, payload, unique_key, max_attempts, run_at, limit_key, state,
            unique_while_waiting)
        VALUES (plinth_enqueue.kind, plinth_enqueue.queue, plinth_enqueue.priority, plinth_enqueue.owner,
            plinth_enqueue.payload, plinth_enqueue.unique_key, plinth_enqueue.max_attempts, due,
            COALESCE(plinth_enqueue.limit_key, ''), CASE WHEN due > now() THEN 'scheduled' ELSE 'available' END,
            plinth_enqueue.unique_mode = 'waiting')
        ON CONFLICT (kind, unique_key) WHERE unique_key IS NOT NULL DO NOTHING
        RETURNING id INTO found;
        EXIT WHEN found IS NOT NULL;
        IF plinth_enqueue.unique_mode = 'waiting' THEN
            SELECT id INTO found FROM job
            WHERE job.kind = plinth_enqueue.kind AND job.unique_key = plinth_enqueue.unique_key FOR SHARE;
        ELSE
            SELECT id INTO found FROM job
            WHERE job.kind = plinth_enqueue.kind AND job.unique_key = plinth_enqueue.unique_key FOR KEY SHARE;
        END IF;
        EXIT WHEN found IS NOT NULL; -- else that job has ended in between, and its key is free
    END LOOP;
    RETURN found;
END
$$
"""
