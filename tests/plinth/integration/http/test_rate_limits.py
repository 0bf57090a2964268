"""Rate limits, over one instance of the service or several, with Redis and without."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import httpx
import pytest
from pydantic import SecretStr

from notes.config import Settings
from notes.main import create_app
from plinth.embedded.redis import Redis
from plinth.settings import Environment
from plinth.testing import problem
from plinth.testing.servers import scratch_folder
from tests.support.api import client_of, signed_in
from tests.support.notes import settings_with

LIMITED = {"RATE_LIMIT": "20/minute", "RATE_LIMIT_ANONYMOUS": "5/minute"}


@pytest.fixture(scope="module")
def settings(database_url: str, redis_url: str) -> Settings:
    return settings_with(DATABASE_URL=database_url, REDIS_URL=redis_url, **LIMITED)


@asynccontextmanager
async def an_instance(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """Another instance of the service, with nothing in its memory."""
    async with client_of(create_app(settings)) as client:
        yield client


async def statuses(client: httpx.AsyncClient, headers: dict[str, str], count: int) -> Counter[int]:
    """What so many requests at once are answered with."""
    responses = await asyncio.gather(*(client.get("/me", headers=headers) for _ in range(count)))
    return Counter(response.status_code for response in responses)


class TestCallers:
    async def test_responses_carry_rate_limit_headers(self, service: httpx.AsyncClient, settings: Settings) -> None:
        caller = signed_in(settings)

        first, second = [await service.get("/me", headers=caller) for _ in range(2)]

        assert first.headers["ratelimit-policy"] == '"default";q=20;w=60'
        for response, remaining in ((first, 19), (second, 18)):
            left, wait = response.headers["ratelimit"].removeprefix('"default";').split(";")
            assert left == f"r={remaining}"
            assert 58 <= int(wait.removeprefix("t=")) <= 60

    async def test_request_beyond_the_limit_is_refused_with_retry_after(
        self, service: httpx.AsyncClient, settings: Settings
    ) -> None:
        caller = signed_in(settings)
        for _ in range(20):
            assert (await service.get("/me", headers=caller)).status_code == 200

        response = await service.get("/me", headers=caller)

        problem(response, 429, "rate_limited")
        assert 58 <= int(response.headers["retry-after"]) <= 60
        assert response.headers["ratelimit"] == f'"default";r=0;t={response.headers["retry-after"]}'

    async def test_rate_limit_counts_all_operations_together(
        self, service: httpx.AsyncClient, settings: Settings
    ) -> None:
        caller = signed_in(settings)
        for _ in range(10):
            await service.get("/notes", headers=caller)
            await service.post("/notes", headers=caller, json={})

        problem(await service.get("/me", headers=caller), 429)

    async def test_rate_limit_of_one_caller_does_not_affect_another(
        self, service: httpx.AsyncClient, settings: Settings
    ) -> None:
        busy, calm = signed_in(settings), signed_in(settings)
        await statuses(service, busy, 30)

        assert (await service.get("/me", headers=calm)).status_code == 200

    async def test_concurrent_requests_pass_exactly_up_to_the_limit(
        self, service: httpx.AsyncClient, settings: Settings
    ) -> None:
        assert await statuses(service, signed_in(settings), 100) == {200: 20, 429: 80}

    async def test_rate_limit_is_shared_by_all_instances(self, service: httpx.AsyncClient, settings: Settings) -> None:
        caller = signed_in(settings)
        async with an_instance(settings) as another:
            both = await asyncio.gather(statuses(service, caller, 100), statuses(another, caller, 100))

        assert sum(counts[200] for counts in both) <= 20
        assert set().union(*both) == {200, 429}


async def test_two_services_on_one_redis_share_no_rate_limit(settings: Settings, fresh_database_url: str) -> None:
    # All settings are the same, PROJECT_NAME and SECRET_KEY at their defaults, but for the database.
    another = settings.model_copy(update={"DATABASE_URL": SecretStr(fresh_database_url)})
    async with an_instance(settings) as one, an_instance(another) as other:
        caller = signed_in(settings)
        assert await statuses(one, caller, 30) == {200: 20, 429: 10}

        assert await statuses(other, caller, 30) == {200: 20, 429: 10}


async def test_two_environments_on_one_redis_share_no_rate_limit(settings: Settings) -> None:
    another = settings.model_copy(update={"ENVIRONMENT": Environment.LOCAL})
    async with an_instance(settings) as one, an_instance(another) as other:
        caller = signed_in(settings)
        assert await statuses(one, caller, 30) == {200: 20, 429: 10}

        assert await statuses(other, caller, 30) == {200: 20, 429: 10}


class TestAnonymousCallers:
    async def test_anonymous_requests_are_limited_by_address(self, settings: Settings) -> None:
        async with an_instance(settings) as service:
            for token in ("", "Bearer a.b.c", "Bearer x", "Basic y", "z"):
                response = await service.get("/me", headers={"Authorization": token})
                problem(response, 401)
            response = await service.get("/me")

            problem(response, 429, "rate_limited")
            assert int(response.headers["retry-after"]) > 0
            assert response.headers["ratelimit-policy"] == '"default";q=5;w=60'

    async def test_anonymous_requests_do_not_use_up_the_limit_of_callers_at_their_address(
        self, settings: Settings
    ) -> None:
        async with an_instance(settings) as service:
            await statuses(service, {}, 10)

            assert (await service.get("/me", headers=signed_in(settings))).status_code == 200

    async def test_address_is_not_mistaken_for_a_subject_of_the_same_text(self, settings: Settings) -> None:
        alike = settings.model_copy(update={"RATE_LIMIT": settings.RATE_LIMIT_ANONYMOUS})
        async with an_instance(alike) as service:
            await statuses(service, signed_in(settings, "203.0.113.7"), 10)

            problem(await service.get("/me"), 401)

    async def test_health_is_not_rate_limited(self, service: httpx.AsyncClient) -> None:
        responses = [await service.get("/public/health") for _ in range(50)]

        assert {response.status_code for response in responses} == {200}
        assert "ratelimit" not in responses[0].headers


class TestNoLimit:
    async def test_empty_rate_limits_limit_no_caller(self, settings: Settings) -> None:
        unlimited = settings.model_copy(update={"RATE_LIMIT": "", "RATE_LIMIT_ANONYMOUS": ""})
        async with an_instance(unlimited) as service:
            assert await statuses(service, signed_in(settings), 50) == {200: 50}
            assert await statuses(service, {}, 50) == {401: 50}


class TestRedisOutage:
    @pytest.fixture
    def redis(self) -> Iterator[Redis]:
        """A Redis of this test alone."""
        with scratch_folder() as folder:
            server = Redis(folder / "redis", log=folder / "redis.log", durable=False)
            server.start()
            yield server
            if server.process and server.process.running:
                server.stop()

    async def test_rate_limits_hold_within_the_process_when_redis_stops(self, database_url: str, redis: Redis) -> None:
        settings = settings_with(DATABASE_URL=database_url, REDIS_URL=redis.url(), **LIMITED)
        caller = signed_in(settings)
        async with an_instance(settings) as service:
            assert await statuses(service, caller, 5) == {200: 5}

            redis.stop()

            assert await statuses(service, caller, 100) == {200: 15, 429: 85}
            assert await statuses(service, signed_in(settings), 100) == {200: 20, 429: 80}

    async def test_rate_limits_hold_when_redis_is_away_at_startup(self, database_url: str, redis: Redis) -> None:
        settings = settings_with(DATABASE_URL=database_url, REDIS_URL=redis.url(), **LIMITED)
        redis.stop()
        async with an_instance(settings) as service:
            assert await statuses(service, signed_in(settings), 30) == {200: 20, 429: 10}

            redis.start()

            assert await statuses(service, signed_in(settings), 30) == {200: 20, 429: 10}
