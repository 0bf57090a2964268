"""The session of a signed-in operator, in one cookie, and what pages depend on.

The cookie holds what `Permissions` asks of a caller, and is read at each request: a permission that the settings no
longer grant is gone at once, and so is the session of an issuer that they no longer name. What the identity provider
takes away is gone when the session ends.
"""

import hmac
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Annotated
from urllib.parse import urlencode

from fastapi import Depends, Request
from starlette.responses import Response

from plinth.api.dependencies import has_permission
from plinth.api.dependencies import state_of as api_state_of
from plinth.errors import ForbiddenError
from plinth.http.caller_limit import take_place
from plinth.http.rate_limit import count_address, count_hit
from plinth.identity.permissions import OPERATE_JOBS, READ_JOBS
from plinth.identity.principal import Principal
from plinth.ops.pages import SeeOther, address, path_back, read_form
from plinth.ops.state import state_of

__all__ = [
    "OperatorDep",
    "ReaderDep",
    "Session",
    "SignedInDep",
    "begin_session",
    "check_own_page",
    "end_session",
    "own_origin",
    "require_operator",
    "require_reader",
    "signed_in",
]

_SAFE = ("GET", "HEAD")


@dataclass(frozen=True, slots=True)
class Session:
    """A sign-in. `principal.expires_at` is when it ends."""

    id: str
    csrf: str = field(repr=False)
    principal: Principal


def begin_session(request: Request, response: Response, principal: Principal, *, until: int) -> Session:
    """Sign a caller in with a response, until a time in Unix seconds.

    Raises:
        ValueError: the caller's names do not fit into a cookie.
    """
    kept = api_state_of(request)["permissions"].granting(principal, READ_JOBS, OPERATE_JOBS)
    session = Session(secrets.token_hex(8), secrets.token_urlsafe(16), replace(kept, expires_at=until))
    value = [
        *(session.id, session.csrf, kept.issuer, kept.subject),
        *(sorted(kept.scopes), sorted(kept.roles), kept.first, until),
    ]
    state_of(request).session_cookie.set(request, response, value, until=until)
    return session


def end_session(request: Request, response: Response) -> None:
    """Sign the caller out with a response."""
    state_of(request).session_cookie.clear(request, response)


def _read_session(request: Request) -> Session | None:
    found = state_of(request).session_cookie.read(request)
    if found is None:
        return None
    session_id, csrf, issuer, subject, scopes, roles, first, until = found
    if issuer not in api_state_of(request)["settings"].issuers:
        return None
    return Session(session_id, csrf, Principal(subject, issuer, frozenset(scopes), frozenset(roles), until, first))


def own_origin(request: Request) -> str:
    """The origin of these pages: https, unless the browser is on this machine."""
    secure = state_of(request).session_cookie.is_secure(request)
    return f"{'https' if secure else 'http'}://{request.url.netloc}"


def check_own_page(request: Request) -> None:
    """Let a request pass that a page of this origin sends, or a GET by which a browser goes to a page.

    Raises:
        ForbiddenError: another origin's page sends it. BACKEND_CORS_ORIGINS may let that read answers, and cookies come
            along where it is of the same site.
    """
    headers, safe = request.headers, request.method in _SAFE
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is not None:
        # The Origin is `null` in forms of a page without referrer.
        own = site == "same-origin" or (safe and (site == "none" or headers.get("sec-fetch-mode") == "navigate"))
    elif origin is not None:
        own = origin == own_origin(request)
    else:
        own = safe
    if not own:
        raise ForbiddenError("The request comes from a page of another origin. Open this page itself and try again.")


async def _check_token(request: Request, session: Session) -> None:
    given = request.headers.get("x-csrf-token") or (await read_form(request)).get("csrf", "")
    if not hmac.compare_digest(given.encode(), session.csrf.encode()):
        raise ForbiddenError("The form is not of this session. Load the page again and try once more.")


async def signed_in(request: Request) -> Session:
    """The session of a request, which counts towards the caller's limits. A POST proves that a page here sends it.

    Raises:
        SeeOther: there is none, or it has ended: leads to the sign-in and back.
        ForbiddenError: another origin's page sends it, or its form is not of this session.
        RateLimitError: the caller, or the address that is not signed in, has reached its limit.
        ConcurrencyLimitError: the caller has too many requests in progress.
    """
    state = api_state_of(request)
    session = _read_session(request)
    if session is None:
        await count_address(request, state["anonymous_rate_limiter"])
        check_own_page(request)
        lost = {} if request.method in _SAFE else {"lost": "1"}
        raise SeeOther(f"{address(request, '/sign-in')}?{urlencode({'next': path_back(request), **lost})}")
    principal = session.principal
    request.scope["state"]["principal"] = principal  # for the access line
    if (limiter := state["rate_limiter"]) is not None:
        await count_hit(request, limiter, f"subject:{principal.key}")
    check_own_page(request)
    request.scope["state"]["ops_session"] = session  # for the templates: another origin's script reads none of it
    if request.method not in _SAFE:
        await _check_token(request, session)
    await take_place(request.scope, state["caller_limit"], (principal.issuer, principal.subject))
    return session


SignedInDep = Annotated[Session, Depends(signed_in)]


def _require(permission: str) -> Callable[..., Awaitable[Principal]]:
    async def required(request: Request, session: SignedInDep) -> Principal:
        if not has_permission(request, session.principal, permission):
            raise ForbiddenError(
                f"You are signed in as {session.principal.subject}, without the permission {permission}. "
                "Sign out to sign in as another user."
            )
        return session.principal

    return required


require_reader = _require(READ_JOBS)
"""Lets pass operators that may look. As a dependency it gives the caller."""
require_operator = _require(OPERATE_JOBS)
"""Lets pass operators that may change things: for every POST."""

ReaderDep = Annotated[Principal, Depends(require_reader)]
OperatorDep = Annotated[Principal, Depends(require_operator)]
