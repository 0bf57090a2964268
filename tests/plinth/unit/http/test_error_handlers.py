"""Every error becomes a problem document without internal details."""

from collections.abc import AsyncIterator
from typing import Annotated, Any

import httpx
import pytest
from fastapi import APIRouter, Body, FastAPI, HTTPException
from pydantic import BaseModel, ConfigDict, create_model
from structlog.testing import capture_logs

from plinth import errors
from plinth.database.errors import DatabaseUnavailableError, TransactionConflictError
from plinth.errors import AppException
from plinth.http.error_handlers import PROBLEM_JSON, install_exception_handlers, title_of
from plinth.http.problems import problems
from plinth.http.request_context import RequestContextMiddleware
from plinth.http.schemas import Problem
from plinth.http.unhandled_errors import UnhandledErrorMiddleware
from plinth.testing import problem

SECRET = "postgresql://plinth:hunter2@db/plinth"


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")
    size: int


def an_app(error: Exception | None = None) -> FastAPI:
    """An app whose one endpoint raises `error`."""
    app = FastAPI(redirect_slashes=False)
    app.add_middleware(UnhandledErrorMiddleware)
    app.add_middleware(RequestContextMiddleware)
    install_exception_handlers(app)

    @app.get("/", responses=problems(404))
    async def fail() -> None:
        if error is not None:
            raise error

    @app.post("/strict")
    async def strict(body: Strict) -> None: ...

    return app


async def answer(error: Exception) -> httpx.Response:
    with capture_logs():
        async with caller_of(an_app(error)) as client:
            return await client.get("/")


def caller_of(app: FastAPI) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service.test")


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with caller_of(an_app()) as client:
        yield client


class TestAppException:
    @pytest.mark.parametrize(
        ("error", "status", "code"),
        [
            (errors.BadRequestError(), 400, "bad_request"),
            (errors.UnauthorizedError(), 401, "unauthorized"),
            (errors.ForbiddenError(), 403, "forbidden"),
            (errors.NotFoundError(), 404, "not_found"),
            (errors.ConflictError(), 409, "conflict"),
            (errors.PreconditionFailedError(), 412, "precondition_failed"),
            (errors.PayloadTooLargeError(), 413, "payload_too_large"),
            (errors.ValidationError(), 422, "validation_error"),
            (errors.PreconditionRequiredError(), 428, "precondition_required"),
            (errors.RateLimitError(3), 429, "rate_limited"),
            (errors.ExternalServiceError("payment"), 502, "external_service_error"),
            (errors.ServiceUnavailableError(), 503, "service_unavailable"),
            (AppException(), 500, "internal_error"),
            (AppException(status=418, code="teapot"), 418, "teapot"),
        ],
    )
    async def test_app_exception_has_a_status_and_a_code(self, error: AppException, status: int, code: str) -> None:
        problem(await answer(error), status, code)

    async def test_problem_has_the_detail_and_extra_members_of_its_exception(self) -> None:
        error = errors.ConflictError("Taken.", code="name_taken", extra={"name": "lamp"})

        body = problem(await answer(error), 409, "name_taken")

        assert (body["detail"], body["name"]) == ("Taken.", "lamp")

    async def test_problem_without_a_detail_has_no_detail_member(self) -> None:
        assert "detail" not in problem(await answer(errors.NotFoundError()), 404)

    @pytest.mark.parametrize(
        ("error", "header"),
        [
            (errors.RateLimitError(7), ("retry-after", "7")),
            (errors.ServiceUnavailableError(retry_after=2), ("retry-after", "2")),
            (errors.UnauthorizedError(), ("www-authenticate", "Bearer")),
            (errors.UnauthorizedError(invalid_token=True), ("www-authenticate", 'Bearer error="invalid_token"')),
            (AppException(headers={"X-Hint": "here"}), ("x-hint", "here")),
        ],
    )
    async def test_problem_has_the_headers_of_its_exception(self, error: AppException, header: tuple[str, str]) -> None:
        assert header in (await answer(error)).headers.items()

    async def test_server_error_is_logged_with_its_cause_and_client_error_is_not(self) -> None:
        ours = errors.ServiceUnavailableError()
        ours.__cause__ = OSError("no route")

        with capture_logs() as logs:
            for error in (ours, errors.NotFoundError()):
                async with caller_of(an_app(error)) as client:
                    await client.get("/")

        (line,) = [line for line in logs if line["event"] == "request failed"]
        assert "no route" in line["cause"]

    async def test_cause_of_an_exception_is_not_sent_to_the_client(self) -> None:
        error = errors.ServiceUnavailableError()
        error.__cause__ = OSError(SECRET)

        assert "hunter2" not in (await answer(error)).text


