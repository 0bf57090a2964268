"""A release whose PostgreSQL and Redis are its namespace's, and not the chart's."""

import json
from base64 import b64encode
from typing import Any

from tests.e2e.release import NODE_PORT, Release, until
from tests.e2e.servers import PASSWORD

__all__ = ["ExternalRelease"]


class ExternalRelease(Release):
    """Its servers are `database` and `cache`, and its Secrets of the same names have their URLs.

    The chart's own servers start again when their password changes.
    """

    def sql(self, statement: str) -> str:
        psql = ("psql", "--username", "shop", "--tuples-only", "--no-align", "--command", statement)
        return self.execute("database", *psql).strip()

    def wait_until_ready(self, *, api: int = 2, worker: int = 1, within: float = 120) -> None:
        until(lambda: self.ready("api", api) and self.ready("worker", worker), "all pods are ready", within=within)

    @staticmethod
    def values(**config: Any) -> dict[str, Any]:
        """The values of its install."""
        return {
            "environment": "local",  # for tokens of `plinth token`
            "externalDatabase": {"existingSecret": "database", "maxConnections": 100},
            "postgresql": {"enabled": False},
            "externalRedis": {"existingSecret": "cache"},
            "redis": {"enabled": False},
            "secretKey": {"existingSecret": "key"},
            "api": {"service": {"type": "NodePort", "nodePort": NODE_PORT}},
            **({"config": config} if config else {}),
        }

    def set_database(self, user: str = "shop", password: str = PASSWORD, options: str = "sslmode=disable") -> None:
        url = f"postgresql://{user}:{password}@database:5432/shop?{options}"
        self.set_secret("database", DATABASE_URL=url)

    def set_redis(self, password: str = PASSWORD) -> None:
        self.set_secret("cache", REDIS_URL=f"redis://:{password}@cache:6379/0")

    def set_secret(self, name: str, **values: str) -> None:
        data = {key: b64encode(value.encode()).decode() for key, value in values.items()}
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": data}
        self.cluster.kubectl("apply", "--namespace", self.namespace, "--filename", "-", text=json.dumps(secret))

    def restart(self, version: str = "1") -> None:
        """Start all pods again, as `kubectl rollout restart` does."""
        of = ("--namespace", self.namespace)
        self.cluster.kubectl("rollout", "restart", "deployment/plinth-api", "deployment/plinth-worker", *of)
        for name in ("plinth-api", "plinth-worker"):
            self.cluster.kubectl("rollout", "status", f"deployment/{name}", "--timeout", "180s", *of)
        self.settle(version)
