"""items and exports

Revision: 5d1f0c8e7a21
After:
Made: 2026-11-29 00:00:00+00:00
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "5d1f0c8e7a21"
down_revision = None
branch_labels = None
depends_on = "plinth_0001"


def upgrade() -> None:
    op.create_table(
        "item",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuid7()"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("version", sa.Integer(), server_default="1", nullable=False),
        sa.Column("owner", sa.String(length=255), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("description", sa.String(length=10000), nullable=True),
        sa.Column("tags", postgresql.ARRAY(sa.String(length=50)), server_default="{}", nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_item")),
    )
    live = sa.text("deleted_at IS NULL")
    op.create_index("ix_item_owner_created_at_id", "item", ["owner", "created_at", "id"], postgresql_where=live)
    op.create_index("ix_item_owner_name_id", "item", ["owner", "name", "id"], postgresql_where=live)

    op.create_table(
        "export",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuid7()"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("owner", sa.String(length=255), nullable=False),
        sa.Column("format", sa.String(length=20), nullable=False),
        sa.Column("tag", sa.String(length=50)),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("run", sa.BigInteger()),
        sa.Column("item_count", sa.BigInteger()),
        sa.Column("size", sa.BigInteger()),
        sa.Column("digest", sa.String(length=64)),
        sa.Column("ready_at", sa.DateTime(timezone=True)),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_export")),
    )
    op.create_index("ix_export_expires_at", "export", ["expires_at"])
    op.create_index("ix_export_owner_id", "export", ["owner", "id"])
    op.create_table(
        "export_chunk",
        sa.Column("export_id", sa.Uuid(), nullable=False),
        sa.Column("run", sa.BigInteger(), nullable=False),
        sa.Column("start", sa.BigInteger(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["export_id"], ["export.id"], name=op.f("fk_export_chunk_export_id_export"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("export_id", "run", "start", name=op.f("pk_export_chunk")),
    )
    # Chunks come compressed: the server need not try again.
    op.execute("ALTER TABLE export_chunk ALTER data SET STORAGE EXTERNAL")


def downgrade() -> None:
    for table in ("export_chunk", "export", "item"):
        op.drop_table(table)
