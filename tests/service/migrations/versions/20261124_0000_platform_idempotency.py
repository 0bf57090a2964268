"""the tables of the platform: idempotency records

Revision: 330ca466329a
After:
Made: 2026-11-24 00:00:00+00:00
"""

import sqlalchemy as sa
from alembic import op

revision = "330ca466329a"
down_revision = None
branch_labels = None
depends_on = None

# The ids of all tables. As in plinth.database.uuid7, and frozen here: a migration does the same for ever.
CREATE_UUID7 = """
CREATE OR REPLACE FUNCTION uuid7() RETURNS uuid LANGUAGE sql VOLATILE PARALLEL SAFE AS $$
    SELECT encode(
        substring(int8send(us / 1000) FROM 3)
            || int2send((28672 + us % 1000 * 4096 / 1000)::int2)
            || set_byte(r, 0, (get_byte(r, 0) & 63) | 128),
        'hex')::uuid
    FROM (
        SELECT (date_part('epoch', clock_timestamp()) * 1000000)::bigint AS us,
            substring(uuid_send(gen_random_uuid()) FROM 9) AS r
    ) AS parts
$$
"""


def upgrade() -> None:
    op.execute(CREATE_UUID7)
    op.create_table(
        "idempotency_record",
        sa.Column("principal", sa.String(length=255), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("headers", sa.JSON(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("principal", "key", name=op.f("pk_idempotency_record")),
    )
    op.create_index("ix_idempotency_record_expires_at", "idempotency_record", ["expires_at"])


def downgrade() -> None:
    op.drop_table("idempotency_record")
    op.execute("DROP FUNCTION uuid7()")
