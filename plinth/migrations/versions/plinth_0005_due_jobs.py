"""jobs that are due, by queue and priority; slots of schedules; checks

Revision: plinth_0005
After: plinth_0004
Made: 2026-11-30 00:00:00+00:00
"""

import sqlalchemy as sa
from alembic import op

revision = "plinth_0005"
down_revision = "plinth_0004"
branch_labels = None
depends_on = None

WAITING = sa.text("state IN ('scheduled', 'retryable')")
SLOTS = (("job", "slot_at"), ("job_history", "slot_at"), ("job_schedule", "retired_at"))
# As in plinth.jobs.tables, and frozen here.
CHECKS = {
    "run_at": "run_at >= '1900-01-01 UTC' AND run_at < '10000-01-01 UTC'",
    "errors": "jsonb_typeof(errors) = 'array'",
    "max_attempts": "max_attempts >= 1",
    "trace_context": (
        "trace_context IS NULL OR COALESCE(jsonb_typeof(trace_context -> 'traceparent') = 'string', false)"
    ),
}


def upgrade() -> None:
    # First, and so that it may be begun again: it commits step by step.
    with op.get_context().autocommit_block():
        op.drop_index("ix_job_due", "job", postgresql_concurrently=True, if_exists=True)
        op.create_index(
            "ix_job_due",
            "job",
            ["queue", "priority", "run_at"],
            postgresql_where=WAITING,
            postgresql_concurrently=True,
        )
        op.drop_index("ix_job_waiting", "job", postgresql_concurrently=True, if_exists=True)
        op.drop_index("ix_job_history_queue_id", "job_history", postgresql_concurrently=True, if_exists=True)
        op.create_index("ix_job_history_queue_id", "job_history", ["queue", "id"], postgresql_concurrently=True)
    for name, check in CHECKS.items():
        op.create_check_constraint(op.f(f"ck_job_{name}"), "job", check)
    for table, column in SLOTS:
        op.add_column(table, sa.Column(column, sa.DateTime(timezone=True)))


def downgrade() -> None:
    for name in CHECKS:
        op.drop_constraint(op.f(f"ck_job_{name}"), "job")
    op.drop_index("ix_job_history_queue_id", "job_history")
    op.create_index("ix_job_waiting", "job", ["run_at"], postgresql_where=WAITING)
    op.drop_index("ix_job_due", "job")
    for table, column in SLOTS:
        op.drop_column(table, column)
