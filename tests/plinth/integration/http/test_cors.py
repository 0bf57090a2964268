"""Which origins may call the service from a browser."""

import time
from collections.abc import AsyncIterator

import httpx
import pytest

from notes.config import Settings
from notes.main import create_app
from plinth.testing import problem
from tests.support.api import client_of, signed_in
from tests.support.notes import note

FRIEND = "https://app.example.com"
STRANGER = "https://evil.example.com"


def preflight(
    origin: str, method: str = "PATCH", headers: str = "authorization,content-type,if-match"
) -> dict[str, str]:
    return {
        "Origin": origin,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": headers,
    }


@pytest.fixture(scope="module")
async def service(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    settings = settings.model_copy(
        update={
            "BACKEND_CORS_ORIGINS": (
                FRIEND,
                "http://localhost:3000",
                "https://*.example.org",
                "http://*.local.test:81",
            ),
            "BACKEND_CORS_ALLOW_HEADERS": ("X-Tenant",),
            "BACKEND_CORS_EXPOSE_HEADERS": ("X-Total-Count",),
        }
    )
    async with client_of(create_app(settings)) as client:
        yield client


class TestPreflight:
    @pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"])
    async def test_preflight_allows_every_method_of_the_api_to_an_allowed_origin(
        self, service: httpx.AsyncClient, method: str
    ) -> None:
        response = await service.options("/notes", headers=preflight(FRIEND, method))

        assert response.status_code == 200
        assert response.headers["access-control-allow-origin"] == FRIEND
        assert response.headers["access-control-allow-credentials"] == "true"
        assert method in response.headers["access-control-allow-methods"]
        assert response.headers["x-request-id"]

    @pytest.mark.parametrize(
        "header",
        [
            "Authorization",
            "Content-Type",
            "If-Match",
            "If-None-Match",
            "Idempotency-Key",
            "Last-Event-ID",
            "Range",
            "If-Range",
            "X-Request-ID",
            "traceparent",
            "tracestate",
            "baggage",
            "sentry-trace",
            "X-Tenant",
        ],
    )
    async def test_preflight_allows_every_header_that_the_api_reads(
        self, service: httpx.AsyncClient, header: str
    ) -> None:
        assert (await service.options("/notes", headers=preflight(FRIEND, headers=header))).status_code == 200

    @pytest.mark.parametrize(
        "asked",
        [
            preflight(STRANGER),
            preflight("null"),
            preflight(FRIEND + ".evil.example.com"),
            preflight("http://app.example.com"),
            preflight("https://example.org"),
            preflight("http://a.local.test"),
            preflight("file://"),
            preflight(FRIEND, method="TRACE"),
            preflight(FRIEND, headers="x-whatever"),
        ],
    )
    async def test_other_preflights_are_refused_with_a_problem(
        self, service: httpx.AsyncClient, asked: dict[str, str]
    ) -> None:
        problem(await service.options("/notes", headers=asked), 400, "cors_refused")

    async def test_preflight_of_an_unknown_origin_gets_no_allow_origin(self, service: httpx.AsyncClient) -> None:
        response = await service.options("/notes", headers=preflight(STRANGER))

        assert "access-control-allow-origin" not in response.headers


class TestRequests:
    async def test_response_to_an_allowed_origin_exposes_its_headers(
        self, service: httpx.AsyncClient, alice: dict[str, str]
    ) -> None:
        response = await service.post("/notes", json=note(), headers=alice | {"Origin": FRIEND})

        assert response.headers["access-control-allow-origin"] == FRIEND
        assert "Origin" in response.headers["vary"]
        exposed = response.headers["access-control-expose-headers"]
        for name in (
            "Content-Disposition",
            "Content-Range",
            "ETag",
            "Link",
            "Location",
            "RateLimit",
            "RateLimit-Policy",
            "Retry-After",
            "traceresponse",
            "WWW-Authenticate",
            "X-Request-ID",
            "X-Total-Count",
        ):
            assert name in exposed

    @pytest.mark.parametrize(
        ("method", "path", "status"),
        [("GET", "/me", 401), ("GET", "/nowhere", 404), ("PUT", "/notes", 405), ("POST", "/notes", 413)],
    )
    async def test_error_response_to_an_allowed_origin_may_be_read(
        self, service: httpx.AsyncClient, method: str, path: str, status: int
    ) -> None:
        headers = {"Origin": FRIEND}
        content = b"x" * 2_000_000 if status == 413 else None
        response = await service.request(method, path, content=content, headers=headers)

        problem(response, status)
        assert response.headers["access-control-allow-origin"] == FRIEND

    async def test_response_to_an_unknown_origin_has_no_allow_origin(
        self, service: httpx.AsyncClient, alice: dict[str, str]
    ) -> None:
        response = await service.get("/me", headers=alice | {"Origin": STRANGER})

        assert "access-control-allow-origin" not in response.headers


class TestPatterns:
    @pytest.mark.parametrize(
        "origin",
        [
            "https://app.example.org",
            "https://feature-7.app.example.org",
            "https://xn--bcher-kva.example.org",
            "https://under_score.example.org",
            "http://a.local.test:81",
        ],
    )
    async def test_subdomain_at_any_depth_is_allowed(
        self, service: httpx.AsyncClient, alice: dict[str, str], origin: str
    ) -> None:
        asked = await service.options("/notes", headers=preflight(origin))
        response = await service.get("/notes", headers=alice | {"Origin": origin})

        assert asked.status_code == 200
        for answer in (asked, response):
            assert answer.headers["access-control-allow-origin"] == origin
            assert "Origin" in answer.headers["vary"]

    @pytest.mark.parametrize(
        "origin",
        [
            "null",
            "https://example.org",
            "https://evil-example.org",
            "https://evilexample.org",
            "https://app.example.org.evil.com",
            "https://app.exampleXorg",
            "https://app.example.org:444",
            "http://app.example.org",
            "https://evil.com/.example.org",
            "https://evil.com#.example.org",
            "https://evil.com?.example.org",
            "https://user@app.example.org",
            "https://evil.com\\.example.org",
            "https://.example.org",
            "https://a..example.org",
            "https://app.example.org\n",
            "xhttps://app.example.org",
            "http://a.local.test:8181",
        ],
    )
    async def test_origin_that_only_looks_like_a_subdomain_is_not(
        self, service: httpx.AsyncClient, alice: dict[str, str], origin: str
    ) -> None:
        response = await service.get("/notes", headers=[*alice.items(), ("Origin", origin)])

        assert "access-control-allow-origin" not in response.headers
        assert "Origin" in response.headers["vary"]

    async def test_response_without_an_origin_varies_by_it(
        self, service: httpx.AsyncClient, alice: dict[str, str]
    ) -> None:
        assert "Origin" in (await service.get("/notes", headers=alice)).headers["vary"]

    @pytest.mark.parametrize("origin", ["https://" + "a." * 15_000, "https://" + "a" * 30_000 + ".example.com"])
    async def test_long_origin_takes_no_time(self, service: httpx.AsyncClient, origin: str) -> None:
        began = time.process_time()
        await service.options("/notes", headers=preflight(origin))
        assert time.process_time() - began < 2

    async def test_any_origin_is_any_but_null(self, settings: Settings) -> None:
        anyone = settings.model_copy(update={"BACKEND_CORS_ORIGINS": ("*",)})
        async with client_of(create_app(anyone), headers=signed_in(settings)) as client:
            allowed = await client.get("/me", headers={"Origin": STRANGER})
            refused = await client.get("/me", headers={"Origin": "null"})

            problem(await client.options("/me", headers=preflight("null")), 400, "cors_refused")
        assert allowed.headers["access-control-allow-origin"] == STRANGER
        assert "access-control-allow-origin" not in refused.headers


class TestCorsDisabled:
    async def test_no_cors_headers_without_configured_origins(self, settings: Settings) -> None:
        async with client_of(create_app(settings), headers=signed_in(settings)) as client:
            response = await client.get("/me", headers={"Origin": FRIEND})
            asked = await client.options("/me", headers=preflight(FRIEND))

        assert not any(name.startswith("access-control") for name in response.headers)
        problem(asked, 405)
