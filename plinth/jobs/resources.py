"""Opens what API, worker and command line work with: Redis, the doorbell and the database."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from plinth.database.engine import Database
from plinth.jobs.doorbell import DOORBELL, Doorbell, doorbell_for
from plinth.redis import Redis
from plinth.redis.client import close_redis, open_redis
from plinth.settings import PlatformSettings

__all__ = ["Resources", "open_resources"]


@dataclass(frozen=True, slots=True)
class Resources:
    """Connections of one process. `redis` is None where none is configured."""

    redis: Redis | None
    doorbell: Doorbell
    database: Database


@asynccontextmanager
async def open_resources(
    settings: PlatformSettings, *, limits: Mapping[str, Any] | None = None, pool_name: str | None = None
) -> AsyncIterator[Resources]:
    """Open Redis, the doorbell and the database, and close them in reverse order.

    `limits` are settings of the database to use instead of the configured ones. With a `pool_name` the pool is counted
    in metrics. Nothing connects before it is used.
    """
    # What is opened later is closed earlier, also when a later opening fails.
    async with AsyncExitStack() as closing:
        redis = open_redis(settings)
        closing.push_async_callback(close_redis, redis)
        doorbell = doorbell_for(settings, redis)
        closing.push_async_callback(doorbell.aclose)
        database = Database(
            settings.model_copy(update=dict(limits or {})), session_info={DOORBELL: doorbell}, pool_name=pool_name
        )
        closing.push_async_callback(database.aclose)
        yield Resources(redis, doorbell, database)
