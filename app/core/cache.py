"""The service's Redis client."""

from fastapi import Request
from redis.asyncio import Redis

__all__ = ["get_redis"]


async def get_redis(request: Request) -> Redis | None:
    """The application's client, as a dependency. Be ready for None and for `redis.exceptions.RedisError`."""
    redis: Redis | None = request.state.redis
    return redis
