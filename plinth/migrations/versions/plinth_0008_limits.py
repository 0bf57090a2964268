"""limits of jobs that share a key

Revision: plinth_0008
After: plinth_0007
Made: 2026-11-30 08:30:00+00:00
"""

import sqlalchemy as sa
from alembic import op

from plinth.migrations.versions.plinth_0007_enqueue import CREATE as OLD_CREATE

revision = "plinth_0008"
down_revision = "plinth_0007"
branch_labels = None
depends_on = None

LINE = ["queue", "kind", "limit_key", "priority", "run_at", "id"]
TURN = sa.text("state = 'available' AND owner IS NOT NULL AND limit_key = ''")
RUNNING = sa.text("state = 'running' AND limit_key > ''")
OLD_LINE = ["queue", "kind", "priority", "run_at", "id"]
OLD_TURN = sa.text("state = 'available' AND owner IS NOT NULL")
AVAILABLE = sa.text("state = 'available'")
TURN_ORDER = ["owner", "priority", "run_at", "id"]

OLD_ENQUEUE = "plinth_enqueue(text, jsonb, text, int, text, text, int, timestamptz)"
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
    limit_key text DEFAULT ''
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
        INSERT INTO job (kind, queue, priority, owner, payload, unique_key, max_attempts, run_at, limit_key, state)
        VALUES (plinth_enqueue.kind, plinth_enqueue.queue, plinth_enqueue.priority, plinth_enqueue.owner,
            plinth_enqueue.payload, plinth_enqueue.unique_key, plinth_enqueue.max_attempts, due,
            COALESCE(plinth_enqueue.limit_key, ''), CASE WHEN due > now() THEN 'scheduled' ELSE 'available' END)
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
    for table in ("job", "job_history"):
        op.execute(f"ALTER TABLE {table} ADD COLUMN IF NOT EXISTS limit_key varchar(255) NOT NULL DEFAULT ''")
    op.create_table(
        "job_start",
        sa.Column("kind", sa.String(100), primary_key=True),
        sa.Column("limit_key", sa.String(255), primary_key=True),
        sa.Column("at", sa.DateTime(timezone=True), primary_key=True),
        sa.Column("starts", sa.Integer(), nullable=False),
        if_not_exists=True,
    )
    op.create_index("ix_job_start_at", "job_start", ["at"], if_not_exists=True)
    op.execute(f"DROP FUNCTION IF EXISTS {OLD_ENQUEUE}")
    op.execute(CREATE)
    _replace_indexes(LINE, TURN)
    with op.get_context().autocommit_block():
        op.create_index(
            "ix_job_running_key",
            "job",
            ["kind", "limit_key"],
            postgresql_where=RUNNING,
            postgresql_concurrently=True,
            if_not_exists=True,
        )


def _replace_indexes(line: list[str], turn: sa.TextClause) -> None:
    """Build the claim's indexes beside the old ones, so that claims have one all the time."""
    with op.get_context().autocommit_block():
        for name, columns, where in (("ix_job_claim", line, AVAILABLE), ("ix_job_turn", TURN_ORDER, turn)):
            new = f"{name}_new"
            op.drop_index(new, "job", postgresql_concurrently=True, if_exists=True)
            op.create_index(new, "job", columns, postgresql_where=where, postgresql_concurrently=True)
            op.drop_index(name, "job", postgresql_concurrently=True, if_exists=True)
            op.execute(f"ALTER INDEX {new} RENAME TO {name}")


def downgrade() -> None:
    _replace_indexes(OLD_LINE, OLD_TURN)
    op.execute("DROP FUNCTION plinth_enqueue")
    op.execute(OLD_CREATE)
    op.drop_index("ix_job_running_key", "job")
    op.drop_table("job_start")
    for table in ("job", "job_history"):
        op.drop_column(table, "limit_key")
