"""Counts in Redis by key and fixed window, and the check whether Redis can keep such a count."""

from plinth.errors import ServiceUnavailableError
from plinth.redis import Redis
from plinth.redis.errors import redis_reason

__all__ = ["WindowCounter", "WriteCheck"]

# Counts ARGV[1] hits of a window that ends ARGV[2] ms after its first hit: the count so far, and the ms until then.
_TAKE = """
local count = redis.call('INCRBY', KEYS[1], ARGV[1])
local left = redis.call('PTTL', KEYS[1])
if left < 0 then
    left = tonumber(ARGV[2])
    redis.call('PEXPIRE', KEYS[1], left)
end
return {count, left}
"""

# Keys that differ in the last digit, 0 to 3, are in the four quarters of a cluster's slots, because CRC16 moves each by
# 4129 of 16384.
CHECKED_KEYS = 4
CHECK_SECONDS = 10


class WindowCounter:
    """Counts hits of keys that begin with `prefix`, for all processes."""

    def __init__(self, redis: Redis, prefix: str) -> None:
        self._script = redis.register_script(_TAKE)
        self._prefix = prefix

    async def take(self, key: str, amount: int, window: float) -> tuple[int, float]:
        """Count `amount` hits; returns the count of the window so far, and in how many seconds it ends.

        Raises:
            redis.exceptions.RedisError, OSError: Redis is away, or may not be written.
        """
        count, left = await self._script(keys=[f"{self._prefix}:{key}"], args=[amount, round(window * 1000)])
        return count, left / 1000


class WriteCheck:
    """A readiness check: counts as a limit does, because a replica, a full server and a node of a cluster answer PING.

    A node of a cluster refuses only the keys of other nodes: each check asks for another key, and once one has failed,
    for that one again.
    """

    def __init__(self, redis: Redis, prefix: str) -> None:
        self._counter = WindowCounter(redis, f"{prefix}:check")
        self._key = 0

    async def __call__(self) -> None:
        """Raises:
        ServiceUnavailableError: Redis is away, or may not be written; with the reason.
        """
        try:
            await self._counter.take(f"{self._key}", 1, CHECK_SECONDS)
        except Exception as error:
            raise ServiceUnavailableError(reason=redis_reason(error)) from error
        self._key = (self._key + 1) % CHECKED_KEYS
