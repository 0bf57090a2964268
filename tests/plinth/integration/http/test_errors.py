"""Every error is a problem document with the request id and no internals."""

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import httpx
import pytest
from structlog.testing import capture_logs

from notes.config import Settings
from notes.main import create_app
from plinth.testing import NO_DATABASE, problem
from tests.support.api import client_of, signed_in
from tests.support.notes import note, settings_with

SOME_NOTE = "/notes/00000000-0000-0000-0000-000000000000"
EVERY_OPERATION = [
    ("GET", "/me", None),
    ("GET", "/notes", None),
    ("POST", "/notes", note()),
    ("GET", SOME_NOTE, None),
    ("PATCH", SOME_NOTE, {"text": "new"}),
    ("DELETE", SOME_NOTE, None),
]
OPERATIONS_ON_THE_DATABASE = EVERY_OPERATION[1:]


class TestPaths:
    @pytest.mark.parametrize(
        "path",
        [
            "/nowhere",
            "/notes/",
            "/notes//",
            "//notes",
            "/notes/../../../etc/passwd",
            "/notes/..%2f..%2fetc%2fpasswd",
            "/notes/%2e%2e/%2e%2e/",
            "/Notes",
            "/notes%00",
            "/notes/a/b",
            "/" + "x" * 30_000,
            "/%0d%0aSet-Cookie:%20a=b",
        ],
    )
    async def test_unknown_path_is_not_found(self, api: httpx.AsyncClient, path: str) -> None:
        response = await api.get(httpx.URL("http://service.test/api/v1" + path))

        problem(response, 404, "not_found")
        assert "set-cookie" not in response.headers

    @pytest.mark.parametrize(
        ("path", "allowed"),
        [
            ("/notes", "GET, HEAD, POST"),
            (SOME_NOTE, "DELETE, GET, HEAD, PATCH"),
            ("/me", "GET, HEAD"),
            ("/public/health", "GET, HEAD"),
            ("/public/health/ready", "GET, HEAD"),
            ("/digests", "POST"),
        ],
    )
    @pytest.mark.parametrize("method", ["PUT", "TRACE", "OPTIONS", "PROPFIND", "NONSENSE"])
    async def test_other_methods_are_refused_with_the_allowed_ones(
        self, api: httpx.AsyncClient, path: str, allowed: str, method: str
    ) -> None:
        response = await api.request(method, path)

        assert response.headers["allow"] == allowed
        problem(response, 405, "method_not_allowed")

    async def test_head_is_refused_where_there_is_no_get(self, api: httpx.AsyncClient) -> None:
        response = await api.head("/digests")

        assert (response.status_code, response.headers["allow"]) == (405, "POST")


