"""The service's Redis client: a cache that may be away, or empty, at any time."""

from fastapi import Request

from app.core.config import get_settings
from plinth.redis import Redis
from plinth.redis.client import close_redis as close_client
from plinth.redis.client import open_redis
from plinth.redis.keys import key_prefix

__all__ = ["cache_key", "close_redis", "get_redis", "init_redis"]

_own: Redis | None = None


def cache_key(*parts: str) -> str:
    """A key of this service, which no other service on the same Redis has."""
    return ":".join((key_prefix(get_settings()), "cache", *parts))


def init_redis() -> Redis | None:
    """The client of a script, or None where no Redis is configured. A request takes `get_redis`."""
    global _own  # noqa: PLW0603 - one for a process
    if _own is None:
        _own = open_redis(get_settings())
    return _own


async def get_redis(request: Request) -> Redis | None:
    """The application's client, as a dependency. Expect None, and `redis.exceptions.RedisError`."""
    redis: Redis | None = request.state.redis
    return redis


async def close_redis() -> None:
    """Close the client that `init_redis` opened."""
    global _own
    client, _own = _own, None
    await close_client(client)
