"""The application in this process, as its clients call it."""

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any, cast

import httpx
from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from plinth.identity import sign_local_token
from plinth.settings import PlatformSettings
from plinth.testing.tracebacks import own_frames

__all__ = ["Client", "open_client"]

TOKEN_SECONDS = 600
ADDRESS = ("203.0.113.7", 4711)  # of every client; RFC 5737 keeps it for examples

_ERROR = "plinth.testing.error"  # in a request's state: the exception that no handler expected


class Client(httpx.AsyncClient):
    """A client of an application in this process. Paths are relative to API_V1_STR.

    A request whose handler raises an exception that the application has no answer for but 500 raises it in the test,
    with the handler's traceback: see `open_client`.
    """

    def __init__(self, transport: httpx.ASGITransport, settings: PlatformSettings, **options: Any) -> None:
        super().__init__(transport=transport, base_url=f"http://service.test{settings.API_V1_STR}", **options)
        self._application = transport
        self.settings = settings

    def signed_in(self, subject: str = "alice", *, scopes: Iterable[str] = (), roles: Iterable[str] = ()) -> "Client":
        """Return another client of the same application, which sends a bearer token of `subject`.

        Raises:
            ValueError: AUTH_PROVIDER is not `local`, or `subject` cannot be that of a token.
        """
        ttl = min(TOKEN_SECONDS, self.settings.TOKEN_MAX_LIFETIME or TOKEN_SECONDS)
        token = sign_local_token(self.settings, subject=subject, ttl=ttl, scopes=scopes, roles=roles)
        return Client(self._application, self.settings, headers={"Authorization": f"Bearer {token}"})

    async def send(self, *arguments: Any, **options: Any) -> httpx.Response:
        """Send a request; see `httpx.AsyncClient.send`."""
        __tracebackhide__ = True  # by pytest
        try:
            return await super().send(*arguments, **options)
        except Exception as error:
            error.__traceback__ = own_frames(error.__traceback__)
            raise


@asynccontextmanager
async def open_client(app: FastAPI, *, raise_errors: bool = True) -> AsyncIterator[Client]:
    """Run the lifespan of `app`, which must not have served yet, and yield a client that is not signed in.

    With `raise_errors=False` a handler's exception becomes what other clients see of it, the answer 500.

    Raises:
        Whatever the lifespan raises.
    """
    app.user_middleware.append(Middleware(_KeepError))  # the innermost: it sees what no handler has answered
    async with app.router.lifespan_context(app) as state:
        given = cast(Mapping[str, Any], state or {})
        if (reads := given.get("reads")) is not None:
            reads.strict = True
        transport = httpx.ASGITransport(_serve(app, given, raise_errors=raise_errors), client=ADDRESS)
        async with Client(transport, given["settings"]) as client:
            yield client


def _serve(app: ASGIApp, state: Mapping[str, Any], *, raise_errors: bool) -> ASGIApp:
    """Wrap `app` as a server would: each request has the lifespan's state."""

    async def served(scope: Scope, receive: Receive, send: Send) -> None:
        request_state = dict(state)
        await app({**scope, "state": request_state}, receive, send)
        if raise_errors and (error := request_state.get(_ERROR)) is not None:
            raise error

    return served


class _KeepError:
    """Middleware that keeps an exception in the request's state and lets it through."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self.app(scope, receive, send)
        except Exception as error:
            scope["state"][_ERROR] = error
            raise
