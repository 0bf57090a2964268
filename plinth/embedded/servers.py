"""The embedded servers: those that the settings name no address for."""

from pathlib import Path
from types import TracebackType
from typing import Self

from plinth.embedded.postgres import Postgres
from plinth.embedded.redis import Redis
from plinth.embedded.supervisor import Supervisor
from plinth.settings import PlatformSettings


class Servers:
    """A Postgres unless DATABASE_URL is set, a Redis unless REDIS_URL or Upstash's pair is.

    Enter it before the supervisor that stops the servers: it sweeps up after them.
    """

    def __init__(self, folder: Path, settings: PlatformSettings) -> None:
        self.folder = folder
        self.logs = folder / "logs"
        self.logs.mkdir(exist_ok=True)
        self.postgres = self.redis = None
        if "DATABASE_URL" not in settings.model_fields_set:
            self.postgres = Postgres(folder / "postgres", log=self.logs / "postgresql.log")
        if settings.redis_url is None:
            self.redis = Redis(folder / "redis", log=self.logs / "redis.log")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for server in (self.postgres, self.redis):
            if server:
                server.sweep()

    @property
    def data_folders(self) -> list[Path]:
        """Where the data are: one folder, unless PostgreSQL's had to go where its user can reach them."""
        elsewhere = self.folder / "postgres"
        return [self.folder, elsewhere.readlink()] if elsewhere.is_symlink() else [self.folder]

    @property
    def addresses(self) -> dict[str, str]:
        """What a program needs in its environment to find them."""
        found = {}
        if self.postgres:
            found["DATABASE_URL"] = self.postgres.url()
        if self.redis:
            found["REDIS_URL"] = self.redis.url()
        return found

    def start(self, supervisor: Supervisor) -> None:
        """Start them side by side and wait until they answer."""
        if self.redis:
            supervisor.add(self.redis.launch())
        if self.postgres:
            supervisor.add(self.postgres.launch(supervisor.sleep))
            self.postgres.wait(sleep=supervisor.sleep)
        if self.redis:
            self.redis.wait(sleep=supervisor.sleep)
