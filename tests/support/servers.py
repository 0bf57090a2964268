"""`plinth.testing`'s servers, with the migrations of this tree's service."""

from pathlib import Path

from app.core.config import Settings
from plinth.testing import servers
from plinth.testing.servers import REDIS_DATABASES, START_TIMEOUT, scratch_folder

__all__ = ["REDIS_DATABASES", "START_TIMEOUT", "Servers", "migrate", "scratch_folder"]


class Servers(servers.Servers):
    """Servers whose template has this service's migrations."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, Settings)


def migrate(url: str) -> None:
    """Bring a database to the newest revision."""
    servers.migrate(Settings, url)
