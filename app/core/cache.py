"""Redis: a cache, never the truth. Everything works without it, and uses it again when it is back."""

from fastapi import Request
from redis.asyncio import BlockingConnectionPool, Redis

from app.core.config import Settings

__all__ = ["close_redis", "get_redis", "init_redis"]

MAX_CONNECTIONS = 50


def init_redis(settings: Settings) -> Redis | None:
    """A client for the settings' Redis, or None where none is set. Connects at its first command.

    A command that gets no answer within `REDIS_TIMEOUT` raises `redis.exceptions.TimeoutError`; one that finds
    no server raises `redis.exceptions.ConnectionError`. The next command tries again.
    """
    if settings.redis_url is None:
        return None
    pool = BlockingConnectionPool.from_url(
        settings.redis_url,
        max_connections=MAX_CONNECTIONS,
        timeout=settings.REDIS_TIMEOUT,
        socket_timeout=settings.REDIS_TIMEOUT,
        socket_connect_timeout=settings.REDIS_TIMEOUT,
        health_check_interval=30,
        client_name=settings.PROJECT_NAME.replace(" ", "-"),
    )
    return Redis(connection_pool=pool)


async def close_redis(redis: Redis | None) -> None:
    """Close the client's connections."""
    if redis is not None:
        await redis.aclose()
        await redis.connection_pool.disconnect()


async def get_redis(request: Request) -> Redis | None:
    """The application's client, as a dependency. Be ready for None and for `redis.exceptions.RedisError`."""
    redis: Redis | None = request.state.redis
    return redis
