"""The service's settings: the platform's and its own."""

from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, cast

from pydantic import Field

from app import __version__
from plinth.settings import PlatformSettings
from plinth.settings.service import Service
from plinth.settings.types import Days  # sample

__all__ = ["Settings", "get_settings", "settings"]


class Settings(PlatformSettings):
    """Every setting of this service. A new one is a field here and a line in `.env.example`."""

    service: ClassVar[Service] = Service(
        version=__version__,
        application="app.main:create_app",
        jobs="app.jobs",
        models="app.models",
        migrations=Path(__file__).parents[2] / "migrations",
    )

    PROJECT_NAME: str = Field("Plinth", max_length=63)  # PostgreSQL cuts application_name there
    EXPORTS_KEEP_DAYS: Days = 1.0  # sample


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """The settings of this process, read once. Raises SettingsError."""
    return Settings()


class _LazySettings:
    """Stands for `get_settings()`, which it calls when an attribute is asked for."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        return getattr(get_settings(), name)

    def __repr__(self) -> str:
        return "<the settings, read on first use>"


settings = cast(Settings, _LazySettings())