class TestBodies:
    @pytest.mark.parametrize(
        "content",
        [
            b"{",
            b'{"text": "x"} x',
            b"name=x",
            b"\xff\xfe",
            b'{"text": "\xff"}',
            b"[" * 100_000,
            b'{"text": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
            b'{"text": ' + b"9" * 5000 + b"}",
            b'{"text": "\\ud800"}',
            b'{"text": "x", "\\ud800": 1}',
            b'{"text": NaN}',
            b'{"text": "x", "tags": [Infinity, -Infinity, 1e999]}',
            b'{"text": "x", "tags": [' + b"0," * 200_000 + b"0]}",
            b"{" + b",".join(b'"%d":1' % n for n in range(50_000)) + b"}",
            b"null",
            b"",
            b"\x1f\x8b\x08\x00\x00\x00\x00\x00",
        ],
    )
    @pytest.mark.parametrize(("method", "path"), [("POST", "/notes"), ("PATCH", SOME_NOTE)])
    async def test_invalid_body_is_refused(
        self, api: httpx.AsyncClient, method: str, path: str, content: bytes
    ) -> None:
        headers = {"Content-Type": "application/json", "If-Match": "*"}

        response = await api.request(method, path, content=content, headers=headers)

        assert response.status_code in (400, 422), response.text
        problem(response, response.status_code)
        assert len(response.content) < 5000

    @pytest.mark.parametrize(
        "content",
        [
            b'{"text": "a", "text": "a"}',
            b'{"text": "a", "t\\u0065xt": "b"}',
            b'{"text": "a", "tags": [], "other": {"deep": [{"a": 1, "b": 2, "a": null}]}}',
            '{"text": "a"}'.encode("utf-16"),
            '{"text": "a"}'.encode("utf-16-le"),
            '{"text": "a"}'.encode("utf-16-be"),
            '{"text": "a"}'.encode("utf-32"),
            '{"text": "a"}'.encode("utf-32-be"),
            b'{"text": "\xe9"}',
            b'\xef\xbb\xbf\xef\xbb\xbf{"text": "a"}',
            b'{"text": "a", "tags": [NaN]}',
            b'{"text": "a", "tags": [-Infinity]}',
            b'{"text": "a", "tags": [1e999]}',
            b'{"text": "a"}\x00',
            b'{"text": "a"',
            b"[" * 100_000,
        ],
    )
    @pytest.mark.parametrize("key", [{}, {"Idempotency-Key": "once"}])
    @pytest.mark.parametrize("chunked", [False, True])
    async def test_body_that_has_more_than_one_reading_is_no_json(
        self, api: httpx.AsyncClient, content: bytes, key: dict[str, str], chunked: bool
    ) -> None:
        async def bytewise() -> AsyncIterator[bytes]:
            for start in range(0, len(content), max(1, len(content) // 20)):
                yield content[start : start + max(1, len(content) // 20)]

        headers = {"Content-Type": "application/json", **key}
        response = await api.post("/notes", content=bytewise() if chunked else content, headers=headers)

        (error,) = problem(response, 422, "validation_error")["errors"]
        assert (error["type"], error["loc"][0]) == ("json_invalid", "body")
        assert (await api.get("/notes")).json()["items"] == []

    @pytest.mark.parametrize(
        ("content_type", "content"),
        [
            ("application/json", b'{"text": "a"}'),
            ("application/json; charset=utf-8", b'{"text": "\xc3\xa9"}'),
            ("Application/JSON;charset=UTF-8", b'{"text": "a"}'),
            ("application/vnd.example.note+json", b'{"text": "a"}'),
            ("application/merge-patch+json; charset=utf-8", b'{"text": "a"}'),
            ("application/json", b'\xef\xbb\xbf{"text": "a"}'),
            ("application/json", b' \n{"text": "a"}\r\n\t'),
            ("application/json", b'{"text": "a", "tags": ["text", "text"]}'),
        ],
    )
    async def test_body_of_every_type_that_is_json_is_read(
        self, api: httpx.AsyncClient, content_type: str, content: bytes
    ) -> None:
        response = await api.post("/notes", content=content, headers={"Content-Type": content_type})

        assert response.status_code == 201, response.text

    async def test_body_without_content_needs_no_type(self, api: httpx.AsyncClient) -> None:
        problem(await api.post("/notes"), 422, "validation_error")
        assert (await api.post("/digests")).status_code == 202

    async def test_name_that_comes_twice_is_named_and_not_whole(self, api: httpx.AsyncClient) -> None:
        name = "\\ud800" + "x" * 100_000
        content = f'{{"text": "a", "{name}": 1, "{name}": 2}}'.encode()

        response = await api.post("/notes", content=content, headers={"Content-Type": "application/json"})

        (error,) = problem(response, 422)["errors"]
        assert error["msg"] == '"\\ud800' + "x" * 99 + '" comes twice in an object'

    @pytest.mark.parametrize(
        "content_type",
        [
            "",
            "text/plain",
            "text/json",
            "application/jsonp",
            "application/x-ndjson",
            "application/json, text/plain",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
            "\xff",
            ";;=;",
        ],
    )
    async def test_body_without_a_json_content_type_is_refused(self, api: httpx.AsyncClient, content_type: str) -> None:
        headers = {b"Content-Type": content_type.encode("latin-1")}

        problem(await api.post("/notes", content=b'{"text": "x"}', headers=headers), 415, "unsupported_media_type")


LIMIT = 300


@pytest.fixture(scope="module")
async def small(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """A service that takes no body of more than `LIMIT` bytes."""
    limited = settings.model_copy(update={"MAX_BODY_BYTES": LIMIT})
    async with client_of(create_app(limited), headers=signed_in(settings)) as client:
        yield client


class TestBodyLimit:
    def body_of(self, size: int) -> bytes:
        return b'{"text": "%s"}' % (b"x" * 20) + b" " * (size - 32)

    async def in_chunks(self, content: bytes) -> AsyncIterator[bytes]:
        for start in range(0, len(content), 100):
            yield content[start : start + 100]

    async def test_body_of_the_exact_limit_is_accepted(self, small: httpx.AsyncClient) -> None:
        headers = {"Content-Type": "application/json"}
        for content in (self.body_of(LIMIT), self.in_chunks(self.body_of(LIMIT))):
            assert (await small.post("/notes", content=content, headers=headers)).status_code == 201

    async def test_body_over_the_limit_is_refused_by_its_content_length(self, small: httpx.AsyncClient) -> None:
        response = await small.post("/notes", content=self.body_of(LIMIT + 1))

        assert "300 bytes" in problem(response, 413, "payload_too_large")["detail"]

    async def test_chunked_body_over_the_limit_is_refused(self, small: httpx.AsyncClient) -> None:
        headers = {"Content-Type": "application/json"}
        response = await small.post("/notes", content=self.in_chunks(self.body_of(LIMIT + 1)), headers=headers)

        assert "300 bytes" in problem(response, 413, "payload_too_large")["detail"]

    async def test_body_larger_than_its_content_length_is_refused(self, small: httpx.AsyncClient) -> None:
        headers = {"Content-Length": "10", "Content-Type": "application/json"}
        response = await small.post("/notes", content=self.in_chunks(self.body_of(LIMIT + 1)), headers=headers)

        problem(response, 413)

    async def test_body_limit_holds_for_anonymous_callers_and_unknown_paths(self, small: httpx.AsyncClient) -> None:
        content = self.body_of(LIMIT + 1)

        problem(await small.post("/notes", content=content, headers={"Authorization": ""}), 413)
        problem(await small.post("/nowhere", content=content), 413)


@pytest.fixture(scope="module")
async def alone() -> AsyncIterator[httpx.AsyncClient]:
    """A service without a reachable database."""
    settings = settings_with(DATABASE_URL=NO_DATABASE)
    async with client_of(create_app(settings), headers=signed_in(settings)) as client:
        yield client


class TestDatabaseOutage:
    @pytest.mark.parametrize(("method", "path", "body"), OPERATIONS_ON_THE_DATABASE)
    @pytest.mark.parametrize("headers", [{"If-Match": "*"}, {"If-Match": "*", "Idempotency-Key": "x"}])
    async def test_operation_without_the_database_is_503_with_retry_after(
        self, alone: httpx.AsyncClient, method: str, path: str, body: object, headers: dict[str, str]
    ) -> None:
        with capture_logs():
            response = await alone.request(method, path, json=body, headers=headers)

        problem(response, 503, "database_unavailable")
        assert response.headers["retry-after"] == "1"
        assert not any(word in response.text for word in ("127.0.0.1", "s3cret", "plinth:", "Connect", "asyncpg"))

    async def test_operations_that_need_no_database_work_without_it(self, alone: httpx.AsyncClient) -> None:
        assert (await alone.get("/me")).status_code == 200
        assert (await alone.get("/public/health")).status_code == 200


class TestUnexpectedErrors:
    @pytest.fixture
    async def broken(self, fresh_database_url: str) -> AsyncIterator[httpx.AsyncClient]:
        """A service on a database without its tables."""
        connection = await asyncpg.connect(fresh_database_url)
        await connection.execute("DROP TABLE note, idempotency_record")
        await connection.close()
        settings = settings_with(DATABASE_URL=fresh_database_url)
        async with client_of(create_app(settings), headers=signed_in(settings)) as client:
            yield client

    async def test_unexpected_error_is_hidden_from_the_caller_and_logged_once(self, broken: httpx.AsyncClient) -> None:
        for method, path, body in OPERATIONS_ON_THE_DATABASE:
            with capture_logs() as logs:
                response = await broken.request(method, path, json=body, headers={"If-Match": "*"})

            said = problem(response, 500, "internal_error")
            assert set(said) == {"type", "title", "status", "code", "request_id"}
            (error,) = [line for line in logs if line["log_level"] == "error" and line["event"] != "request"]
            assert error["exc_info"]
            assert error["path"] == f"/api/v1{path}"

    async def test_unexpected_error_is_hidden_from_the_caller_in_debug_mode(self, fresh_database_url: str) -> None:
        connection = await asyncpg.connect(fresh_database_url)
        await connection.execute("DROP TABLE note")
        await connection.close()
        settings = settings_with(DATABASE_URL=fresh_database_url, DEBUG=True)
        with capture_logs():
            async with client_of(create_app(settings), headers=signed_in(settings)) as client:
                response = await client.get("/notes", headers={"Accept": "text/html"})

        problem(response, 500)


class TestDescription:
    """What the OpenAPI document says of errors."""

    @pytest.fixture
    def document(self, settings: Settings) -> dict[str, Any]:
        return create_app(settings).openapi()

    @pytest.fixture
    def operations(self, document: dict[str, Any]) -> list[dict[str, Any]]:
        return [operation for path in document["paths"].values() for operation in path.values()]

    def test_openapi_describes_errors_as_problems(self, operations: list[dict[str, Any]]) -> None:
        for operation in operations:
            for status, response in operation["responses"].items():
                if status >= "400" and (operation["operationId"], status) != (
                    "health_ready",
                    "503",
                ):
                    assert list(response["content"]) == ["application/problem+json"]
                    schema = response["content"]["application/problem+json"]["schema"]
                    assert schema == {"$ref": "#/components/schemas/Problem"}

    def test_openapi_lists_every_error_status_of_an_operation(self, operations: list[dict[str, Any]]) -> None:
        for operation in operations:
            expected = {"500"}
            if "security" in operation:
                expected |= {"401", "429", "503"}
            if "parameters" in operation:
                expected |= {"422"}
            if "requestBody" in operation:
                expected |= {"400", "413", "415", "422"}
            assert expected <= set(operation["responses"])

    def test_openapi_has_no_schema_of_the_framework_s_own_errors(self, document: dict[str, Any]) -> None:
        assert not {"HTTPValidationError", "ValidationError"} & set(document["components"]["schemas"])
