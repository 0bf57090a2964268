"""jobs that are due, by queue and priority; slots of schedules

Revision: plinth_0004
After: plinth_0002
Made: 2026-11-30 00:00:00+00:00
"""

import sqlalchemy as sa
from alembic import op

revision = "plinth_0004"
down_revision = "plinth_0002"
branch_labels = None
depends_on = None

WAITING = sa.text("state IN ('scheduled', 'retryable')")


SLOTS = (("job", "slot_at"), ("job_history", "slot_at"), ("job_schedule", "retired_at"))


def upgrade() -> None:
    for table, column in SLOTS:
        op.add_column(table, sa.Column(column, sa.DateTime(timezone=True)))
    with op.get_context().autocommit_block():
        op.create_index(
            "ix_job_due",
            "job",
            ["queue", "priority", "run_at"],
            postgresql_where=WAITING,
            postgresql_concurrently=True,
            if_not_exists=True,
        )
        op.drop_index("ix_job_waiting", "job", postgresql_concurrently=True, if_exists=True)


def downgrade() -> None:
    op.create_index("ix_job_waiting", "job", ["run_at"], postgresql_where=WAITING)
    op.drop_index("ix_job_due", "job")
    for table, column in SLOTS:
        op.drop_column(table, column)
