"""results of jobs; batches of jobs

Revision: plinth_0010
After: plinth_0009
Made: 2026-11-30 09:00:00+00:00
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "plinth_0010"
down_revision = "plinth_0009"
branch_labels = None
depends_on = None

IN_BATCH = sa.text("batch_id IS NOT NULL")


def upgrade() -> None:
    # First, and so that it may be begun again: it commits step by step.
    with op.get_context().autocommit_block():
        for table, include in (("job", []), ("job_history", ["state"])):
            op.execute(f"ALTER TABLE {table} ADD COLUMN IF NOT EXISTS batch_id uuid")
            op.drop_index(f"ix_{table}_batch_id", table, postgresql_concurrently=True, if_exists=True)
            op.create_index(
                f"ix_{table}_batch_id",
                table,
                ["batch_id", "id"],
                postgresql_include=include,
                postgresql_where=IN_BATCH,
                postgresql_concurrently=True,
            )
    op.add_column("job_history", sa.Column("result", JSONB()))
    op.create_table(
        "job_batch",
        sa.Column("id", sa.Uuid(), primary_key=True),
        sa.Column("owner", sa.String(255)),
        sa.Column("parent_id", sa.Uuid()),
        sa.Column("on_end_id", sa.Uuid()),
        sa.Column("on_end", JSONB()),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True)),
        sa.Column("succeeded", sa.Integer()),
        sa.Column("cancelled", sa.Integer()),
        sa.Column("discarded", sa.Integer()),
    )
    op.create_index("ix_job_batch_finished_at_id", "job_batch", ["finished_at", "id"])
    op.create_index(
        "ix_job_batch_parent_id", "job_batch", ["parent_id"], postgresql_where=sa.text("finished_at IS NULL")
    )
    op.create_index(
        "ix_job_batch_on_end_id", "job_batch", ["on_end_id"], postgresql_where=sa.text("on_end_id IS NOT NULL")
    )


def downgrade() -> None:
    op.drop_table("job_batch")
    op.drop_column("job_history", "result")
    for table in ("job", "job_history"):
        op.drop_index(f"ix_{table}_batch_id", table)
        op.drop_column(table, "batch_id")
