"""Spans of what a recorded request or job asks of Redis and over HTTP, whoever makes the client: a library of another
party too. Those of SQL are in `plinth.database.observed_connection`.

OpenTelemetry's own instrumentations make an object for each call of the nine in ten requests that are not recorded;
here those pay for one look at the current span. Commands go out without their arguments, addresses without query.
"""

from collections.abc import Awaitable
from time import perf_counter
from typing import Any, Final

import httpx
from opentelemetry.trace import Span, StatusCode
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline

from plinth.telemetry.tracing import client_span, is_recorded, record_call, trace_headers

__all__ = ["install", "remove"]

_execute_command: Final = Redis.execute_command
_execute_pipeline: Final = Pipeline.execute
_handle_async_request: Final = httpx.AsyncHTTPTransport.handle_async_request
_handle_request: Final = httpx.HTTPTransport.handle_request

_TOLD: Final = "plinth.traceparent"


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
    answer = _execute_command(self, *args, **options)  # type: ignore[no-untyped-call]
    return await (_noted(self, str(*args[:1]), answer) if is_recorded() else answer)


async def _traced_pipeline(self: Any, raise_on_error: bool = True) -> Any:
    answer = _execute_pipeline(self, raise_on_error)
    return await (_noted(self, "PIPELINE", answer) if is_recorded() else answer)


async def _noted(client: Any, command: str, answer: Awaitable[Any]) -> Any:
    began = perf_counter()
    try:
        result = await answer
    except BaseException as error:
        record_call(*_redis_described(client, command), seconds=perf_counter() - began, error=error)
        raise
    record_call(*_redis_described(client, command), seconds=perf_counter() - began)
    return result


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
    """Have the other side continue the trace, unless the caller has told it by itself.

    A request that is sent again, or on by a redirect, bears what it told the first time: that was another span.
    """
    told = request.extensions.get(_TOLD)
    if request.headers.get("traceparent") != told:
        return
    found = trace_headers()
    if told is not None:
        for name in ("traceparent", "tracestate"):
            request.headers.pop(name, None)
    request.headers.update(found)
    request.extensions = {**request.extensions, _TOLD: found.get("traceparent")}


def _note(span: Span, response: httpx.Response) -> None:
    span.set_attribute("http.response.status_code", response.status_code)
    if response.status_code >= 400:
        span.set_attribute("error.type", str(response.status_code))
        span.set_status(StatusCode.ERROR)
