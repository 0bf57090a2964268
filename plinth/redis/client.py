"""Redis: a cache, never the truth. Everything works without it, and uses it again when it is back."""

from time import perf_counter
from typing import Any

from redis import exceptions
from redis.asyncio import BlockingConnectionPool, Redis

from plinth.settings import PlatformSettings
from plinth.telemetry.metrics import db_error, db_operation

__all__ = ["close_redis", "open_redis"]

MAX_CONNECTIONS = 50


class _CountedRedis(Redis):
    """A client whose commands are counted. Pipelines and subscriptions are not: nobody here has a pipeline."""

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        started = perf_counter()
        try:
            return await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
        except exceptions.TimeoutError:
            db_error("redis", "timeout")
            raise
        except (exceptions.ConnectionError, OSError):
            db_error("redis", "unavailable")
            raise
        except exceptions.NoScriptError:  # the client sends the script then
            raise
        except exceptions.RedisError:
            db_error("redis", "other")
            raise
        finally:
            db_operation("redis", str(args[0])).observe(perf_counter() - started)


def open_redis(settings: PlatformSettings) -> Redis | None:
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
    return _CountedRedis(connection_pool=pool)


async def close_redis(redis: Redis | None) -> None:
    """Close the client's connections."""
    if redis is not None:
        await redis.aclose()
        await redis.connection_pool.disconnect()
