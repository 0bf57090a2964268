"""The platform's Alembic environment and its own revisions."""
