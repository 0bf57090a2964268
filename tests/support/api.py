"""The service as its clients see it: in this process or on a socket, as any caller; and what its errors promise."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import httpx
from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from plinth.identity import sign_local_token
from plinth.settings import PlatformSettings
from plinth.testing import NO_DATABASE as NOBODY_SERVES
from plinth.testing import problem, serving
from plinth.testing.settings import PATIENT

__all__ = [
    "NOBODY_SERVES",
    "PATIENT",
    "client_of",
    "problem",
    "serving",
    "signed_in",
    "with_state",
]


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
