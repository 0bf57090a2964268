"""The embedded servers: those that the settings name no address for."""

from pathlib import Path

from plinth.embedded.postgres import Postgres
from plinth.embedded.redis import Redis
from plinth.embedded.supervisor import Supervisor
from plinth.settings import PlatformSettings


class Servers:
    """A Postgres unless DATABASE_URL is set, a Redis unless REDIS_URL or Upstash's pair is."""

    def __init__(self, folder: Path, settings: PlatformSettings) -> None:
        self.folder = folder
        self.logs = folder / "logs"
        self.logs.mkdir(exist_ok=True)
        self.postgres = self.redis = None
        if "DATABASE_URL" not in settings.model_fields_set:
            self.postgres = Postgres(folder / "postgres", log=self.logs / "postgresql.log")
        if settings.redis_url is None:
            self.redis = Redis(folder / "redis", log=self.logs / "redis.log")

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
        servers = [server for server in (self.redis, self.postgres) if server]
        for server in servers:
            supervisor.callback(server.sweep)
            supervisor.add(server.launch(supervisor.sleep))
        for server in servers:
            server.wait(supervisor.sleep)
