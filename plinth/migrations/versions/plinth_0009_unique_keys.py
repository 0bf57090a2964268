"""unique keys that are held while a job waits, until one succeeds, or for a period; retention by kind

Revision: plinth_0009
After: plinth_0008
Made: 2026-11-30 08:30:00+00:00
"""

import sqlalchemy as sa
from alembic import op

from plinth.migrations.versions import plinth_0007_enqueue

revision = "plinth_0009"
down_revision = "plinth_0008"
branch_labels = None
depends_on = None

DROP = "DROP FUNCTION plinth_enqueue"
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


DEAD = sa.text("state = 'discarded'")


def upgrade() -> None:
    # First, and so that it may be begun again: it commits step by step.
    with op.get_context().autocommit_block():
        for name in ("ix_job_history_prune", "ix_job_history_dead"):
            op.drop_index(name, "job_history", postgresql_concurrently=True, if_exists=True)
        op.create_index(
            "ix_job_history_prune", "job_history", ["state", "kind", "finished_at"], postgresql_concurrently=True
        )
        op.create_index(
            "ix_job_history_dead", "job_history", ["finished_at"], postgresql_where=DEAD, postgresql_concurrently=True
        )
        op.drop_index("ix_job_history_state_finished_at", "job_history", postgresql_concurrently=True, if_exists=True)
    for table in ("job", "job_history"):
        op.add_column(
            table, sa.Column("unique_while_waiting", sa.Boolean(), server_default=sa.text("false"), nullable=False)
        )
    op.create_table(
        "job_key_hold",
        sa.Column("kind", sa.String(100), primary_key=True),
        sa.Column("key", sa.String(255), primary_key=True),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("free_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("until_success", sa.Boolean(), nullable=False),
    )
    op.create_index("ix_job_key_hold_job_id", "job_key_hold", ["job_id"])
    op.create_index(
        "ix_job_key_hold_free_at", "job_key_hold", ["free_at"], postgresql_where=sa.text("NOT until_success")
    )
    # Another list of parameters would be another function beside it, and calls of both ambiguous.
    op.execute(DROP)
    op.execute(CREATE)


def downgrade() -> None:
    op.execute(DROP)
    op.execute(plinth_0007_enqueue.CREATE)
    op.drop_table("job_key_hold")
    for table in ("job", "job_history"):
        op.drop_column(table, "unique_while_waiting")
    op.create_index("ix_job_history_state_finished_at", "job_history", ["state", "finished_at"])
    op.drop_index("ix_job_history_dead", "job_history")
    op.drop_index("ix_job_history_prune", "job_history")
