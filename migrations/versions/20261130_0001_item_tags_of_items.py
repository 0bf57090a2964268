"""the tags of the items that are there

Revision: b7e2903f6a1d
After: 8c41d7b0e5f3
Made: 2026-11-30 00:01:00+00:00
"""

from alembic import op

revision = "b7e2903f6a1d"
down_revision = "8c41d7b0e5f3"
branch_labels = None
depends_on = None

# A thousand items in a transaction, so that changes wait for milliseconds. The lock keeps an item as it was read until
# its tags are there. An interrupted run is repeated from the beginning, and finds some tags there already.
COPY_TAGS = """
DO $$
DECLARE
    last uuid := '00000000-0000-0000-0000-000000000000';
BEGIN
    LOOP
        WITH part AS MATERIALIZED (
            SELECT id, tags, owner, name, created_at FROM item
            WHERE id > last AND deleted_at IS NULL AND tags <> '{}' ORDER BY id LIMIT 1000 FOR SHARE
        ), copied AS (
            INSERT INTO item_tag (id, tag, owner, name, created_at)
            SELECT DISTINCT id, tag, owner, name, created_at FROM part, unnest(tags) AS tag
            ON CONFLICT DO NOTHING
        )
        SELECT id INTO last FROM part ORDER BY id DESC LIMIT 1;
        EXIT WHEN NOT FOUND;
        COMMIT;
    END LOOP;
END $$
"""


def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute(COPY_TAGS)


def downgrade() -> None:
    pass
