"""The service `app`, running, and two of its callers."""

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import httpx
import pytest

from app.core.config import Settings
from app.main import create_app
from plinth.testing import settings_for_tests
from tests.support.api import client_of, signed_in


def settings_with(**values: Any) -> Settings:
    """Settings of the service under test, not of the environment."""
    return settings_for_tests(Settings, **values)


# sample: begin
def item(**values: Any) -> dict[str, Any]:
    """A body for POST /items."""
    return {"name": "a thing", **values}


# sample: end
@pytest.fixture(scope="module")
def settings(database_url: str, redis_url: str) -> Settings:
    return settings_with(DATABASE_URL=database_url, REDIS_URL=redis_url)


@pytest.fixture(scope="module")
async def service(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """The service, for callers who do not say who they are."""
    async with client_of(create_app(settings)) as client:
        yield client


@pytest.fixture
def alice(settings: Settings) -> dict[str, str]:
    """The headers of a caller."""
    return signed_in(settings, "alice")


@pytest.fixture
def bob(settings: Settings) -> dict[str, str]:
    """The headers of another caller."""
    return signed_in(settings, "bob")


@pytest.fixture
async def api(service: httpx.AsyncClient, alice: dict[str, str]) -> AsyncIterator[httpx.AsyncClient]:
    """The service as alice calls it, unless a request brings other headers."""
    service.headers.update(alice)
    yield service
    del service.headers["Authorization"]


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """Another connection to the service's database."""
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()
