"""What is logged of a response that the end of the shutdown's grace cuts."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.responses import Response, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from plinth.http.protocol import BoundedHttpToolsProtocol
from plinth.http.request_context import RequestContextMiddleware
from plinth.http.unhandled_errors import UnhandledErrorMiddleware
from plinth.telemetry.http_metrics import HttpMetrics
from tests.support.logs import logging_as


async def download(scope: Scope, receive: Receive, send: Send) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 1000
            await asyncio.sleep(0.01)

    await StreamingResponse(endless())(scope, receive, send)


async def work(scope: Scope, receive: Receive, send: Send) -> None:
    await asyncio.sleep(60)
    await Response("done")(scope, receive, send)


def cut(app: ASGIApp, **options: Any) -> None:
    """Ask for what does not end, on a server that begins to shut down meanwhile."""
    config = uvicorn.Config(
        RequestContextMiddleware(UnhandledErrorMiddleware(app), access_sample=0, **options),
        port=0,
        http=BoundedHttpToolsProtocol,
        lifespan="off",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
        port = server.servers[0].sockets[0].getsockname()[1]
        with (
            httpx.Client(timeout=30) as client,
            suppress(httpx.HTTPError),
        ):  # made before the clock runs: it takes longer
            threading.Timer(0.3, lambda: setattr(server, "should_exit", True)).start()
            client.get(f"http://127.0.0.1:{port}/file")
    finally:
        server.should_exit = True
        thread.join()


@pytest.mark.parametrize("app", [download, work])
def test_response_that_the_shutdown_cuts_has_one_line_and_no_traceback(app: ASGIApp) -> None:
    with logging_as(LOG_FORMAT="json") as log:
        cut(app)

    (line,) = log.lines("request")
    assert (line["path"], line["error"]) == ("/file", "CancelledError")
    assert line["status"] == (200 if app is download else 499)
    assert "Traceback" not in log.getvalue()
    errors = [line["message"] for line in log.lines() if line["level"] == "error" and line["message"] != "request"]
    assert errors == ["Cancel 1 running task(s), timeout graceful shutdown exceeded"]  # one, for all of them


@pytest.mark.parametrize("app", [download, work])
def test_response_that_the_shutdown_cuts_counts_as_a_failure(app: ASGIApp) -> None:
    metrics = HttpMetrics()
    cut(app, metrics=metrics)

    assert 'plinth_http_requests_total{outcome="failure"} 1' in metrics.render(openmetrics=False)