class TestFrameworkErrors:
    async def test_unknown_path_is_a_404_problem(self, client: httpx.AsyncClient) -> None:
        problem(await client.get("/nowhere"), 404, "not_found")

    async def test_http_exception_of_an_endpoint_is_a_problem(self) -> None:
        body = problem(await answer(HTTPException(410, "Moved out.")), 410, "gone")

        assert body["detail"] == "Moved out."


class TestMethodNotAllowed:
    async def test_method_not_allowed_lists_every_allowed_method(self) -> None:
        app = an_app()
        things = APIRouter(prefix="/things")

        async def endpoint() -> None: ...

        things.get("/{thing_id}")(endpoint)
        things.patch("/{thing_id}")(endpoint)
        things.delete("/{thing_id:path}")(endpoint)
        things.get("/{thing_id}/parts")(endpoint)
        app.include_router(things, prefix="/v1")
        app.put("/v1/things/best")(endpoint)

        async with caller_of(app) as client:
            responses = [await client.post(f"/v1/things/{name}") for name in ("best", "other", "other/parts")]

        for response in responses:
            problem(response, 405, "method_not_allowed")
        assert [response.headers["allow"] for response in responses] == [
            "DELETE, GET, HEAD, PATCH, PUT",
            "DELETE, GET, HEAD, PATCH",
            "DELETE, GET, HEAD",
        ]


class TestInvalidRequests:
    async def test_validation_error_has_location_message_and_type(self, client: httpx.AsyncClient) -> None:
        body = problem(await client.post("/strict", json={"size": "tall"}), 422, "validation_error")

        (error,) = body["errors"]
        assert error["loc"] == ["body", "size"]
        assert error["type"] == "int_parsing"
        assert set(error) == {"loc", "msg", "type"}

    async def test_validation_error_does_not_repeat_the_input(self, client: httpx.AsyncClient) -> None:
        for sent in ({"size": "hunter2"}, {"size": ["hunter2"]}, "hunter2"):
            assert "hunter2" not in (await client.post("/strict", json=sent)).text

    @pytest.mark.parametrize("content", [b"{", b"\xff", b"[" * 100_000, b'{"size": ' + b"9" * 5000 + b"}"])
    async def test_body_that_cannot_be_parsed_is_a_problem(self, client: httpx.AsyncClient, content: bytes) -> None:
        response = await client.post("/strict", content=content, headers={"Content-Type": "application/json"})

        assert response.status_code in (400, 422)
        problem(response, response.status_code)

    async def test_validation_error_of_a_large_input_is_short(self, client: httpx.AsyncClient) -> None:
        for flood in ({str(n): 1 for n in range(1000)}, {"x" * 100_000: 1}):
            response = await client.post("/strict", json={"size": 1, **flood})

            problem(response, 422)
            assert len(response.content) < 10_000

    async def test_field_name_with_a_lone_surrogate_is_a_problem(self, client: httpx.AsyncClient) -> None:
        content = rb'{"size": 1, "\ud800": 1}'
        response = await client.post("/strict", content=content, headers={"Content-Type": "application/json"})

        problem(response, 422)


class TestUnhandledErrors:
    async def test_unhandled_error_tells_the_client_no_details(self) -> None:
        response = await answer(RuntimeError(SECRET))

        body = problem(response, 500, "internal_error")
        assert set(body) == {"type", "title", "status", "code", "request_id"}


