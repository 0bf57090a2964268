"""A service that clients see under a prefix, behind a proxy that takes it off."""

from collections.abc import AsyncIterator

import httpx
import pytest

from notes.config import Settings
from notes.main import create_app
from plinth.telemetry.http_metrics import HTTP
from plinth.testing import problem
from tests.support.api import signed_in, with_state
from tests.support.notes import note


@pytest.fixture
async def shop(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """As uvicorn gives requests to the application: the proxy's prefix is back in the path."""
    app = create_app(settings)
    async with app.router.lifespan_context(app) as state:
        transport = httpx.ASGITransport(with_state(app, state), root_path="/shop")
        async with httpx.AsyncClient(
            transport=transport, base_url="http://service.test", headers=signed_in(settings)
        ) as client:
            yield client


async def test_links_begin_with_the_root_path(shop: httpx.AsyncClient) -> None:
    digest = await shop.post("/shop/api/v1/digests")
    assert digest.headers["location"] == f"/shop/api/v1/jobs/{digest.json()['job_id']}"
    assert (await shop.get(digest.headers["location"])).status_code == 200
    await shop.post("/shop/api/v1/digests")

    page = await shop.get("/shop/api/v1/jobs?limit=1")
    target = page.links["next"]["url"]
    assert target.startswith("/shop/api/v1/jobs?")
    assert (await shop.get(target)).status_code == 200


async def test_document_and_its_page_name_the_root_path(shop: httpx.AsyncClient) -> None:
    document = (await shop.get("/shop/api/v1/openapi.json")).json()
    page = await shop.get("/shop/docs")

    assert document["servers"] == [{"url": "/shop"}]
    assert "/api/v1/notes" in document["paths"]
    assert 'data-document="/shop/api/v1/openapi.json"' in page.text
    assert (await shop.get("/shop/")).headers["location"] == "/shop/docs"
    assert 'src="/shop/docs/assets/docs.js"' in page.text
    assert (await shop.get("/shop/docs/assets/docs.js")).status_code == 200


async def test_methods_are_those_of_the_path_behind_the_root_path(shop: httpx.AsyncClient) -> None:
    refused = await shop.put("/shop/api/v1/notes", json=note())

    problem(refused, 405)
    assert refused.headers["allow"] == "GET, HEAD, POST"
    assert (await shop.head("/shop/api/v1/notes")).status_code == 200


async def test_probes_stay_quiet(shop: httpx.AsyncClient) -> None:
    await shop.get("/shop/api/v1/public/health")
    counted = [line for line in HTTP.render(openmetrics=False).splitlines() if "/public/health" in line]
    assert all(line.endswith(" 0") for line in counted), "what is there from the start stays at 0"
