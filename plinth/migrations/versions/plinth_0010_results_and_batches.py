"""results of jobs

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


def upgrade() -> None:
    op.add_column("job_history", sa.Column("result", JSONB()))


def downgrade() -> None:
    op.drop_column("job_history", "result")
