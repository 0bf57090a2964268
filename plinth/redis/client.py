"""Redis: a cache, never the truth. Everything works without it, and uses it again when it is back."""

import re
from time import perf_counter
from typing import Any

from redis import exceptions

from plinth.redis import Redis
from plinth.redis.errors import is_wrong_server, refuses_to_serve
from plinth.redis.pool import LeavingPool
from plinth.redis.sentinel import SentinelPool
from plinth.settings import PlatformSettings
from plinth.settings.sentinel import SentinelURL
from plinth.telemetry.metrics import db_error, db_operation
from plinth.telemetry.tracing import is_recorded, record_call

__all__ = ["ObservedRedis", "close_redis", "open_redis"]

MAX_CONNECTIONS = 50

# Of an error, such as WRONGTYPE. Of some, which have classes of their own, redis-py takes it off.
_PREFIX = re.compile(r"[A-Z]{3,32}\b")


class ObservedRedis(Redis):
    """A client that counts its commands and records their spans, without their arguments.

    Not those of pipelines and subscriptions. Leaves a server that says that another one should be asked: the next
    command connects anew, to what the host name, the load balancer or Sentinel then leads to.
    """

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        name = str(args[0])
        failure: BaseException | None = None
        started = perf_counter()
        try:
            return await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
        except BaseException as error:
            failure = error
            _count_error(error)
            if is_wrong_server(error) and isinstance(pool := self.connection_pool, LeavingPool):
                pool.leave()
            raise
        finally:
            seconds = perf_counter() - started
            db_operation("redis", name).observe(seconds)
            if is_recorded():
                record_call(name, self._attributes(name, failure), seconds=seconds, error=failure)
            failure = None  # its traceback holds this frame

    def _attributes(self, name: str, failure: BaseException | None) -> dict[str, str | int]:
        options = self.connection_pool.connection_kwargs
        server = {"server.address": options.get("host") or options.get("path"), "server.port": options.get("port")}
        known = {key: value for key, value in server.items() if value is not None}
        if isinstance(failure, exceptions.ResponseError) and (prefix := _PREFIX.match(str(failure))):
            known["db.response.status_code"] = prefix[0]
        return {"db.system.name": "redis", "db.operation.name": name, **known}


def _count_error(error: BaseException) -> None:
    match error:
        case exceptions.NoScriptError():  # the client sends the script then
            pass
        case exceptions.TimeoutError():
            db_error("redis", "timeout")
        case exceptions.ConnectionError() | OSError():
            db_error("redis", "unavailable")
        case exceptions.RedisError() if refuses_to_serve(error):
            db_error("redis", "unavailable")
        case exceptions.RedisError():
            db_error("redis", "other")


def open_redis(settings: PlatformSettings) -> Redis | None:
    """A client for the settings' Redis, or None where none is set. Connects at its first command.

    A command that gets no answer within `REDIS_TIMEOUT` raises `redis.exceptions.TimeoutError`; one that finds
    no server raises `redis.exceptions.ConnectionError`. The next command tries again.
    """
    if settings.redis_url is None:
        return None
    options: dict[str, Any] = {
        "max_connections": MAX_CONNECTIONS,
        "timeout": settings.REDIS_TIMEOUT,
        "socket_timeout": settings.REDIS_TIMEOUT,
        "socket_connect_timeout": settings.REDIS_TIMEOUT,
        "health_check_interval": 30,
        # Redis refuses a connection whose name has blanks or letters beyond ASCII.
        "client_name": re.sub("[^!-~]", "-", settings.PROJECT_NAME),
    }
    watched = SentinelURL.parse(settings.redis_url)
    if watched is None:
        return ObservedRedis.from_pool(LeavingPool.from_url(settings.redis_url, **options))
    return ObservedRedis.from_pool(SentinelPool(watched, **options))


async def close_redis(redis: Redis | None) -> None:
    """Close the client's connections."""
    if redis is not None:
        await redis.aclose()
