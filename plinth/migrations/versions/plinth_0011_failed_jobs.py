"""indexes of the jobs that failed or were cancelled

Revision: plinth_0011
After: plinth_0010
Made: 2026-11-30 22:30:00+00:00
"""

import sqlalchemy as sa
from alembic import op

revision = "plinth_0011"
down_revision = "plinth_0010"
branch_labels = None
depends_on = None

INDEXES = {"ix_job_history_failed": ["state", "id"], "ix_job_history_failed_kind": ["state", "kind", "id"]}


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for name, columns in INDEXES.items():
            op.drop_index(name, "job_history", postgresql_concurrently=True, if_exists=True)
            op.create_index(
                name,
                "job_history",
                columns,
                postgresql_where=sa.text("state <> 'succeeded'"),
                postgresql_concurrently=True,
            )


def downgrade() -> None:
    for name in INDEXES:
        op.drop_index(name, "job_history")
