"""PostgreSQL and Redis for the tests: one pair for a whole run, and more of them for tests that break theirs."""

import asyncio
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from structlog.testing import capture_logs

from plinth.database.migrator import Migrator
from plinth.embedded.postgres import SERVICE, Postgres
from plinth.embedded.redis import Redis
from plinth.settings import PlatformSettings

START_TIMEOUT = 60.0  # seconds
REDIS_DATABASES = 16


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder that disappears afterwards. Every user can enter it, unlike pytest's: root's PostgreSQL must."""
    folder = Path(tempfile.mkdtemp(prefix="plinth-tests-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Servers:
    """A pair of servers on one folder.

    The process that calls `start` owns them; any other may use them once `wait` has returned. The database that
    the embedded server comes with is migrated, and stays a template.
    """

    def __init__(self, folder: Path, settings: type[PlatformSettings]) -> None:
        """`settings`: the service's settings class, which says where its migrations are."""
        self._settings = settings
        self.postgres = Postgres(folder / "postgres", log=folder / "postgresql.log", durable=False)
        self.redis = Redis(folder / "redis", log=folder / "redis.log", durable=False)
        self._ready = folder / "ready"

    def start(self) -> None:
        """Start both and migrate the template."""
        self.redis.launch()
        self.postgres.start()
        migrate(self._settings, self.postgres.url())
        self.redis.wait()
        self._ready.touch()

    def wait(self) -> None:
        """Wait until the owner has started them. Raises TimeoutError after a minute."""
        deadline = time.monotonic() + START_TIMEOUT
        while not self._ready.exists():
            if time.monotonic() > deadline:
                raise TimeoutError("the servers of this test run do not start: see the top of its output")
            time.sleep(0.02)

    def stop(self) -> None:
        for server in (self.postgres, self.redis):
            if server.process:
                server.stop()

    def clone(self, database: str, template: str = SERVICE) -> str:
        """Copy the template; returns the URL of the copy."""
        self.postgres.execute(f"CREATE DATABASE {database} OWNER {SERVICE} TEMPLATE {template} STRATEGY file_copy")
        return self.postgres.url(database)

    def drop(self, database: str) -> None:
        self.postgres.execute(f"DROP DATABASE {database} WITH (FORCE)")


def migrate(settings: type[PlatformSettings], url: str) -> None:
    """Bring a database to the newest revision of the service."""
    with capture_logs():
        asyncio.run(Migrator(settings.isolated(DATABASE_URL=url)).upgrade())
