"""Route templates, with the installed version of FastAPI."""

from typing import Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI, HTTPException
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from plinth.telemetry.route_template import UNMATCHED, route_template, watch_route


async def answer() -> str:
    return "here"


async def plain(request: Any) -> PlainTextResponse:
    return PlainTextResponse("here")


class Seen:
    """Middleware that records the route template of each request."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        watch_route(scope)
        watch_route(scope)
        try:
            await self.app(scope, receive, send)
        finally:
            last.append(route_template(scope))


last: list[str] = []


def application() -> FastAPI:
    app = FastAPI()
    app.add_middleware(Seen)
    app.get("/plain/{name}")(answer)
    app.add_route("/starlette/{name}", plain)

    inner = APIRouter(prefix="/inner")
    inner.get("/{inner_id}")(answer)
    inner.post("/{inner_id}")(answer)
    inner.get("/files/{path:path}")(answer)

    async def fail(thing: int) -> None:
        raise HTTPException(418)

    inner.get("/fail/{thing}")(fail)
    outer = APIRouter(prefix="/outer/{outer_id}")
    outer.include_router(inner, prefix="/between")
    side = APIRouter(routes=[*inner.routes])
    app.include_router(outer, prefix="/api")
    app.include_router(side, prefix="/side")

    sub = FastAPI()
    sub_router = APIRouter(prefix="/router")
    sub_router.get("/{thing}")(answer)
    sub.include_router(sub_router)
    app.mount("/tenants/{tenant}", sub)
    app.mount("/foreign", Starlette(routes=[Route("/{thing}", plain)]))

    mounting = APIRouter()
    mounting.routes.append(Mount("/mounted/{name}", routes=[Route("/{thing}", plain)]))
    app.include_router(mounting, prefix="/v1")
    return app


@pytest.fixture(scope="module")
def app() -> FastAPI:
    return application()


async def template(app: ASGIApp, method: str, path: str, *, root_path: str = "") -> tuple[str, int]:
    last.clear()
    transport = httpx.ASGITransport(app=app, root_path=root_path)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        status = (await client.request(method, path)).status_code
    (seen,) = last
    return seen, status


@pytest.mark.parametrize(
    ("method", "path", "expected", "status"),
    [
        ("GET", "/plain/1", "/plain/{name}", 200),
        ("GET", "/starlette/1", "/starlette/{name}", 200),
        ("GET", "/api/outer/1/between/inner/2", "/api/outer/{outer_id}/between/inner/{inner_id}", 200),
        ("GET", "/api/outer/1/between/inner/files/a/b/c", "/api/outer/{outer_id}/between/inner/files/{path}", 200),
        ("GET", "/api/outer/1/between/inner/fail/2", "/api/outer/{outer_id}/between/inner/fail/{thing}", 418),
        ("GET", "/side/inner/2", "/side/inner/{inner_id}", 200),
        # A parameter of the wrong type: the route is known all the same.
        ("GET", "/side/inner/fail/two", "/side/inner/fail/{thing}", 422),
        # A method that the route does not have.
        ("DELETE", "/plain/1", "/plain/{name}", 405),
        ("DELETE", "/api/outer/1/between/inner/2", "/api/outer/{outer_id}/between/inner/{inner_id}", 405),
        ("HEAD", "/side/inner/2", "/side/inner/{inner_id}", 405),
        ("HEAD", "/starlette/1", "/starlette/{name}", 200),
        # No route.
        ("GET", "/nothing/here", UNMATCHED, 404),
        ("GET", "/api/outer/1/between/nothing", UNMATCHED, 404),
        ("GET", "/side/inner/2/further", UNMATCHED, 404),
        ("GET", "/", UNMATCHED, 404),
        # Mounts: their parameters are templates too, and their unknown paths share one value.
        ("GET", "/tenants/acme/router/1", "/tenants/{tenant}/router/{thing}", 200),
        ("PUT", "/tenants/acme/router/1", "/tenants/{tenant}/router/{thing}", 405),
        ("GET", "/tenants/acme/nothing", "/tenants/{tenant}/{path}", 404),
        ("GET", "/foreign/1", "/foreign/{path}", 200),
        ("GET", "/v1/mounted/a/1", "/v1/mounted/{name}/{path}", 200),
        # A trailing slash is redirected to the route without it.
        ("GET", "/plain/1/", "/plain/{name}", 307),
    ],
)
async def test_a_request_has_the_template_of_its_route(
    app: FastAPI, method: str, path: str, expected: str, status: int
) -> None:
    assert await template(app, method, path) == (expected, status)


async def test_root_path_is_part_of_the_route_template(app: FastAPI) -> None:
    assert await template(app, "GET", "/base/plain/1", root_path="/base") == ("/base/plain/{name}", 200)


async def test_request_answered_before_routing_has_no_route_template() -> None:
    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse("no", 403)(scope, receive, send)

    assert await template(Seen(refuse), "GET", "/plain/1") == (UNMATCHED, 403)


def test_scope_without_the_middleware_has_no_route_template() -> None:
    assert route_template({"type": "http"}) == UNMATCHED


async def test_route_template_is_found_beside_fastapi_s_own_telemetry() -> None:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    app = FastAPI(
        telemetry={
            "tracer_provider": provider,
            "metrics": False,
            "logs": False,
            "exclude": lambda scope: scope["path"] == "/quiet",
        }
    )
    app.add_middleware(Seen)
    app.get("/items/{item}")(answer)
    app.get("/quiet")(answer)
    assert await template(app, "GET", "/items/1") == ("/items/{item}", 200)
    assert await template(app, "GET", "/quiet") == ("/quiet", 200)
    (span,) = [span for span in exporter.get_finished_spans() if span.attributes and "http.route" in span.attributes]
    assert span.name == "GET /items/{item}"
