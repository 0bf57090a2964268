"""the audit log and API keys

Revision: plinth_0004
After: plinth_0003
Made: 2026-11-30 00:00:00+00:00
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "plinth_0004"
down_revision = "plinth_0003"
branch_labels = None
depends_on = None


def identity() -> sa.Column[Any]:
    return sa.Column("id", sa.Uuid(), server_default=sa.text("uuid7()"), nullable=False)


def timestamp(name: str, **options: Any) -> sa.Column[Any]:
    return sa.Column(name, sa.DateTime(timezone=True), **options)


def now(name: str) -> sa.Column[Any]:
    return timestamp(name, server_default=sa.text("now()"), nullable=False)


def upgrade() -> None:
    op.create_table(
        "audit_record",
        identity(),
        now("at"),
        sa.Column("issuer", sa.Text(), nullable=False),
        sa.Column("subject", sa.String(length=255), nullable=False),
        sa.Column("action", sa.String(length=50), nullable=False),
        sa.Column("target", sa.String(length=255), nullable=False),
        sa.Column("detail", postgresql.JSONB(), nullable=False),
        sa.Column("request_id", sa.String(length=128)),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_record")),
    )
    op.create_index("ix_audit_record_at", "audit_record", ["at"])
    op.create_index("ix_audit_record_subject_id", "audit_record", ["subject", "id"])
    op.create_index("ix_audit_record_target_id", "audit_record", ["target", "id"])
    op.create_table(
        "api_key",
        identity(),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("scopes", postgresql.ARRAY(sa.String(length=100)), nullable=False),
        now("created_at"),
        sa.Column("created_by", sa.String(length=255), nullable=False),
        timestamp("expires_at", nullable=False),
        timestamp("last_used_at"),
        timestamp("revoked_at"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_key")),
    )


def downgrade() -> None:
    op.drop_table("api_key")
    op.drop_table("audit_record")
