"""Rate limits that a request does not pay a round trip for.

The count for a key lives in Redis (kept by the `limits` library), one fixed window for the whole fleet. A process
takes hits from it in small leases and spends them locally: a busy caller costs Redis one command for some tens of
requests, a refused caller costs nothing until the window ends. What a lease has not spent when its window ends is
lost, so the fleet may admit a little less than the limit (at most 5% of it for each process), never more.

Without Redis each process counts for itself.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from math import ceil
from time import monotonic, time

from limits import RateLimitItem, parse
from limits.aio.storage import RedisStorage
from prometheus_client import Counter
from redis.asyncio import Redis
from redis.exceptions import RedisError

__all__ = ["RateLimiter", "Verdict"]

# A lease grows with its caller's rate, up to this share of the limit.
LEASE_SHARE = 20
MAX_KEYS = 20_000
# After Redis failed, count locally for so long before it is asked again: a dead Redis must not slow requests down.
REDIS_COOLDOWN_SECONDS = 2.0

_VERDICTS = Counter("plinth_rate_limit_verdicts", "Hits that were within their limit, and that were not.", ["verdict"])
_ALLOWED, _LIMITED = _VERDICTS.labels("allowed"), _VERDICTS.labels("limited")


@dataclass(frozen=True, slots=True)
class Verdict:
    """`remaining` hits of `limit` are left for the next `reset` seconds."""

    allowed: bool
    limit: int
    remaining: int
    window: int
    reset: int

    def headers(self) -> list[tuple[bytes, bytes]]:
        """`RateLimit-Policy` and `RateLimit`, as the IETF draft "RateLimit header fields for HTTP" has them."""
        return [
            (b"ratelimit-policy", b'"default";q=%d;w=%d' % (self.limit, self.window)),
            (b"ratelimit", b'"default";r=%d;t=%d' % (self.remaining, self.reset)),
        ]


class _RedisStorage(RedisStorage):
    # limits imports every client library that it could use; this is the one it does.
    DEPENDENCIES = {"redis": RedisStorage.DEPENDENCIES["redis"]}  # noqa: RUF012


@dataclass(slots=True)
class _Lease:
    hits: int  # may be spent here
    left: int  # were left in the shared window when the lease was taken
    size: int
    ends: float

    def is_spent(self, now: float) -> bool:
        """Whether it says neither yes nor no to the next hit."""
        return self.ends <= now or (self.hits == 0 and self.left > 0)


@dataclass(slots=True)
class _Queue:
    """The hits of one key that wait for a lease: one of them asks for all."""

    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    length: int = 0


class RateLimiter:
    """Counts hits of keys against one limit, such as `600/minute`."""

    def __init__(self, limit: str, redis: Redis | None, *, prefix: str, clock: Callable[[], float] = monotonic) -> None:
        self._limit: RateLimitItem = parse(limit)
        self._window: int = self._limit.get_expiry()
        self._clock = clock
        self._leases: dict[str, _Lease] = {}
        self._queues: dict[str, _Queue] = {}
        self._redis_asked_from = 0.0
        self._storage: RedisStorage | None = None
        if redis is not None:
            self._storage = _RedisStorage(
                "async+redis://",
                implementation="redispy",
                key_prefix=prefix,
                connection_pool=redis.connection_pool,  # type: ignore[arg-type]
            )
            # It would make a client of its own, whose commands nobody counts.
            self._storage.bridge.storage = redis  # type: ignore[attr-defined]
            self._storage.bridge.register_scripts()

    async def hit(self, key: str) -> Verdict:
        """Count one hit of `key`, and say whether it is within the limit."""
        now = self._clock()
        lease = self._leases.get(key)
        if lease is None or lease.is_spent(now):
            lease = await self._renewed(key)
            now = self._clock()
        allowed = lease.hits > 0
        if allowed:
            lease.hits -= 1
            _ALLOWED.inc()
        else:
            _LIMITED.inc()
        return Verdict(
            allowed, self._limit.amount, lease.left + lease.hits, self._window, max(1, ceil(lease.ends - now))
        )

    async def _renewed(self, key: str) -> _Lease:
        queue = self._queues.setdefault(key, _Queue())
        queue.length += 1
        try:
            async with queue.turn:
                now = self._clock()
                lease = self._leases.get(key)
                if lease is None or lease.is_spent(now):  # else the one before has asked for us as well
                    lease = await self._renew(key, lease, queue.length, now)
                return lease
        finally:
            queue.length -= 1
            if queue.length == 0:
                del self._queues[key]

    async def _renew(self, key: str, spent: _Lease | None, waiting: int, now: float) -> _Lease:
        if spent is not None and spent.ends <= now:
            spent = None
        size = min(spent.size * 2, max(1, self._limit.amount // LEASE_SHARE)) if spent else 1
        wanted = max(size, waiting)
        count, ends = await self._take(key, wanted, spent, now)
        granted = min(wanted, max(0, self._limit.amount - (count - wanted)))
        self._leases.pop(key, None)
        if len(self._leases) >= MAX_KEYS:
            del self._leases[next(iter(self._leases))]
        self._leases[key] = lease = _Lease(granted, max(0, self._limit.amount - count), size, ends)
        return lease

    async def _take(self, key: str, amount: int, spent: _Lease | None, now: float) -> tuple[int, float]:
        """Count `amount` hits; the count of the window so far and the time on our clock at which it ends."""
        left, ends = (spent.left, spent.ends) if spent else (self._limit.amount, now + self._window)
        if self._storage is not None and now >= self._redis_asked_from:
            name = self._limit.key_for(key)
            try:
                count = await self._storage.incr(name, self._window, amount)
                if spent is None:
                    ends = now + await self._storage.get_expiry(name) - time()
            except (RedisError, OSError):
                self._redis_asked_from = now + REDIS_COOLDOWN_SECONDS
            else:
                return count, ends
        return self._limit.amount - left + amount, ends
