"""Spans of what a recorded request or job asks of others: SQL, Redis, HTTP.

One layer for each: statements of sessions as SQLAlchemy runs them, those of bare connections (and each BEGIN and
COMMIT) as asyncpg does. OpenTelemetry's own instrumentations see only the first, and make an object for each call of
the nine in ten requests that are not recorded; here those pay for one look at the current span.

Statements go out without the values of their parameters, commands without their arguments, addresses without query.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

import asyncpg
import httpx
from opentelemetry.trace import Span, StatusCode
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from sqlalchemy import event
from sqlalchemy.engine import Engine, ExceptionContext
from sqlalchemy.engine.url import URL

from app.core.tracing import client_span, is_recorded, start_client_span, traceparent

__all__ = ["install", "remove", "watch_engine"]

MAX_STATEMENT = 2000  # characters

Attributes = Mapping[str, str | int]

# --- SQL ---

_SPAN = "plinth_span"  # an attribute of SQLAlchemy's execution context

_OPERATION = re.compile(r"\s*(\w+)")
# What is changed says more than what is read for it.
_CHANGED = re.compile(
    r'\b(?:INSERT\s+INTO|(?<!FOR\s)(?<!DO\s)UPDATE|DELETE\s+FROM)\s+"?([A-Za-z_][\w.]*)', re.IGNORECASE
)
_READ = re.compile(r'\bFROM\s+"?([A-Za-z_][\w.]*)', re.IGNORECASE)


@lru_cache(maxsize=1024)
def _described(statement: str) -> tuple[str, str]:
    """The name of a statement's span, such as `SELECT item`, and its operation."""
    found = _OPERATION.match(statement)
    operation = found[1].upper() if found else "SQL"
    target = _CHANGED.search(statement) or _READ.search(statement)
    return (f"{operation} {target[1]}" if target else operation), operation


def _sql_attributes(server: Attributes, statement: str, operation: str) -> dict[str, str | int]:
    return {**server, "db.operation.name": operation, "db.query.text": statement[:MAX_STATEMENT]}


def _server(url: URL) -> dict[str, str | int]:
    named = {"db.namespace": url.database, "server.address": url.host, "server.port": url.port}
    return {
        "db.system.name": url.get_backend_name(),
        **{name: value for name, value in named.items() if value is not None},
    }


class _Connection(asyncpg.Connection):
    __slots__ = ()

    server: Attributes

    # What it does in the name of SQLAlchemy goes through other methods: there is no second span.

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:  # noqa: ASYNC109
        if not is_recorded():
            return await super().execute(query, *args, timeout=timeout)
        with self._span(query):
            return await super().execute(query, *args, timeout=timeout)

    async def fetch(self, query: str, *args: Any, **options: Any) -> Any:
        if not is_recorded():
            return await super().fetch(query, *args, **options)
        with self._span(query):
            return await super().fetch(query, *args, **options)

    async def fetchrow(self, query: str, *args: Any, **options: Any) -> Any:
        if not is_recorded():
            return await super().fetchrow(query, *args, **options)
        with self._span(query):
            return await super().fetchrow(query, *args, **options)

    async def fetchval(self, query: str, *args: Any, **options: Any) -> Any:
        if not is_recorded():
            return await super().fetchval(query, *args, **options)
        with self._span(query):
            return await super().fetchval(query, *args, **options)

    def _span(self, query: str) -> Any:
        name, operation = _described(query)
        return client_span(name, _sql_attributes(self.server, query, operation))


def watch_engine(engine: Engine) -> None:
    """Make spans of the statements that SQLAlchemy runs and, for PostgreSQL, of those on its bare connections.

    Before other listeners that open connections.
    """
    server = _server(engine.url)
    connection = type("Connection", (_Connection,), {"__slots__": (), "server": server})

    def connect(dialect: Any, record: Any, args: Any, options: dict[str, Any]) -> None:
        options["connection_class"] = connection

    def begin(conn: Any, cursor: Any, statement: str, parameters: Any, context: Any, executemany: bool) -> None:
        if context is not None and is_recorded():
            name, operation = _described(statement)
            setattr(context, _SPAN, start_client_span(name, _sql_attributes(server, statement, operation)))

    if engine.dialect.driver == "asyncpg":
        event.listen(engine, "do_connect", connect)
    event.listen(engine, "before_cursor_execute", begin)
    event.listen(engine, "after_cursor_execute", _end)
    event.listen(engine, "handle_error", _fail)


