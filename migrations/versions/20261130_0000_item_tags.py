"""the tags of items

Revision: 8c41d7b0e5f3
After: 5d1f0c8e7a21
Made: 2026-11-30 00:00:00+00:00
"""

import sqlalchemy as sa
from alembic import op

revision = "8c41d7b0e5f3"
down_revision = "5d1f0c8e7a21"
branch_labels = None
depends_on = None

# As in app.models.item, and frozen here.
KEEP_ITEM_TAGS = """
CREATE OR REPLACE FUNCTION keep_item_tags() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' THEN
        DELETE FROM item_tag WHERE id = NEW.id;
    END IF;
    IF NEW.deleted_at IS NULL THEN
        INSERT INTO item_tag (id, tag, owner, name, created_at)
        SELECT DISTINCT NEW.id, tag, NEW.owner, NEW.name, NEW.created_at FROM unnest(NEW.tags) AS tag;
    END IF;
    RETURN NULL;
END $$
"""
TRIGGERS = (
    """
CREATE TRIGGER keep_tags_of_new AFTER INSERT ON item FOR EACH ROW
WHEN (NEW.tags <> '{}') EXECUTE FUNCTION keep_item_tags()
""",
    """
CREATE TRIGGER keep_tags_of_changed AFTER UPDATE OF owner, name, tags, created_at, deleted_at ON item FOR EACH ROW
WHEN (OLD.tags <> '{}' OR NEW.tags <> '{}') EXECUTE FUNCTION keep_item_tags()
""",
)


def upgrade() -> None:
    op.create_table(
        "item_tag",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("tag", sa.String(length=50), nullable=False),
        sa.Column("owner", sa.String(length=255), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["id"], ["item.id"], name=op.f("fk_item_tag_id_item"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", "tag", name=op.f("pk_item_tag")),
    )
    op.create_index("ix_item_tag_owner_tag_created_at_id", "item_tag", ["owner", "tag", "created_at", "id"])
    op.create_index("ix_item_tag_owner_tag_name_id", "item_tag", ["owner", "tag", "name", "id"])
    for statement in (KEEP_ITEM_TAGS, *TRIGGERS):
        op.execute(statement)


def downgrade() -> None:
    for trigger in ("keep_tags_of_new", "keep_tags_of_changed"):
        op.execute(f"DROP TRIGGER {trigger} ON item")
    op.execute("DROP FUNCTION keep_item_tags()")
    op.drop_table("item_tag")
