"""PostgreSQL and Redis for tests: one pair for a whole run, and more of them for tests that stop theirs."""

import asyncio
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from structlog.testing import capture_logs

from plinth.database.migrator import Migrator
from plinth.embedded.postgres import SERVICE, SUPERUSER, Postgres
from plinth.embedded.redis import Redis
from plinth.settings import PlatformSettings

__all__ = ["REDIS_DATABASES", "Servers", "migrate", "scratch_folder"]

START_TIMEOUT = 60.0  # seconds
REDIS_DATABASES = 16


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A temporary folder that every user can enter: PostgreSQL, when started by root, runs as another user."""
    folder = make_folder()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def make_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="plinth-tests-"))
    folder.chmod(0o755)
    return folder


class Servers:
    """An embedded PostgreSQL and an embedded Redis that keep their data in `folder`.

    The process that calls `start` owns them; other processes may use them once `wait` has returned. The database
    that the embedded server comes with is migrated and serves as the template of all others.
    """

    def __init__(self, folder: Path, settings: type[PlatformSettings]) -> None:
        """`settings`: the service's settings class, which says where its migrations are."""
        self.postgres = Postgres(folder / "postgres", log=folder / "postgresql.log", durable=False)
        self.redis = Redis(folder / "redis", log=folder / "redis.log", durable=False)
        self._settings = settings
        self._ready = folder / "ready"
        self._failed = folder / "failed"

    def start(self) -> None:
        """Start both and migrate the template.

        Raises:
            EmbeddedError: a server does not start.
            MigrationError: the migrations cannot be applied; also whatever a migration raises.
        """
        try:
            self.redis.launch()
            self.postgres.start()
            migrate(self._settings, self.postgres.url())
            self.redis.wait()
        except BaseException:
            self._failed.touch()
            raise
        self._ready.touch()

    def wait(self) -> None:
        """Wait until the process that owns them has started them.

        Raises:
            RuntimeError: they do not start.
        """
        deadline = time.monotonic() + START_TIMEOUT
        while not self._ready.exists():
            if self._failed.exists() or time.monotonic() > deadline:
                raise RuntimeError("the servers of this test run do not start: see the top of its output")
            time.sleep(0.02)

    def stop(self) -> None:
        """Stop what runs."""
        for server in (self.postgres, self.redis):
            if server.process:
                server.stop()

    def clone(self, database: str, template: str = SERVICE) -> str:
        """Copy the template; returns the URL of the copy."""
        self.postgres.execute(f"CREATE DATABASE {database} OWNER {SERVICE} TEMPLATE {template} STRATEGY file_copy")
        return self.postgres.url(database)

    def create(self, database: str) -> str:
        """Create a database without tables; returns its URL."""
        self.postgres.execute(f"CREATE DATABASE {database} OWNER {SERVICE}")
        return self.postgres.url(database)

    def drop(self, database: str) -> None:
        """Drop a database, connected clients or not."""
        self.postgres.execute(f"DROP DATABASE {database} WITH (FORCE)")


def superuser_url(url: str) -> str:
    """The address of a test database, as its superuser."""
    return url.replace(f"{SERVICE}@", f"{SUPERUSER}@", 1)


def migrate(settings: type[PlatformSettings], url: str) -> None:
    """Bring a database to the newest revision of the service."""
    with capture_logs():
        asyncio.run(Migrator(settings.isolated(DATABASE_URL=url)).upgrade())
