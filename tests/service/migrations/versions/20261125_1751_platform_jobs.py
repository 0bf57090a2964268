"""the tables of the platform: jobs

Revision: cf6603e2c426
After: 330ca466329a
Made: 2026-11-25 17:51:19+00:00
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "cf6603e2c426"
down_revision = "330ca466329a"
branch_labels = None
depends_on = None


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
    waiting = sa.text("state IN ('scheduled', 'retryable')")
    running, owned = sa.text("state = 'running'"), sa.text("owner IS NOT NULL")
    line = ["queue", "kind", "priority", "run_at", "id"]
    sound = sa.text("state = 'available' AND crash_count < 2")
    suspect = sa.text("state = 'available' AND crash_count >= 2")
    op.create_index("ix_job_claim", "job", line, postgresql_where=sound)
    op.create_index("ix_job_suspect", "job", line, postgresql_where=suspect)
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


def downgrade() -> None:
    for table in (
        "job_schedule",
        "job_queue",
        "worker_session",
        "job_history",
        "job",
    ):
        op.drop_table(table)
