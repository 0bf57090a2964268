"""Rate limits without a round trip to Redis for each request.

Redis holds one count for each key and fixed window, for all processes. A process takes hits from it in small leases
and spends them locally, because asking Redis for each request would cost more than the rest of the request's checks
together. A busy caller costs one command for some tens of requests, a refused caller none until the window ends.
Hits of a lease that are not spent when the window ends are lost, so the processes may admit a little less than the
limit (at most 5% of it for each process), never more.

Without Redis each process counts for itself, and the log says so.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv6Address, ip_network
from math import ceil
from time import monotonic

import structlog
from limits import RateLimitItem, parse
from prometheus_client import Counter
from starlette.requests import HTTPConnection

from plinth.errors import RateLimitError
from plinth.http.addresses import read_address
from plinth.redis import Redis
from plinth.redis.errors import redis_reason
from plinth.redis.window import WindowCounter

__all__ = ["RateLimiter", "Verdict", "count_address", "count_hit", "counted_address"]

log = structlog.get_logger("plinth.rate_limit")

# A lease grows with its caller's rate, up to the limit divided by this.
LEASE_SHARE = 20
MAX_KEYS = 20_000
# After a failure of Redis, hits are counted locally for so long: a dead Redis must not slow requests down.
REDIS_COOLDOWN_SECONDS = 2.0
# A failure after so long a time without any is told anew. A node of a cluster fails for some keys all the time.
STEADY_SECONDS = 60.0

_VERDICTS = Counter("plinth_rate_limit_verdicts", "Hits that were within their limit, and that were not.", ["verdict"])
_ALLOWED, _LIMITED = _VERDICTS.labels("allowed"), _VERDICTS.labels("limited")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a limit says of a hit: of `limit`, `remaining` are left for the next `reset` seconds."""

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


@dataclass(slots=True)
class _Lease:
    hits: int  # may be spent here
    left: int  # were left in the shared window when the lease was taken
    size: int
    ends: float

    def is_spent(self, now: float) -> bool:
        """Whether it cannot decide on the next hit."""
        return self.ends <= now or (self.hits == 0 and self.left > 0)


@dataclass(slots=True)
class _Queue:
    """The hits of one key that wait for a lease: one of them takes it for all."""

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
        self._redis_failed = False  # whether it failed when it was last asked
        self._shared: WindowCounter | None = None
        if redis is not None:
            self._shared = WindowCounter(redis, f"{prefix}:{self._limit.amount}/{self._window}")
        self._shared_since: float | None = None
        self._told: str | None = None  # the reason in the log

    async def hit(self, key: str) -> Verdict:
        """Count one hit of `key`; the verdict says whether it is within the limit."""
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
                if lease is None or lease.is_spent(now):  # else the hit before took a lease for all
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
        """Count `amount` hits; the count of the window so far, and when it ends by the local clock."""
        if self._shared is not None and now >= self._redis_asked_from:
            if self._redis_failed:  # one request finds out whether it is back, and the others do not wait for that
                self._redis_asked_from = now + REDIS_COOLDOWN_SECONDS
            try:
                count, left = await self._shared.take(key, amount, self._window)
            except Exception as error:  # noqa: BLE001 - whatever it is, the request goes on
                self._redis_asked_from, self._redis_failed = now + REDIS_COOLDOWN_SECONDS, True
                self._tell(redis_reason(error), now)
            else:
                self._redis_asked_from, self._redis_failed = 0.0, False
                if self._shared_since is None:
                    self._shared_since = now
                return count, now + left
        if spent is None:
            return amount, now + self._window
        return self._limit.amount - spent.left + amount, spent.ends

    def _tell(self, reason: str, now: float) -> None:
        steady = self._shared_since is not None and now - self._shared_since > STEADY_SECONDS
        if reason != self._told or steady:
            log.warning("each process counts this limit for itself", limit=str(self._limit), reason=reason)
        self._told, self._shared_since = reason, None


async def count_hit(request: HTTPConnection, limiter: RateLimiter, key: str) -> None:
    """Count a request for `key`; the response tells the limit.

    Raises:
        RateLimitError: it is beyond the limit.
    """
    verdict = await limiter.hit(key)
    request.scope["state"]["response_headers"].extend(verdict.headers())
    if not verdict.allowed:
        raise RateLimitError(verdict.reset)


async def count_address(request: HTTPConnection, limiter: RateLimiter | None) -> None:
    """Count a request for the client's address, if there is a limit.

    Raises:
        RateLimitError: it is beyond the limit.
    """
    if limiter is not None and request.client is not None:
        await count_hit(request, limiter, f"address:{counted_address(request.client.host)}")


@lru_cache(maxsize=4096)
def counted_address(host: str) -> str:
    """The address that a client is counted by: of IPv6 the network of /64, which is one customer's."""
    address = read_address(host)
    if address is None:
        return host
    return str(ip_network((int(address) >> 64 << 64, 64)) if isinstance(address, IPv6Address) else address)
