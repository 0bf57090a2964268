"""notes

Revision: 7e1a5c0d9b34
After:
Made: 2026-11-29 00:00:00+00:00
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "7e1a5c0d9b34"
down_revision = None
branch_labels = None
depends_on = "plinth_0001"


def upgrade() -> None:
    op.create_table(
        "note",
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("version", sa.Integer(), server_default="1", nullable=False),
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuid7()"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("owner", sa.String(length=255), nullable=False),
        sa.Column("text", sa.String(length=10000), nullable=False),
        sa.Column("tags", postgresql.ARRAY(sa.String(length=50)), server_default="{}", nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_note")),
    )
    live = sa.text("deleted_at IS NULL")
    op.create_index("ix_note_owner_id", "note", ["owner", "id"], postgresql_where=live)


def downgrade() -> None:
    op.drop_table("note")
