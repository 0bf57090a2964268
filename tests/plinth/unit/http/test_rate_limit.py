"""Rate limits: exact counts, few Redis commands, and no failed request without Redis."""

import asyncio
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from plinth.http.rate_limit import LEASE_SHARE, REDIS_COOLDOWN_SECONDS, RateLimiter, Verdict, counted_address
from tests.support.identity_provider import Clock

WINDOW = 60


class SharedCounts:
    """A stand-in for Redis: its script counts in the next loop turn, or fails."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.counts: dict[str, tuple[int, float]] = {}
        self.commands = 0
        self.broken = False

    def register_script(self, _script: str) -> Callable[..., Awaitable[tuple[int, float]]]:
        return self.take

    async def take(self, keys: list[str], args: list[int]) -> tuple[int, float]:
        (key,), (amount, _) = keys, args
        self.commands += 1
        await asyncio.sleep(0)
        if self.broken:
            raise RedisConnectionError("away")
        count, ends = self.counts.get(key, (0, 0.0))
        if ends <= self.clock():
            count, ends = 0, self.clock() + WINDOW
        self.counts[key] = count + amount, ends
        return count + amount, (ends - self.clock()) * 1000


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def shared(clock: Clock) -> SharedCounts:
    return SharedCounts(clock)


@pytest.fixture
def fleet(clock: Clock, shared: SharedCounts) -> Callable[[str], RateLimiter]:
    """Makes limiters of several processes that share one Redis."""

    def limiter(limit: str) -> RateLimiter:
        return RateLimiter(limit, shared, prefix="test", clock=clock)  # type: ignore[arg-type]

    return limiter


def alone(limit: str, clock: Clock) -> RateLimiter:
    """A limiter of a process without Redis."""
    return RateLimiter(limit, None, prefix="test", clock=clock)


async def hits(limiter: RateLimiter, count: int, key: str = "alice") -> list[Verdict]:
    return [await limiter.hit(key) for _ in range(count)]


async def hits_at_once(limiter: RateLimiter, count: int, key: str = "alice") -> list[Verdict]:
    return await asyncio.gather(*(limiter.hit(key) for _ in range(count)))


def admitted(verdicts: list[Verdict]) -> int:
    return sum(verdict.allowed for verdict in verdicts)


class TestSingleProcess:
    async def test_a_limiter_admits_its_limit_and_no_more(self, clock: Clock) -> None:
        for limit, amount in (("1/minute", 1), ("20/minute", 20), ("600/minute", 600), ("3 per 2 minute", 3)):
            verdicts = await hits(alone(limit, clock), amount + 30)

            assert [verdict.allowed for verdict in verdicts] == [True] * amount + [False] * 30

    async def test_limiter_starts_a_new_count_in_each_window(self, clock: Clock) -> None:
        limiter = alone("20/minute", clock)
        for _ in range(3):
            assert admitted(await hits(limiter, 25)) == 20
            clock.advance(WINDOW)

    async def test_a_limiter_counts_each_key_separately(self, clock: Clock) -> None:
        limiter = alone("2/minute", clock)

        assert admitted(await hits(limiter, 5, "alice")) == 2
        assert admitted(await hits(limiter, 5, "bob")) == 2

    async def test_a_limiter_keeps_a_bounded_number_of_keys(
        self, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("plinth.http.rate_limit.MAX_KEYS", 10)
        limiter = alone("2/minute", clock)

        for n in range(100):
            await limiter.hit(f"caller {n}")

        assert len(limiter._leases) == 10


class TestVerdict:
    async def test_a_verdict_has_the_remaining_hits_and_seconds(self, clock: Clock) -> None:
        limiter = alone("3/minute", clock)

        first = await limiter.hit("alice")
        clock.advance(20.5)
        rest = await hits(limiter, 3)

        assert first == Verdict(allowed=True, limit=3, remaining=2, window=60, reset=60)
        assert [verdict.remaining for verdict in rest] == [1, 0, 0]
        assert rest[-1] == Verdict(allowed=False, limit=3, remaining=0, window=60, reset=40)

    async def test_a_verdict_rounds_the_wait_up(self, clock: Clock) -> None:
        limiter = alone("1/minute", clock)
        await limiter.hit("alice")
        clock.advance(59.9)

        assert (await limiter.hit("alice")).reset == 1

    async def test_a_verdict_waits_no_longer_than_a_window(
        self, fleet: Callable[[str], RateLimiter], clock: Clock
    ) -> None:
        limiter = fleet("20/minute")
        ticks = count(clock.now, 0.001)  # time goes by while Redis is asked
        limiter._clock = lambda: next(ticks)

        assert (await limiter.hit("alice")).reset == 60

    async def test_a_verdict_has_the_headers_of_the_draft(self) -> None:
        verdict = Verdict(allowed=True, limit=600, remaining=599, window=60, reset=42)

        assert verdict.headers() == [
            (b"ratelimit-policy", b'"default";q=600;w=60'),
            (b"ratelimit", b'"default";r=599;t=42'),
        ]


@pytest.mark.parametrize(
    ("host", "counted"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("testclient", "testclient"),
    ],
)
def test_address_is_counted_by_its_customer(host: str, counted: str) -> None:
    assert counted_address(host) == counted


class TestSharedLimit:
    @pytest.mark.parametrize("limit", [1, 20, 50, 600])
    async def test_a_shared_limiter_admits_exactly_its_limit_of_many_at_once(
        self, fleet: Callable[[str], RateLimiter], limit: int
    ) -> None:
        verdicts = await hits_at_once(fleet(f"{limit}/minute"), limit + 100)

        assert admitted(verdicts) == limit

    @pytest.mark.parametrize("limit", [1, 20, 50, 600])
    async def test_two_limiters_on_one_redis_admit_no_more_than_the_limit(
        self, fleet: Callable[[str], RateLimiter], limit: int
    ) -> None:
        first, second = fleet(f"{limit}/minute"), fleet(f"{limit}/minute")

        both = await asyncio.gather(hits_at_once(first, limit), hits_at_once(second, limit))
        after = [await limiter.hit("alice") for limiter in (first, second)]

        total = sum(admitted(verdicts) for verdicts in (*both, after))
        assert total <= limit
        assert total >= limit - 2 * (limit // LEASE_SHARE)

    async def test_two_limiters_on_one_redis_have_one_window(
        self, fleet: Callable[[str], RateLimiter], clock: Clock
    ) -> None:
        first, second = fleet("20/minute"), fleet("20/minute")
        await hits(first, 20)
        clock.advance(30)
        assert admitted(await hits(second, 5)) == 0
        clock.advance(30)

        assert admitted(await hits(second, 15)) == 15
        assert admitted(await hits(first, 15)) == 5

    async def test_many_hits_cost_few_redis_commands(
        self, fleet: Callable[[str], RateLimiter], shared: SharedCounts
    ) -> None:
        limiter = fleet("600/minute")
        await hits_at_once(limiter, 200)
        assert shared.commands == 2  # the first hit asked alone

        await hits(limiter, 400)
        assert shared.commands < 30

    async def test_a_refused_caller_costs_no_redis_command(
        self, fleet: Callable[[str], RateLimiter], shared: SharedCounts
    ) -> None:
        limiter = fleet("20/minute")
        await hits(limiter, 21)
        asked = shared.commands

        await hits(limiter, 1000)

        assert shared.commands == asked

    async def test_a_cancelled_hit_does_not_block_the_others(self, fleet: Callable[[str], RateLimiter]) -> None:
        limiter = fleet("20/minute")
        first = asyncio.create_task(limiter.hit("alice"))
        others = [asyncio.create_task(limiter.hit("alice")) for _ in range(25)]
        await asyncio.sleep(0)
        first.cancel()

        verdicts = await asyncio.gather(*others)

        assert first.cancelled()
        assert 19 <= admitted(verdicts) <= 20
        assert not limiter._queues


class TestRedisDown:
    async def test_a_limiter_counts_locally_without_redis(
        self, fleet: Callable[[str], RateLimiter], shared: SharedCounts
    ) -> None:
        shared.broken = True

        assert admitted(await hits(fleet("20/minute"), 30)) == 20
        assert admitted(await hits_at_once(fleet("20/minute"), 100)) == 20

    async def test_a_limiter_keeps_its_count_when_redis_fails(
        self, fleet: Callable[[str], RateLimiter], shared: SharedCounts
    ) -> None:
        limiter = fleet("20/minute")
        await hits(limiter, 15)
        shared.broken = True

        assert admitted(await hits_at_once(limiter, 100)) == 5

    async def test_redis_is_asked_again_after_a_cooldown(
        self, fleet: Callable[[str], RateLimiter], shared: SharedCounts, clock: Clock
    ) -> None:
        limiter = fleet("600/minute")
        shared.broken = True
        await hits(limiter, 100)
        assert shared.commands == 1

        shared.broken = False
        clock.advance(REDIS_COOLDOWN_SECONDS)
        await hits(limiter, 100)

        assert shared.commands > 1

    async def test_one_caller_asks_whether_redis_is_back(
        self, fleet: Callable[[str], RateLimiter], shared: SharedCounts, clock: Clock
    ) -> None:
        limiter = fleet("600/minute")
        shared.broken = True
        await limiter.hit("alice")
        for commands in (2, 3):
            clock.advance(REDIS_COOLDOWN_SECONDS)
            await asyncio.gather(*(limiter.hit(f"caller {number}") for number in range(100)))
            assert shared.commands == commands

        shared.broken = False
        clock.advance(REDIS_COOLDOWN_SECONDS)
        await limiter.hit("bob")
        await asyncio.gather(*(limiter.hit(f"new {number}") for number in range(100)))
        assert shared.commands == 104

    async def test_asking_whether_redis_is_back_goes_on_after_a_cancellation(
        self, fleet: Callable[[str], RateLimiter], shared: SharedCounts, clock: Clock
    ) -> None:
        limiter = fleet("600/minute")
        shared.broken = True
        await limiter.hit("alice")
        shared.broken = False
        clock.advance(REDIS_COOLDOWN_SECONDS)
        asking = asyncio.create_task(limiter.hit("bob"))
        await asyncio.sleep(0)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)

        clock.advance(REDIS_COOLDOWN_SECONDS)
        await limiter.hit("alice")
        await limiter.hit("carol")
        assert shared.commands == 4

    @pytest.mark.parametrize("error", [OSError(), TimeoutError()])
    async def test_limiter_survives_any_failure_of_redis(
        self, fleet: Callable[[str], RateLimiter], shared: SharedCounts, error: Exception, monkeypatch: Any
    ) -> None:
        async def fail(**_: object) -> tuple[int, float]:
            raise error

        monkeypatch.setattr(shared, "take", fail)

        assert (await fleet("20/minute").hit("alice")).allowed
