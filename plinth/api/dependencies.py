"""Dependencies of endpoints: the caller, a session, the state of the application.

All are coroutines, even those that wait for nothing: FastAPI runs a plain function in a thread.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from functools import cache
from typing import Annotated, cast

import structlog
from fastapi import Depends, Security
from fastapi.openapi.models import HTTPBearer as BearerModel
from fastapi.security.base import SecurityBase
from sqlmodel.ext.asyncio.session import AsyncSession
from starlette.requests import HTTPConnection

from plinth.api.state import AppState
from plinth.database.engine import Database
from plinth.errors import ForbiddenError, ServiceUnavailableError, UnauthorizedError
from plinth.http.caller_limit import take_place
from plinth.http.rate_limit import count_address, count_hit
from plinth.http.websockets import BEARER, admit
from plinth.identity.api_keys import PREFIX as API_KEY_PREFIX
from plinth.identity.errors import KeysUnavailable, TokenError
from plinth.identity.permissions import OPERATE_JOBS, READ_JOBS
from plinth.identity.principal import Principal
from plinth.settings.general import Environment
from plinth.settings.types import is_permission

__all__ = [
    "Bearer",
    "DatabaseDep",
    "OperatorDep",
    "PrincipalDep",
    "ReadSessionDep",
    "ReaderDep",
    "SessionDep",
    "bearer",
    "check_permission",
    "has_permission",
    "require",
    "state_of",
]

log = structlog.get_logger("plinth.identity")


def state_of(request: HTTPConnection) -> AppState:
    """The state that the lifespan made. Call it in the endpoint: a dependency would cost some microseconds."""
    state: AppState = request.scope["state"]
    return state


class Bearer(SecurityBase):
    """Verifies the bearer token and counts the caller's limits. One dependency for all: each costs some µs."""

    def __init__(self) -> None:
        self.model = BearerModel(description="A token (JWT) of the identity provider, or an API key.")
        self.scheme_name = "bearer"

    async def __call__(self, request: HTTPConnection) -> Principal:
        """The caller of a request or of a WebSocket's handshake. Raises what `verify` does."""
        if (known := request.scope["state"].get("principal")) is not None:  # verified before the body was read
            return cast(Principal, known)
        return await self.verify(request, _token_of(request))

    async def verify(self, request: HTTPConnection, token: str) -> Principal:
        """The caller with this token; an empty one is missing.

        Raises:
            UnauthorizedError: the token is missing or not valid.
            RateLimitError: the caller, or the address that sends invalid tokens, has reached its limit.
            ConcurrencyLimitError: the caller has too many requests in progress, or WebSockets open.
            ServiceUnavailableError: the identity provider's keys cannot be fetched, or an API key not be looked up.
        """
        state = state_of(request)
        if not token:
            await count_address(request, state["anonymous_rate_limiter"])
            raise UnauthorizedError("This needs a bearer token.")
        verifier = state["api_keys"] if token.startswith(API_KEY_PREFIX) else state["verifier"]
        principal = verifier.cached(token)
        if principal is None:
            try:
                principal = await verifier.verify(token)
            except TokenError as error:
                await count_address(request, state["anonymous_rate_limiter"])
                log.info("token refused", reason=error.reason)
                # A forger learns nothing elsewhere; on a developer's machine the reason spares a look into the log.
                local = state["settings"].ENVIRONMENT is Environment.LOCAL
                detail = f"The token is not valid: {error.reason}." if local else "The token is not valid."
                raise UnauthorizedError(detail, invalid_token=True) from None
            except KeysUnavailable as error:
                raise ServiceUnavailableError(
                    "The token cannot be verified right now: the identity provider does not answer.",
                    code="identity_provider_unavailable",
                    retry_after=5,
                ) from error
        request.scope["state"]["principal"] = principal  # for the access line
        if (limiter := state["rate_limiter"]) is not None:
            await count_hit(request, limiter, f"subject:{principal.key}")
        caller = (principal.issuer, principal.subject)
        if request.scope["type"] == "websocket":  # it may last for long, and holds no connection of the database
            admit(request.scope, caller, principal.expires_at)
        else:
            await take_place(request.scope, state["caller_limit"], caller)
        return principal


def _token_of(request: HTTPConnection) -> str:
    """The token in `Authorization`, or behind `bearer` among the subprotocols of a WebSocket; empty without one."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return token.lstrip(" ")  # RFC 9110: one space or more
    offered: list[str] = request.scope.get("subprotocols", [])
    return offered[offered.index(BEARER) + 1] if BEARER in offered[:-1] else ""


async def _session(request: HTTPConnection) -> AsyncIterator[AsyncSession]:
    if request.scope["type"] == "websocket":
        raise TypeError(
            "A WebSocket with SessionDep would hold a connection of the pool for as long as it lasts. "
            "Take DatabaseDep, and a session for each message: async with database.session() as session"
        )
    async with state_of(request)["database"].session() as session:
        yield session


# "function": commits before the response is sent. With FastAPI's default scope a client could read its 201 before the
# commit.
SessionDep = Annotated[AsyncSession, Depends(_session, scope="function")]


async def _read_session(request: HTTPConnection) -> AsyncIterator[AsyncSession]:
    async with state_of(request)["reads"].session() as session:
        yield session


# For reads that may lag: on the replica, if there is one that can be used. Before the response is sent, a write is an
# error.
ReadSessionDep = Annotated[AsyncSession, Depends(_read_session, scope="function")]


def _database(request: HTTPConnection) -> Database:
    return state_of(request)["database"]


DatabaseDep = Annotated[Database, Depends(_database)]
bearer = Bearer()
PrincipalDep = Annotated[Principal, Depends(bearer)]


def has_permission(request: HTTPConnection, principal: Principal, permission: str) -> bool:
    """Whether the caller has a permission: see `plinth.identity.permissions`."""
    return state_of(request)["permissions"].has(principal, permission)


def check_permission(request: HTTPConnection, principal: Principal, permission: str) -> None:
    """Let a caller pass that has a permission.

    Raises:
        ForbiddenError: it has not. The response names the permission.
    """
    if not has_permission(request, principal, permission):
        raise ForbiddenError(permission=permission)


@cache
def require(permission: str) -> Callable[..., Awaitable[Principal]]:
    """The dependency of endpoints that need a permission: `Depends(require("orders:write"))`. It gives the caller.

    It may stand among the `dependencies=` of a router too. The OpenAPI document names the permission.

    Raises:
        ValueError: a permission cannot be called so.
    """
    if not is_permission(permission):
        raise ValueError("a permission has up to 200 letters, digits and . _ : / ~ + -")

    # A scope of the dependency, so that FastAPI documents it and `check_caller` finds it.
    async def required(
        request: HTTPConnection, principal: Annotated[Principal, Security(bearer, scopes=[permission])]
    ) -> Principal:
        check_permission(request, principal, permission)
        return principal

    return required


ReaderDep = Annotated[Principal, Depends(require(READ_JOBS))]
OperatorDep = Annotated[Principal, Depends(require(OPERATE_JOBS))]
