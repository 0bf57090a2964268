"""Alembic's environment: the service's tables and settings. The platform does the rest."""

from sqlmodel import SQLModel

import notes.models  # noqa: F401 - makes every table known
from notes.config import Settings
from plinth.migrations.environment import run_migrations

run_migrations(SQLModel.metadata, Settings)