def _end(conn: Any, cursor: Any, statement: str, parameters: Any, context: Any, executemany: bool) -> None:
    span: Span | None = getattr(context, _SPAN, None)
    if span is not None:
        span.end()


def _fail(failure: ExceptionContext) -> None:
    span: Span | None = getattr(failure.execution_context, _SPAN, None)
    if span is not None and span.is_recording():
        span.set_attribute("error.type", type(failure.original_exception).__qualname__)
        span.set_status(StatusCode.ERROR)
        span.end()


# --- Redis and HTTP: whoever makes the client, a library of another party too ---

_execute_command: Final = Redis.execute_command
_execute_pipeline: Final = Pipeline.execute
_handle_async_request: Final = httpx.AsyncHTTPTransport.handle_async_request
_handle_request: Final = httpx.HTTPTransport.handle_request


def install() -> None:
    """Make spans of every client's commands and requests."""
    Redis.execute_command = _traced_command  # type: ignore[method-assign]
    Pipeline.execute = _traced_pipeline  # type: ignore[method-assign]
    httpx.AsyncHTTPTransport.handle_async_request = _traced_async_request  # type: ignore[method-assign]
    httpx.HTTPTransport.handle_request = _traced_request  # type: ignore[method-assign]


def remove() -> None:
    """Make no more."""
    Redis.execute_command = _execute_command  # type: ignore[method-assign]
    Pipeline.execute = _execute_pipeline  # type: ignore[method-assign]
    httpx.AsyncHTTPTransport.handle_async_request = _handle_async_request  # type: ignore[method-assign]
    httpx.HTTPTransport.handle_request = _handle_request  # type: ignore[method-assign]


async def _traced_command(self: Any, *args: Any, **options: Any) -> Any:
    if not is_recorded():
        return await _execute_command(self, *args, **options)  # type: ignore[no-untyped-call]
    with client_span(*_redis_described(self, str(args[0]))):
        return await _execute_command(self, *args, **options)  # type: ignore[no-untyped-call]


async def _traced_pipeline(self: Any, raise_on_error: bool = True) -> Any:
    if not is_recorded():
        return await _execute_pipeline(self, raise_on_error)
    with client_span(*_redis_described(self, "PIPELINE")):
        return await _execute_pipeline(self, raise_on_error)


def _redis_described(client: Any, command: str) -> tuple[str, dict[str, str | int]]:
    where = client.connection_pool.connection_kwargs
    named = {"server.address": where.get("host") or where.get("path"), "server.port": where.get("port")}
    return command, {
        "db.system.name": "redis",
        "db.operation.name": command,
        **{name: value for name, value in named.items() if value is not None},
    }


async def _traced_async_request(self: httpx.AsyncHTTPTransport, request: httpx.Request) -> httpx.Response:
    if not is_recorded():
        _tell(request)
        return await _handle_async_request(self, request)
    with client_span(*_http_described(request)) as span:
        _tell(request)
        response = await _handle_async_request(self, request)
        _note(span, response)
        return response


def _traced_request(self: httpx.HTTPTransport, request: httpx.Request) -> httpx.Response:
    if not is_recorded():
        _tell(request)
        return _handle_request(self, request)
    with client_span(*_http_described(request)) as span:
        _tell(request)
        response = _handle_request(self, request)
        _note(span, response)
        return response


def _http_described(request: httpx.Request) -> tuple[str, dict[str, str | int]]:
    url = request.url
    port = url.port or (443 if url.scheme == "https" else 80)
    return request.method, {
        "http.request.method": request.method,
        "server.address": url.host,
        "server.port": port,
        "url.full": f"{url.scheme}://{url.netloc.decode('ascii')}{url.path}",
    }


def _tell(request: httpx.Request) -> None:
    """Have the other side continue the trace."""
    if (value := traceparent()) is not None and "traceparent" not in request.headers:
        request.headers["traceparent"] = value


def _note(span: Span, response: httpx.Response) -> None:
    span.set_attribute("http.response.status_code", response.status_code)
    if response.status_code >= 400:
        span.set_attribute("error.type", str(response.status_code))
        span.set_status(StatusCode.ERROR)
