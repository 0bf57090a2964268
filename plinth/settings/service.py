"""The declaration by which the platform finds the parts of a service."""

from dataclasses import dataclass
from pathlib import Path

__all__ = ["Service"]


@dataclass(frozen=True, slots=True)
class Service:
    """Where the parts of a service are. Its settings class carries one, as `service`.

    Names are importable: `package.module:attribute` or `package.module`. Nothing is imported before it is needed.
    """

    version: str
    """The service's own version, for logs, metrics and traces."""
    application: str
    """The application factory: a function of the settings that returns a FastAPI application."""
    jobs: str
    """The module whose import registers every kind of job and every schedule."""
    models: str
    """The module whose import defines every table."""
    migrations: Path
    """The folder of Alembic's `env.py` and `versions/`."""
