"""steps of jobs, events that they wait for, and turns of their owners

Revision: plinth_0006
After: plinth_0005
Made: 2026-11-30 06:00:00+00:00
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "plinth_0006"
down_revision = "plinth_0005"
branch_labels = None
depends_on = None


TURN = sa.text("state = 'available' AND owner IS NOT NULL")


def upgrade() -> None:
    # First, and so that it may be begun again: it commits step by step.
    with op.get_context().autocommit_block():
        op.drop_index("ix_job_turn", "job", postgresql_concurrently=True, if_exists=True)
        op.create_index(
            "ix_job_turn",
            "job",
            ["owner", "priority", "run_at", "id"],
            postgresql_where=TURN,
            postgresql_concurrently=True,
        )
    op.create_table(
        "job_step",
        sa.Column("job_id", sa.Uuid(), primary_key=True),
        sa.Column("name", sa.String(255), primary_key=True),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("result", JSONB()),
        sa.Column("error", sa.Text()),
        sa.Column("event", sa.String(255)),
        sa.Column("due_at", sa.DateTime(timezone=True)),
        sa.Column("started_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True)),
    )
    op.create_index("ix_job_step_event", "job_step", ["event"], postgresql_where=sa.text("state = 'waiting'"))
    op.create_table(
        "job_event",
        sa.Column("name", sa.String(255), primary_key=True),
        sa.Column("payload", JSONB()),
        sa.Column("emitted_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
    )
    op.create_index("ix_job_event_emitted_at", "job_event", ["emitted_at"])


def downgrade() -> None:
    op.drop_index("ix_job_turn", "job")
    op.drop_table("job_event")
    op.drop_table("job_step")
