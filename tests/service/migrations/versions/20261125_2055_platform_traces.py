"""the trace a job was enqueued in, and duties of one process at a time

Revision: 5d1f0c8e7a21
After: cf6603e2c426
Made: 2026-11-25 20:55:00+00:00
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "5d1f0c8e7a21"
down_revision = "cf6603e2c426"
branch_labels = None
depends_on = None

JOBS = ("job", "job_history")


def upgrade() -> None:
    for table in JOBS:
        op.add_column(table, sa.Column("trace_context", postgresql.JSONB()))
    op.create_table(
        "duty",
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("holder", sa.Uuid(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_duty")),
    )


def downgrade() -> None:
    op.drop_table("duty")
    for table in JOBS:
        op.drop_column(table, "trace_context")
