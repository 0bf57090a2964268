"""The settings: the platform's, and one of this service's own."""

from pathlib import Path
from typing import ClassVar

from notes import __version__
from plinth.settings import PlatformSettings
from plinth.settings.service import Service
from plinth.settings.types import Days

__all__ = ["Settings"]


class Settings(PlatformSettings):
    service: ClassVar[Service] = Service(
        version=__version__,
        application="notes.main:create_app",
        jobs="notes.jobs",
        models="notes.models",
        migrations=Path(__file__).parents[1] / "migrations",
    )

    NOTES_KEEP_DAYS: Days = 30.0
    """How long a deleted note stays in its table."""
