"""jobs that are due, by queue and priority

Revision: plinth_0003
After: plinth_0002
Made: 2026-11-30 00:00:00+00:00
"""

import sqlalchemy as sa
from alembic import op

revision = "plinth_0003"
down_revision = "plinth_0002"
branch_labels = None
depends_on = None

WAITING = sa.text("state IN ('scheduled', 'retryable')")


def upgrade() -> None:
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
