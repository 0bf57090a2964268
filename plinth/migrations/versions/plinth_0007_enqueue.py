"""a function that enqueues a job, for triggers and other languages

Revision: plinth_0007
After: plinth_0006
Made: 2026-11-30 06:30:00+00:00
"""

from alembic import op

revision = "plinth_0007"
down_revision = "plinth_0006"
branch_labels = None
depends_on = None

# As in plinth.jobs.tables, and frozen here.
CREATE = """
CREATE OR REPLACE FUNCTION plinth_enqueue(
    kind text,
    payload jsonb,
    queue text DEFAULT 'default',
    priority int DEFAULT 0,
    owner text DEFAULT NULL,
    unique_key text DEFAULT NULL,
    max_attempts int DEFAULT 25,
    run_at timestamptz DEFAULT NULL
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
    LOOP
        INSERT INTO job (kind, queue, priority, owner, payload, unique_key, max_attempts, run_at, state)
        VALUES (plinth_enqueue.kind, plinth_enqueue.queue, plinth_enqueue.priority, plinth_enqueue.owner,
            plinth_enqueue.payload, plinth_enqueue.unique_key, plinth_enqueue.max_attempts, due,
            CASE WHEN due > now() THEN 'scheduled' ELSE 'available' END)
        ON CONFLICT (kind, unique_key) WHERE unique_key IS NOT NULL DO NOTHING
        RETURNING id INTO found;
        EXIT WHEN found IS NOT NULL;
        SELECT id INTO found FROM job
        WHERE job.kind = plinth_enqueue.kind AND job.unique_key = plinth_enqueue.unique_key FOR KEY SHARE;
        EXIT WHEN found IS NOT NULL; -- else that job has ended in between, and its key is free
    END LOOP;
    RETURN found;
END
$$
"""


def upgrade() -> None:
    op.execute(CREATE)


def downgrade() -> None:
    op.execute("DROP FUNCTION plinth_enqueue")
