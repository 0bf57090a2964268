"""Alembic's environment: the service's tables and settings. The platform does the rest."""

from sqlmodel import SQLModel

import app.models  # noqa: F401 - makes every table known
from app.core.config import get_settings
from plinth.migrations.environment import run_migrations

run_migrations(SQLModel.metadata, get_settings)
