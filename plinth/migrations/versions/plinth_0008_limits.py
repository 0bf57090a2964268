"""limits of jobs that share a key

Revision: plinth_0008
After: plinth_0007
Made: 2026-11-30 08:30:00+00:00
"""

import sqlalchemy as sa
from alembic import op

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
    _replace_indexes(LINE, TURN)
    with op.get_context().autocommit_block():
        # One that an attempt left behind which was broken off is not valid.
        op.drop_index("ix_job_running_key", "job", postgresql_concurrently=True, if_exists=True)
        op.create_index(
            "ix_job_running_key",
            "job",
            ["kind", "limit_key"],
            postgresql_where=RUNNING,
            postgresql_concurrently=True,
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
    op.drop_index("ix_job_running_key", "job")
    op.drop_table("job_start")
    for table in ("job", "job_history"):
        op.drop_column(table, "limit_key")
