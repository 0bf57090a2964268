"""the issuer that rows with a subject alone belong to

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


def upgrade() -> None:
    table = op.create_table(
        "first_issuer",
        sa.Column("issuer", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("issuer", name=op.f("pk_first_issuer")),
    )
    # The rows that are there are of the callers that these settings trust. See plinth.identity.owners.
    op.execute(table.insert().values(issuer=op.get_context().opts["issuer"]))


def downgrade() -> None:
    op.drop_table("first_issuer")
