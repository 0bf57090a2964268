"""What the lifespan of an application takes from its service."""

from typing import Any, Literal

from fastapi import FastAPI

from notes import health
from notes.config import Settings
from plinth.api.lifespan import lifespan_of
from plinth.health.lifecycle import Lifecycle
from tests.support.api import client_of


class SearchingSettings(Settings):
    READINESS_REQUIRED: tuple[Literal["database", "redis", "search"], ...] = ("database", "search")  # type: ignore[assignment]


async def readiness_with(settings: Settings, error: Exception | None) -> tuple[int, Any]:
    """The status and the body of /public/health/ready with a check named `search`, which may fail."""

    async def search_answers() -> None:
        if error is not None:
            raise error

    app = FastAPI(lifespan=lifespan_of(settings, Lifecycle(0), {"search": search_answers}))
    app.include_router(health.router, prefix=settings.API_V1_STR)
    async with client_of(app) as client:
        response = await client.get("/public/health/ready")
    return response.status_code, response.json()


async def test_readiness_shows_a_check_of_the_service(settings: Settings) -> None:
    status, body = await readiness_with(settings, None)
    assert (status, body["components"]["search"]) == (200, "up")


async def test_readiness_is_degraded_by_a_check_that_is_not_required(settings: Settings) -> None:
    status, body = await readiness_with(settings, ConnectionError())
    assert (status, body["status"], body["components"]["search"]) == (200, "degraded", "down")


async def test_readiness_is_lost_by_a_check_that_is_required(settings: Settings) -> None:
    url, redis_url = settings.DATABASE_URL.get_secret_value(), settings.redis_url
    required = SearchingSettings.isolated(ENVIRONMENT="test", DATABASE_URL=url, REDIS_URL=redis_url)
    status, body = await readiness_with(required, ConnectionError())
    assert (status, body["status"]) == (503, "unavailable")
