"""The page /docs, and the files that it loads."""

import re

import httpx
import pytest
from fastapi import FastAPI

from notes.config import Settings
from notes.main import create_app
from plinth.api.docs import install_docs
from plinth.testing import problem
from tests.support.api import client_of

ROOT = "http://service.test"


@pytest.fixture
async def page(service: httpx.AsyncClient) -> httpx.Response:
    return await service.get(f"{ROOT}/docs")


async def test_page_loads_nothing_from_another_host(page: httpx.Response, service: httpx.AsyncClient) -> None:
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page.text)

    assert sorted(loaded) == [
        "/docs/assets/docs.css",
        "/docs/assets/docs.js",
        "/docs/assets/favicon.png",
        "/docs/assets/swagger-ui-bundle.js",
        "/docs/assets/swagger-ui.css",
    ]
    for path in loaded:
        asset = await service.get(ROOT + path)
        assert asset.status_code == 200
        assert asset.headers["content-type"].partition(";")[0] in {"text/javascript", "text/css", "image/png"}


async def test_policy_lets_only_scripts_of_this_service_run(page: httpx.Response) -> None:
    policy = dict(part.split(" ", 1) for part in page.headers["content-security-policy"].split("; "))

    assert policy["default-src"] == policy["frame-ancestors"] == policy["form-action"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert page.text.count("<script") == page.text.count("<script src=") == 2
    assert page.headers["cache-control"] == "no-store"
    assert page.headers["x-frame-options"] == "DENY"


async def test_root_leads_to_the_page(service: httpx.AsyncClient) -> None:
    for path in ("/", "/docs/"):
        answer = await service.get(ROOT + path)
        assert (answer.status_code, answer.headers["location"]) == (307, "/docs")


async def test_without_the_page_nothing_is_at_the_root(settings: Settings) -> None:
    async with client_of(create_app(settings.model_copy(update={"DOCS_ENABLED": False}))) as client:
        for path in ("/", "/docs", "/docs/", "/docs/assets/docs.js"):
            problem(await client.get(ROOT + path), 404)


async def test_files_are_kept_by_browsers_and_asked_for_again(service: httpx.AsyncClient) -> None:
    first = await service.get(f"{ROOT}/docs/assets/docs.js")
    again = await service.get(f"{ROOT}/docs/assets/docs.js", headers={"If-None-Match": first.headers["etag"]})

    assert first.headers["cache-control"] == again.headers["cache-control"] == "no-cache"
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("path", ["nothing.js", "../docs.py", "%2e%2e/docs.py", ""])
async def test_nothing_else_is_among_the_files(service: httpx.AsyncClient, path: str) -> None:
    problem(await service.get(f"{ROOT}/docs/assets/{path}"), 404)


async def test_route_of_the_service_comes_before_the_redirect() -> None:
    app = FastAPI(title="A & <B>", docs_url=None)

    @app.get("/")
    async def home() -> str:
        return "home"

    install_docs(app)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=ROOT) as client:
        assert (await client.get("/")).json() == "home"
        assert "<title>A &amp; &lt;B&gt;</title>" in (await client.get("/docs")).text
