"""The service as its clients see it: in this process or on a socket, as any caller; and what its errors promise."""

import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from uuid import uuid4

import httpx
import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from plinth.http.error_handlers import title_of
from plinth.http.schemas import Problem
from plinth.identity import sign_local_token
from plinth.settings import PlatformSettings

# A machine that is busy with something else shall not fail a test. Seconds.
PATIENT = dict.fromkeys(("DB_POOL_TIMEOUT", "DB_CONNECT_TIMEOUT", "DB_STATEMENT_TIMEOUT", "REDIS_TIMEOUT"), 20)

NOBODY_SERVES = "postgresql://plinth:s3cret@127.0.0.1:1/plinth"


# Of a service under test: unlimited and patient.
FOR_TESTS = {"ENVIRONMENT": "test", "LOG_FORMAT": "json", "RATE_LIMIT": "", "RATE_LIMIT_ANONYMOUS": "", **PATIENT}


def signed_in(settings: PlatformSettings, subject: str | None = None) -> dict[str, str]:
    """The headers of a caller; of one who was never seen before where none is named."""
    token = sign_local_token(settings, subject=subject or f"caller-{uuid4()}", ttl=600)
    return {"Authorization": f"Bearer {token}"}


@asynccontextmanager
async def client_of(app: FastAPI, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client of `app` in this process; the lifespan runs meanwhile. Paths are relative to /api/v1."""
    async with app.router.lifespan_context(app) as state:
        transport = httpx.ASGITransport(with_state(app, state), client=("203.0.113.7", 4711))
        async with httpx.AsyncClient(transport=transport, base_url="http://service.test/api/v1", **options) as client:
            yield client


def with_state(app: ASGIApp, state: Any) -> ASGIApp:
    """`app` with the lifespan's state in each request, as a server puts it there."""

    async def stateful(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "state": dict(state or {})}, receive, send)

    return stateful


@contextmanager
def serving(app: FastAPI) -> Iterator[str]:
    """`app` on a uvicorn set up as `plinth api` sets it up, in a thread; yields the address of its root."""
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http="plinth.http.protocol:BoundedHttpToolsProtocol",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=5,
    )
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive(), "the server did not start"
                time.sleep(0.005)
            yield "http://{}:{}".format(*listening.getsockname())
        finally:
            server.should_exit = True
            thread.join()


def problem(response: httpx.Response, status: int, code: str | None = None) -> dict[str, Any]:
    """The body of an error, after a look at all that every error promises."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    Problem.model_validate(body, strict=True)
    assert body["status"] == status
    assert body["title"] == title_of(status)
    assert body["request_id"] == response.headers["x-request-id"]
    assert code is None or body["code"] == code, body
    return body
