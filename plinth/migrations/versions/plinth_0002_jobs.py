"""jobs and idempotency records

Revision: plinth_0002
After: plinth_0001
Made: 2026-11-29 00:00:00+00:00
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "plinth_0002"
down_revision = "plinth_0001"
branch_labels = None
depends_on = None

# As in plinth.jobs.tables, and frozen here.
CREATE_JOB_STATUS = """
CREATE OR REPLACE VIEW job_status AS
SELECT id, state, true AS live, run_lease AS run, progress_done, progress_total, progress_message,
    NULL::timestamptz AS finished_at
FROM job
UNION ALL
SELECT id, state, false, run_lease, progress_done, progress_total, progress_message, finished_at
FROM job_history
"""


def timestamp(name: str, **options: Any) -> sa.Column[Any]:
    return sa.Column(name, sa.DateTime(timezone=True), **options)


def now(name: str) -> sa.Column[Any]:
    return timestamp(name, server_default=sa.text("now()"), nullable=False)


def name(column: str) -> sa.Column[Any]:
    return sa.Column(column, sa.String(length=100), nullable=False)


def names(column: str) -> sa.Column[Any]:
    return sa.Column(column, postgresql.ARRAY(sa.String(length=100)), nullable=False)


def identity() -> sa.Column[Any]:
    return sa.Column("id", sa.Uuid(), server_default=sa.text("uuid7()"), nullable=False)


def job_columns() -> list[sa.Column[Any]]:
    """The columns that `job` and `job_history` have in common."""
    return [
        identity(),
        name("kind"),
        name("queue"),
        sa.Column("priority", sa.SmallInteger(), nullable=False),
        sa.Column("owner", sa.String(length=255)),
        sa.Column("payload", postgresql.JSONB(), nullable=False),
        sa.Column("unique_key", sa.String(length=255)),
        sa.Column("max_attempts", sa.SmallInteger(), nullable=False),
        sa.Column("attempt", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("crash_count", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("run_lease", sa.BigInteger(), server_default="0", nullable=False),
        now("created_at"),
        timestamp("run_at", nullable=False),
        timestamp("started_at"),
        sa.Column("progress_done", sa.BigInteger()),
        sa.Column("progress_total", sa.BigInteger()),
        sa.Column("progress_message", sa.Text()),
        sa.Column("errors", postgresql.JSONB(), server_default="[]", nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
    ]


def upgrade() -> None:
    op.create_table(
        "job",
        *job_columns(),
        sa.Column("session_id", sa.Uuid()),
        timestamp("deadline_at"),
        timestamp("cancel_requested_at"),
        sa.Column("trace_context", postgresql.JSONB()),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_job")),
        postgresql_with={
            "fillfactor": 70,
            "autovacuum_vacuum_scale_factor": 0,
            "autovacuum_vacuum_threshold": 2000,
            "autovacuum_vacuum_cost_delay": 0,
            "autovacuum_analyze_scale_factor": 0,
            "autovacuum_analyze_threshold": 5000,
        },
    )
    available, waiting = sa.text("state = 'available'"), sa.text("state IN ('scheduled', 'retryable')")
    running, owned = sa.text("state = 'running'"), sa.text("owner IS NOT NULL")
    line = ["queue", "kind", "priority", "run_at", "id"]
    op.create_index("ix_job_claim", "job", line, postgresql_where=available)
    op.create_index("ix_job_waiting", "job", ["run_at"], postgresql_where=waiting)
    op.create_index("ix_job_running", "job", ["session_id"], postgresql_where=running)
    op.create_index("ix_job_owner_id", "job", ["owner", "id"], postgresql_where=owned)
    op.create_index(
        "uq_job_kind_unique_key",
        "job",
        ["kind", "unique_key"],
        unique=True,
        postgresql_where=sa.text("unique_key IS NOT NULL"),
    )
    op.create_table(
        "job_history",
        *job_columns(),
        timestamp("finished_at", nullable=False),
        sa.Column("trace_context", postgresql.JSONB()),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_job_history")),
        postgresql_with={"autovacuum_vacuum_scale_factor": 0.02, "autovacuum_vacuum_insert_scale_factor": 0.05},
    )
    op.create_index("ix_job_history_state_finished_at", "job_history", ["state", "finished_at"])
    op.create_index("ix_job_history_owner_id", "job_history", ["owner", "id"], postgresql_where=owned)
    op.create_index("ix_job_history_kind_id", "job_history", ["kind", "id"])
    op.create_table(
        "worker_session",
        identity(),
        sa.Column("name", sa.String(length=255), nullable=False),
        name("version"),
        names("queues"),
        names("kinds"),
        sa.Column("concurrency", sa.Integer(), nullable=False),
        now("started_at"),
        now("renewed_at"),
        timestamp("expires_at", nullable=False),
        sa.Column("stopping", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_worker_session")),
    )
    op.create_table(
        "job_queue", name("name"), now("paused_at"), sa.PrimaryKeyConstraint("name", name=op.f("pk_job_queue"))
    )
    op.create_table(
        "job_schedule",
        name("name"),
        name("kind"),
        name("cron"),
        name("timezone"),
        now("last_slot"),
        timestamp("paused_at"),
        now("declared_at"),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_job_schedule")),
    )
    op.create_table(
        "duty",
        name("name"),
        sa.Column("holder", sa.Uuid(), nullable=False),
        timestamp("expires_at", nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_duty")),
    )
    op.create_table(
        "idempotency_record",
        sa.Column("principal", sa.String(length=255), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("headers", sa.JSON(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("principal", "key", name=op.f("pk_idempotency_record")),
    )
    op.create_index("ix_idempotency_record_expires_at", "idempotency_record", ["expires_at"])
    op.execute(CREATE_JOB_STATUS)


def downgrade() -> None:
    op.execute("DROP VIEW job_status")
    for table in (
        "idempotency_record",
        "duty",
        "job_schedule",
        "job_queue",
        "worker_session",
        "job_history",
        "job",
    ):
        op.drop_table(table)
