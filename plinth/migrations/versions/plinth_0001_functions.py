"""the functions that every table uses

A service's first revision depends on this one, and on no later one: Alembic keeps no row for a revision that another
one depends on, and the platform's branch shall have its own row.

Revision: plinth_0001
After:
Made: 2026-11-29 00:00:00+00:00
"""

from alembic import op

revision = "plinth_0001"
down_revision = None
branch_labels = ("plinth",)
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


def downgrade() -> None:
    op.execute("DROP FUNCTION uuid7()")
