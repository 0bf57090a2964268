"""How often a caller may ask, over one instance of the service or several, with Redis and without."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import httpx
import pytest

from notes.config import Settings
from notes.main import create_app
from plinth.embedded.redis import Redis
from plinth.testing.servers import scratch_folder
from tests.support.api import client_of, problem, signed_in
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
    async def test_are_told_how_they_stand(self, service: httpx.AsyncClient, settings: Settings) -> None:
        caller = signed_in(settings)

        first, second = [await service.get("/me", headers=caller) for _ in range(2)]

        assert first.headers["ratelimit-policy"] == '"default";q=20;w=60'
        for response, remaining in ((first, 19), (second, 18)):
            left, wait = response.headers["ratelimit"].removeprefix('"default";').split(";")
            assert left == f"r={remaining}"
            assert 58 <= int(wait.removeprefix("t=")) <= 60

    async def test_are_refused_beyond_their_limit_and_told_when_to_come_back(
        self, service: httpx.AsyncClient, settings: Settings
    ) -> None:
        caller = signed_in(settings)
        for _ in range(20):
            assert (await service.get("/me", headers=caller)).status_code == 200

        response = await service.get("/me", headers=caller)

        problem(response, 429, "rate_limited")
        assert 58 <= int(response.headers["retry-after"]) <= 60
        assert response.headers["ratelimit"] == f'"default";r=0;t={response.headers["retry-after"]}'

    async def test_are_counted_over_all_operations(self, service: httpx.AsyncClient, settings: Settings) -> None:
        caller = signed_in(settings)
        for _ in range(10):
            await service.get("/notes", headers=caller)
            await service.post("/notes", headers=caller, json={})

        problem(await service.get("/me", headers=caller), 429)

    async def test_do_not_answer_for_one_another(self, service: httpx.AsyncClient, settings: Settings) -> None:
        busy, calm = signed_in(settings), signed_in(settings)
        await statuses(service, busy, 30)

        assert (await service.get("/me", headers=calm)).status_code == 200

    async def test_who_come_in_crowds_pass_as_often_as_the_limit_says(
        self, service: httpx.AsyncClient, settings: Settings
    ) -> None:
        assert await statuses(service, signed_in(settings), 100) == {200: 20, 429: 80}

    async def test_are_counted_by_all_instances_together(self, service: httpx.AsyncClient, settings: Settings) -> None:
        caller = signed_in(settings)
        async with an_instance(settings) as another:
            both = await asyncio.gather(statuses(service, caller, 100), statuses(another, caller, 100))

        assert sum(counts[200] for counts in both) <= 20
        assert set().union(*both) == {200, 429}


class TestStrangers:
    async def test_are_counted_by_their_address(self, settings: Settings) -> None:
        async with an_instance(settings) as service:
            for token in ("", "Bearer a.b.c", "Bearer x", "Basic y", "z"):
                response = await service.get("/me", headers={"Authorization": token})
                problem(response, 401)
            response = await service.get("/me")

            problem(response, 429, "rate_limited")
            assert int(response.headers["retry-after"]) > 0
            assert response.headers["ratelimit-policy"] == '"default";q=5;w=60'

    async def test_do_not_use_up_what_callers_behind_the_same_address_have(self, settings: Settings) -> None:
        async with an_instance(settings) as service:
            await statuses(service, {}, 10)

            assert (await service.get("/me", headers=signed_in(settings))).status_code == 200

    async def test_are_not_taken_for_a_caller_who_is_called_like_their_address(self, settings: Settings) -> None:
        alike = settings.model_copy(update={"RATE_LIMIT": settings.RATE_LIMIT_ANONYMOUS})
        async with an_instance(alike) as service:
            await statuses(service, signed_in(settings, "203.0.113.7"), 10)

            problem(await service.get("/me"), 401)

    async def test_may_ask_for_health_as_often_as_they_like(self, service: httpx.AsyncClient) -> None:
        responses = [await service.get("/public/health") for _ in range(50)]

        assert {response.status_code for response in responses} == {200}
        assert "ratelimit" not in responses[0].headers


class TestSwitchedOff:
    async def test_is_everybody_unlimited(self, settings: Settings) -> None:
        unlimited = settings.model_copy(update={"RATE_LIMIT": "", "RATE_LIMIT_ANONYMOUS": ""})
        async with an_instance(unlimited) as service:
            assert await statuses(service, signed_in(settings), 50) == {200: 50}
            assert await statuses(service, {}, 50) == {401: 50}


class TestRedisDies:
    @pytest.fixture
    def redis(self) -> Iterator[Redis]:
        """A Redis of this test alone."""
        with scratch_folder() as folder:
            server = Redis(folder / "redis", log=folder / "redis.log", durable=False)
            server.start()
            yield server
            if server.process and server.process.running:
                server.stop()

    async def test_and_the_service_goes_on_and_on_counting(self, database_url: str, redis: Redis) -> None:
        settings = settings_with(DATABASE_URL=database_url, REDIS_URL=redis.url(), **LIMITED)
        caller = signed_in(settings)
        async with an_instance(settings) as service:
            assert await statuses(service, caller, 5) == {200: 5}

            redis.stop()

            assert await statuses(service, caller, 100) == {200: 15, 429: 85}
            assert await statuses(service, signed_in(settings), 100) == {200: 20, 429: 80}

    async def test_before_the_service_starts(self, database_url: str, redis: Redis) -> None:
        settings = settings_with(DATABASE_URL=database_url, REDIS_URL=redis.url(), **LIMITED)
        redis.stop()
        async with an_instance(settings) as service:
            assert await statuses(service, signed_in(settings), 30) == {200: 20, 429: 10}

            redis.start()

            assert await statuses(service, signed_in(settings), 30) == {200: 20, 429: 10}
