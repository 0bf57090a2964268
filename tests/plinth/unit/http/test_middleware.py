"""Request ids, access lines, body limit, security headers, unhandled errors."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.testing import capture_logs

from plinth.health.lifecycle import Lifecycle
from plinth.http import request_context as middleware
from plinth.http.body_limit import BodyLimitMiddleware
from plinth.http.request_context import RequestContextMiddleware
from plinth.http.security_headers import SecurityHeadersMiddleware
from plinth.http.unhandled_errors import UnhandledErrorMiddleware
from plinth.identity.principal import Principal
from plinth.telemetry.log_records import request_id_var
from plinth.telemetry.tracing import MAX_PATH
from plinth.testing import problem


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    await Response("hello")(scope, receive, send)


async def call(app: ASGIApp, method: str = "GET", path: str = "/", **options: Any) -> httpx.Response:
    transport = httpx.ASGITransport(app, client=("203.0.113.7", 4711))
    async with httpx.AsyncClient(transport=transport, base_url="http://service.test") as client:
        return await client.request(method, path, **options)


def failing(error: BaseException) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise error

    return app


class TestRequestId:
    async def call(self, *ids: bytes) -> str:
        with capture_logs():
            response = await call(RequestContextMiddleware(hello), headers=[(b"X-Request-ID", i) for i in ids])
        (request_id,) = response.headers.get_list("x-request-id")
        return request_id

    async def test_request_without_an_id_gets_a_new_one(self) -> None:
        first, second = await self.call(), await self.call()

        assert len(first) == 32
        assert first != second

    @pytest.mark.parametrize("theirs", [b"a-b_c.123", b"8letters", b"x" * 128])
    async def test_well_formed_request_id_of_the_client_is_kept(self, theirs: bytes) -> None:
        assert await self.call(theirs) == theirs.decode()

    @pytest.mark.parametrize(
        "theirs",
        [
            b"",
            b"7letter",
            b"x" * 129,
            b"x" * 10_240,
            b"with a space",
            b"abcdefgh\r\nSet-Cookie: a=b",
            b"abcdefgh\n",
            b"abcdefgh\0",
            b"\xff" * 10,
            b"\xc3\xa9" * 10,
            b"<script>alert(1)</script>",
            b'"},{"level":"x',
            b"%0d%0aabcdef",
            b"plk_" + b"0" * 32 + b"_" + b"1" * 48,  # an API key: log lines and the audit log have the id
            b"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.c2lnbmF0dXJl",
        ],
    )
    async def test_malformed_request_id_of_the_client_is_replaced(self, theirs: bytes) -> None:
        assert len(await self.call(theirs)) == 32

    async def test_first_of_several_request_ids_counts(self) -> None:
        assert await self.call(b"the-first", b"the-second") == "the-first"
        assert len(await self.call(b"bad", b"the-second")) == 32

    async def test_request_id_is_set_during_the_request_only(self) -> None:
        seen = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            seen.extend([request_id_var.get(), scope["state"]["request_id"]])
            await hello(scope, receive, send)

        with capture_logs():
            await call(RequestContextMiddleware(app), headers={"X-Request-ID": "a-request"})

        assert seen == ["a-request", "a-request"]
        assert request_id_var.get() is None


class TestAccessLine:
    async def test_access_line_has_method_route_path_status_and_sizes(self) -> None:
        with capture_logs() as logs:
            await call(RequestContextMiddleware(hello), "POST", "/a%0ab?secret=1", content=b"abc")

        (line,) = logs
        assert line.pop("duration_ms") >= 0
        assert line == {
            "event": "request",
            "log_level": "info",
            "method": "POST",
            "route": "unmatched",
            "path": "/a\nb",
            "status": 200,
            "request_bytes": 3,
            "response_bytes": 5,
            "client": "203.0.113.7",
        }

    async def test_access_line_of_a_head_says_so_though_the_endpoint_has_a_get(self) -> None:
        app = FastAPI(telemetry={"tracing": False, "metrics": False, "logs": False})

        @app.get("/there")
        async def there(request: Request) -> str:
            return request.method

        with capture_logs() as logs:
            app.add_middleware(RequestContextMiddleware)
            response = await call(app, "HEAD", "/there")

        (line,) = logs
        assert (line["method"], line["route"], line["status"], line["response_bytes"]) == ("HEAD", "/there", 200, 0)
        assert response.headers["content-length"] == str(len('"GET"'))

    async def test_access_line_has_a_path_of_bounded_length(self) -> None:
        with capture_logs() as logs:
            await call(RequestContextMiddleware(hello), "GET", "/" + 2 * MAX_PATH * "a")

        (line,) = logs
        assert line["path"] == "/" + (MAX_PATH - 1) * "a"

    async def test_access_line_has_the_sizes_of_request_and_response(self) -> None:
        async def chunks() -> AsyncIterator[bytes]:
            yield b"abc"

        with capture_logs() as logs:
            await call(RequestContextMiddleware(hello))
            await call(RequestContextMiddleware(hello), "POST", content=chunks())
            await call(RequestContextMiddleware(hello), "POST", headers={"Content-Length": "-1"})

        sizes = [(line["request_bytes"], line["response_bytes"]) for line in logs]
        assert sizes == [(0, 5), (None, 5), (None, 5)]  # chunks have no announced length

    async def test_access_line_has_a_keyed_hash_of_the_principal(self) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            if caller := scope["query_string"].decode():
                scope["state"]["principal"] = Principal(caller, "", frozenset(), frozenset(), 0)
            await hello(scope, receive, send)

        with capture_logs() as logs:
            for key in (b"one", b"another"):
                for path in ("/?alice", "/?bob", "/?alice", "/"):
                    await call(RequestContextMiddleware(app, hash_key=key), path=path)

        alice, bob, alice_again, nobody, *others = [line.get("principal") for line in logs]
        assert alice == alice_again
        assert len({alice, bob, *others[:2]}) == 4
        assert re.fullmatch("[0-9a-f]{16}", str(alice))
        assert nobody is None

    async def test_successful_requests_are_logged_at_the_sampling_rate(self, monkeypatch: pytest.MonkeyPatch) -> None:
        dice = iter([0.1, 0.3, 0.24])
        monkeypatch.setattr(middleware, "random", lambda: next(dice))

        with capture_logs() as logs:
            for path in ("/1", "/2", "/3"):
                await call(RequestContextMiddleware(hello, access_sample=0.25), path=path)

        assert [line["path"] for line in logs] == ["/1", "/3"]

    async def test_failed_and_slow_requests_are_always_logged(self) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await Response(status_code=int(scope["query_string"]))(scope, receive, send)

        with capture_logs() as logs:
            for status in (200, 304, 404, 500):
                await call(RequestContextMiddleware(app, access_sample=0), path=f"/?{status}")
            await call(RequestContextMiddleware(app, access_sample=0, slow_seconds=0), path="/?201")

        assert [line["status"] for line in logs] == [404, 500, 201]

    async def test_successful_probes_are_not_logged(self) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await Response(status_code=503 if scope["query_string"] else 200)(scope, receive, send)

        quiet = RequestContextMiddleware(app, quiet_paths=frozenset({"/health"}))
        with capture_logs() as logs:
            for path in ("/health", "/health?ill", "/healthy"):
                await call(quiet, path=path)

        assert [(line["path"], line["status"]) for line in logs] == [("/health", 503), ("/healthy", 200)]

    async def test_request_without_a_response_is_logged(self) -> None:
        with capture_logs() as logs, pytest.raises(RuntimeError):
            await call(RequestContextMiddleware(failing(RuntimeError())))

        with capture_logs() as cut_off, pytest.raises(asyncio.CancelledError):
            await call(RequestContextMiddleware(failing(asyncio.CancelledError())))

        assert logs[0]["status"] == 500
        assert cut_off[0]["status"] == 499


class TestResponseHeaders:
    async def test_application_can_add_response_headers(self) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            scope["state"]["response_headers"].append((b"ratelimit", b"r=1"))
            await hello(scope, receive, send)

        with capture_logs():
            response = await call(RequestContextMiddleware(app))

        assert response.headers["ratelimit"] == "r=1"


class TestDraining:
    async def test_draining_server_closes_the_connection_after_each_response(self) -> None:
        lifecycle = Lifecycle(drain_seconds=0)
        app = RequestContextMiddleware(hello, lifecycle=lifecycle)
        with capture_logs():
            before = await call(app)
            lifecycle.drain()
            after = [await call(app) for _ in range(2)]

        assert "connection" not in before.headers
        assert [response.headers.get_list("connection") for response in after] == [["close"], ["close"]]

    async def test_request_begun_before_the_drain_closes_its_connection_too(self) -> None:
        lifecycle = Lifecycle(drain_seconds=0)

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            lifecycle.drain()
            await hello(scope, receive, send)

        with capture_logs():
            response = await call(RequestContextMiddleware(app, lifecycle=lifecycle))

        assert response.headers["connection"] == "close"


class TestUnhandledErrors:
    async def test_unhandled_error_is_logged_and_the_client_gets_no_details(self) -> None:
        app = RequestContextMiddleware(UnhandledErrorMiddleware(failing(RuntimeError("hunter2"))))
        with capture_logs() as logs:
            response = await call(app, path="/there")

        body = problem(response, 500, "internal_error")
        assert set(body) == {"type", "title", "status", "code", "request_id"}
        error, access = logs
        assert (error["log_level"], error["path"], error["exc_info"]) == ("error", "/there", True)
        assert (access["event"], access["status"]) == ("request", 500)

    async def test_unhandled_error_during_a_response_aborts_it(self) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            raise RuntimeError

        with capture_logs() as logs, pytest.raises(RuntimeError):
            await call(RequestContextMiddleware(UnhandledErrorMiddleware(app)))

        assert logs[0]["log_level"] == "error"

    async def test_client_that_leaves_while_its_body_is_read_is_no_error(self) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await Request(scope, receive).body()

        async def receive() -> Message:
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            pytest.fail("there is no client to answer")

        scope: Scope = {"type": "http", "method": "POST", "path": "/", "headers": [], "query_string": b""}
        with capture_logs() as logs:
            await RequestContextMiddleware(UnhandledErrorMiddleware(app))(scope, receive, send)
        assert [(line["event"], line["status"]) for line in logs] == [("request", 499)]


class Endless:
    """A body far longer than any limit, which counts the bytes that were read."""

    def __init__(self, chunk: bytes = b"x" * 10) -> None:
        self.chunk = chunk
        self.sent = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while self.sent < 10_000:
            self.sent += len(self.chunk)
            yield self.chunk


class TestBodyLimit:
    LIMIT = 100

    async def call(
        self, content: Any, method: str = "POST", headers: Any = None, app: ASGIApp | None = None
    ) -> httpx.Response:
        limited = BodyLimitMiddleware(app or self.echo_length, max_bytes=self.LIMIT)
        with capture_logs():
            return await call(RequestContextMiddleware(limited), method, content=content, headers=headers)

    @staticmethod
    async def echo_length(scope: Scope, receive: Receive, send: Send) -> None:
        length, more = 0, True
        while more:
            message = await receive()
            length += len(message.get("body", b""))
            more = message.get("more_body", False)
        await JSONResponse(length)(scope, receive, send)

    async def test_body_within_the_limit_is_accepted(self) -> None:
        async def chunks() -> AsyncIterator[bytes]:
            for _ in range(10):
                yield b"x" * 10

        assert (await self.call(b"")).json() == 0
        assert (await self.call(b"x" * 100)).json() == 100
        assert (await self.call(chunks())).json() == 100

    @pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "NONSENSE"])
    async def test_body_whose_content_length_is_over_the_limit_is_refused_unread(self, method: str) -> None:
        body = Endless()

        response = await self.call(body, method, {"Content-Length": "101"})

        problem(response, 413, "payload_too_large")
        assert response.headers["connection"] == "close"
        assert body.sent == 0

    @pytest.mark.parametrize(
        "announced", [{}, {"Content-Length": "10"}, {"Content-Length": "x"}, {"Content-Length": ""}]
    )
    async def test_body_over_the_limit_is_refused_and_read_no_further(self, announced: dict[str, str]) -> None:
        body = Endless()

        response = await self.call(body, headers=announced)

        problem(response, 413, "payload_too_large")
        assert response.headers["connection"] == "close"
        assert body.sent == self.LIMIT + 10

    async def test_body_over_the_limit_is_no_error_for_an_application_that_ignores_it(self) -> None:
        body = Endless()

        assert (await self.call(body, app=hello)).text == "hello"
        assert body.sent == 0

    async def test_body_over_the_limit_ends_a_response_that_has_begun(self) -> None:
        heard: list[str] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            while heard[-1:] != ["http.disconnect"]:  # the server then cuts the connection
                heard.append((await receive())["type"])
            await send({"type": "http.response.body", "body": b""})

        await self.call(Endless(), app=app)
        assert heard[-1] == "http.disconnect"


class TestSecurityHeaders:
    async def headers(self, *, hsts: bool = False, given: Any = None) -> httpx.Headers:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await Response("hello", headers=given)(scope, receive, send)

        secured = SecurityHeadersMiddleware(app, hsts=hsts)
        return (await call(secured)).headers

    async def test_responses_have_the_security_headers(self) -> None:
        headers = await self.headers()

        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
        assert headers["cache-control"] == "no-store"

    async def test_hsts_header_is_sent_only_where_it_is_enabled(self) -> None:
        assert "strict-transport-security" not in await self.headers()
        assert (await self.headers(hsts=True))["strict-transport-security"].startswith("max-age=31536000")

    async def test_security_headers_do_not_replace_those_of_the_endpoint(self) -> None:
        headers = await self.headers(given={"Cache-Control": "private"})

        assert headers.get_list("cache-control") == ["private"]


class TestOtherScopes:
    @pytest.mark.parametrize(
        "wrap",
        [
            RequestContextMiddleware,
            UnhandledErrorMiddleware,
            lambda app: SecurityHeadersMiddleware(app, hsts=True),
            lambda app: BodyLimitMiddleware(app, max_bytes=1),
        ],
    )
    async def test_middleware_passes_the_lifespan_unchanged(self, wrap: Callable[[ASGIApp], ASGIApp]) -> None:
        passed = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            passed.append((scope, receive, send))
            raise RuntimeError

        async def receive() -> Any: ...

        async def send(message: Any) -> None: ...

        scope = {"type": "lifespan"}
        with pytest.raises(RuntimeError):
            await wrap(app)(scope, receive, send)
        assert passed[0][0] == {"type": "lifespan"}
