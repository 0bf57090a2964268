"""What endpoints take: the caller, a session, what the lifespan made.

Dependencies are coroutines, even those that wait for nothing: FastAPI sends a plain function to a thread.
"""

from collections.abc import AsyncIterator
from typing import Annotated

import structlog
from fastapi import Depends, Request
from fastapi.openapi.models import HTTPBearer as BearerModel
from fastapi.security.base import SecurityBase
from sqlmodel.ext.asyncio.session import AsyncSession

from plinth.api.state import AppState
from plinth.errors import ForbiddenError, RateLimitError, ServiceUnavailableError, UnauthorizedError
from plinth.http.rate_limit import RateLimiter
from plinth.identity.rules import KeysUnavailable, Principal, TokenError

__all__ = ["OperatorDep", "PrincipalDep", "SessionDep", "is_operator", "state_of"]

log = structlog.get_logger("plinth.identity")


def state_of(request: Request) -> AppState:
    """What the lifespan made. To be called, not depended on: every dependency costs a request some microseconds."""
    state: AppState = request.scope["state"]
    return state


class _Bearer(SecurityBase):
    """The caller, by the bearer token, within the caller's rate limit. One dependency: each costs some µs."""

    def __init__(self) -> None:
        self.model = BearerModel(bearerFormat="JWT", description="A token of the identity provider.")
        self.scheme_name = "bearer"

    async def __call__(self, request: Request) -> Principal:
        """The principal.

        Raises:
            UnauthorizedError: no token, or one that does not hold.
            RateLimitError: the caller, or the address that sends bad tokens, asks too often.
            ServiceUnavailableError: the identity provider's keys cannot be had.
        """
        state = state_of(request)
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        token = token.lstrip(" ")  # RFC 9110: one space or more
        if scheme.lower() != "bearer" or not token:
            await self._count_anonymous(request, state)
            raise UnauthorizedError("This needs a bearer token.")
        verifier = state["verifier"]
        principal = verifier.cached(token)
        if principal is None:
            try:
                principal = await verifier.verify(token)
            except TokenError as error:
                log.info("token refused", reason=error.reason)
                await self._count_anonymous(request, state)
                raise UnauthorizedError("The token does not hold.", invalid_token=True) from None
            except KeysUnavailable as error:
                raise ServiceUnavailableError(
                    "The token cannot be checked right now: the identity provider does not answer.",
                    code="identity_provider_unavailable",
                    retry_after=5,
                ) from error
        request.scope["state"]["principal"] = principal  # for the access line
        if (limiter := state["rate_limiter"]) is not None:
            await _count(request, limiter, f"subject:{principal.subject}")
        return principal

    async def _count_anonymous(self, request: Request, state: AppState) -> None:
        limiter = state["anonymous_rate_limiter"]
        if limiter is not None and request.client is not None:
            await _count(request, limiter, f"address:{request.client.host}")


async def _count(request: Request, limiter: RateLimiter, key: str) -> None:
    verdict = await limiter.hit(key)
    request.scope["state"]["response_headers"].extend(verdict.headers())
    if not verdict.allowed:
        raise RateLimitError(verdict.reset)


async def _session(request: Request) -> AsyncIterator[AsyncSession]:
    async with state_of(request)["database"].session() as session:
        yield session


# "function": committed before the response is sent. With FastAPI's default scope the commit would come after the client
# has read its 201.
SessionDep = Annotated[AsyncSession, Depends(_session, scope="function")]
PrincipalDep = Annotated[Principal, Depends(_Bearer())]


def is_operator(request: Request, principal: Principal) -> bool:
    """Whether the caller has the role or the scope that makes an operator; nobody has where none is set."""
    settings = state_of(request)["settings"]
    return settings.OPERATOR_ROLE in principal.roles or settings.OPERATOR_SCOPE in principal.scopes


async def _operator(request: Request, principal: PrincipalDep) -> Principal:
    """The caller, who has to be an operator.

    Raises:
        ForbiddenError: they are not.
    """
    if not is_operator(request, principal):
        raise ForbiddenError("This is for operators.")
    return principal


OperatorDep = Annotated[Principal, Depends(_operator)]