class TestTitles:
    @pytest.mark.parametrize(
        ("status", "title"), [(404, "Not Found"), (413, "Content Too Large"), (422, "Unprocessable Content")]
    )
    def test_problem_titles_do_not_depend_on_the_python_version(self, status: int, title: str) -> None:
        assert title_of(status) == title


class TestDescription:
    async def test_openapi_describes_errors_as_problem_documents(self) -> None:
        app = an_app()

        @app.post("/note", responses=problems(409))
        async def note(text: Annotated[str, Body()]) -> None: ...

        for _ in range(2):  # the second comes out of FastAPI's cache
            document = app.openapi()

        responses: dict[str, Any] = document["paths"]["/"]["get"]["responses"]
        assert set(responses["404"]["content"]) == set(responses["500"]["content"]) == {"application/problem+json"}
        assert set(responses["200"]["content"]) == {"application/json"}
        assert "Problem" in document["components"]["schemas"]

    async def test_a_problem_with_a_model_of_its_own_is_one_media_type(self) -> None:
        app = an_app()
        content = {PROBLEM_JSON: {"schema": {"$ref": "#/components/schemas/Unsolvable"}}}
        own = {"model": create_model("Unsolvable", cells=(int, ...)), "content": content}

        @app.post("/sudoku", responses={**problems(), 409: own})
        async def sudoku(size: Annotated[int, Body()]) -> None: ...

        assert app.openapi()["paths"]["/sudoku"]["post"]["responses"]["409"]["content"] == content

    async def test_a_route_that_names_the_platform_s_problem_has_the_same_schema(self) -> None:
        app = an_app()

        @app.post("/sudoku", responses={**problems(), 409: {"model": Problem}})
        async def sudoku(size: Annotated[int, Body()]) -> None: ...

        document = app.openapi()
        described = document["paths"]["/sudoku"]["post"]["responses"]
        assert [
            described[status]["content"][media_type]["schema"]
            for status, media_type in (("409", "application/json"), ("500", PROBLEM_JSON))
        ] == [{"$ref": "#/components/schemas/Problem"}] * 2
        assert not [name for name in document["components"]["schemas"] if name.startswith("plinth__")]

    @pytest.mark.parametrize("name", ["Problem", "ValidationIssue"])
    async def test_a_model_of_the_service_keeps_its_name(self, name: str) -> None:
        app = an_app()
        own = create_model(name, severity=(int, ...))

        @app.post("/sudoku", response_model=own, responses=problems(422))
        async def sudoku(size: Annotated[int, Body()]) -> None: ...

        for _ in range(2):
            document = app.openapi()

        def described(status: str, media_type: str) -> dict[str, Any]:
            schema = document["paths"]["/sudoku"]["post"]["responses"][status]["content"][media_type]["schema"]
            return resolved(str(schema["$ref"]))

        def resolved(reference: str) -> dict[str, Any]:
            schema: dict[str, Any] = document["components"]["schemas"][reference.rpartition("/")[2]]
            return dict(schema["properties"])

        assert described("200", "application/json").keys() == {"severity"}
        for status in ("415", "422", "500"):
            problem = described(status, PROBLEM_JSON)
            assert {"code", "request_id", "errors"} <= problem.keys()
            assert resolved(problem["errors"]["anyOf"][0]["items"]["$ref"]).keys() == {"loc", "msg", "type"}


async def test_operator_reads_the_reason_of_a_503_and_the_client_does_not() -> None:
    for error in (
        DatabaseUnavailableError(reason="The database is read-only"),
        TransactionConflictError(reason="The transaction clashed with another one"),
    ):
        with capture_logs() as logs:
            async with caller_of(an_app(error)) as client:
                response = await client.get("/")
        problem(response, 503, error.code)
        assert response.headers["retry-after"] == "1"
        assert error.reason == str(error)
        assert error.reason not in response.text
        (line,) = (entry for entry in logs if entry["event"] == "request failed")
        assert line["reason"] == error.reason
