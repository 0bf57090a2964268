"""Sign-in and sign-out of /ops.

With AUTH_PROVIDER=custom an operator signs in at the identity provider. Elsewhere a form takes a bearer token, such as
`plinth token` makes: Supabase and Clerk give no tokens with an operator's roles to the clients of their OAuth servers.
"""

import time
from urllib.parse import urlsplit

import structlog
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.status import HTTP_400_BAD_REQUEST

from plinth.api.dependencies import state_of as api_state_of
from plinth.audit import record
from plinth.database.engine import DatabaseUnavailableError
from plinth.errors import AppException, ForbiddenError, NotFoundError, ServiceUnavailableError
from plinth.http.rate_limit import count_address
from plinth.identity.documents import DocumentError
from plinth.identity.errors import KeysUnavailable, TokenError
from plinth.identity.permissions import READ_JOBS
from plinth.identity.principal import Principal
from plinth.ops.code_flow import Attempt, CodeFlow
from plinth.ops.pages import address, error_page, own_path, page, page_router, read_form
from plinth.ops.session import Session, SignedInDep, begin_session, check_own_page, end_session, own_origin
from plinth.ops.state import state_of
from plinth.settings import Environment

router = page_router()

log = structlog.get_logger("plinth.ops")

# Seconds for the page of the identity provider: a password, a second factor.
ATTEMPT_SECONDS = 600


class SignInRefused(AppException):
    """A sign-in that cannot end well. The next one may."""

    status = 400
    code = "sign_in_refused"


@router.get("/sign-in")
async def show_sign_in(request: Request, next: str = "", lost: str = "") -> Response:  # noqa: A002 - as in the address
    """The page that begins a sign-in. `lost`: a form was sent when the session had ended."""
    await count_address(request, api_state_of(request)["anonymous_rate_limiter"])
    problem = "Your session has ended, and nothing was changed. Sign in and do it once more." if lost else ""
    return _form(request, own_path(next), problem)


@router.post("/sign-in")
async def sign_in_by_token(request: Request) -> Response:
    """Sign in with a bearer token, until it expires."""
    state = api_state_of(request)
    await count_address(request, state["anonymous_rate_limiter"])
    check_own_page(request)
    if state_of(request).code_flow is not None:
        raise NotFoundError("Sign in at the identity provider.")
    form = await read_form(request)
    back_to, token = own_path(form.get("next", "")), form.get("token", "").strip()
    try:
        principal = await state["verifier"].verify(token)
    except TokenError as error:
        log.info("sign-in refused", reason=error.reason)
        local = state["settings"].ENVIRONMENT is Environment.LOCAL
        problem = f"The token is not valid: {error.reason}." if local else "The token is not valid."
        return _form(request, back_to, problem, status=403)
    except KeysUnavailable as error:
        raise _provider_away() from error
    return await _signed_in(request, principal, back_to, until=min(_latest_end(request), principal.expires_at))


@router.get("/sign-in/start")
async def start(request: Request, next: str = "") -> Response:  # noqa: A002 - its name in the address
    """Send the browser to the identity provider."""
    await count_address(request, api_state_of(request)["anonymous_rate_limiter"])
    attempt = Attempt(own_path(next))
    try:
        location = await _code_flow(request).authorization_address(attempt, _own_url(request, "/sign-in/callback"))
    except (DocumentError, TimeoutError) as error:
        raise _provider_away() from error
    response = RedirectResponse(location, 303)
    until = int(time.time()) + ATTEMPT_SECONDS
    state_of(request).attempt_cookie.set(request, response, attempt.sealed(), until=until)
    return response


@router.get("/sign-in/callback")
async def finish(request: Request, code: str = "", state: str = "", error: str = "", iss: str = "") -> Response:
    """Sign in with the code that the identity provider has sent the browser back with."""
    await count_address(request, api_state_of(request)["anonymous_rate_limiter"])
    flow, cookie = _code_flow(request), state_of(request).attempt_cookie
    sealed = cookie.read(request)
    attempt = Attempt(*sealed) if sealed is not None else None
    if attempt is None or not attempt.has_state(state):
        raise SignInRefused("This sign-in was begun elsewhere, too long ago, or has ended. Begin again.")
    try:
        response = await _redeemed(request, attempt, code, error=error, issuer=iss or flow.issuer)
    except AppException as refused:
        response = error_page(request, refused)
    cookie.clear(request, response)  # an attempt has one answer
    return response


async def _redeemed(request: Request, attempt: Attempt, code: str, *, error: str, issuer: str) -> Response:
    flow = _code_flow(request)
    if error or issuer != flow.issuer:  # RFC 9207: the code of another issuer is not for this one
        log.info("sign-in refused", reason="by the identity provider" if error else "wrong_issuer", error=error[:100])
        raise SignInRefused("The identity provider has not signed you in. Begin again.")
    try:
        verifier = api_state_of(request)["verifier"]
        principal = await flow.redeem(code, attempt, _own_url(request, "/sign-in/callback"), verifier)
    except TokenError as refused:
        log.warning("sign-in refused", reason=refused.reason)
        raise SignInRefused("The answer of the identity provider is not for this sign-in. Begin again.") from None
    except (DocumentError, TimeoutError, KeysUnavailable) as away:
        if isinstance(away, DocumentError) and away.status == HTTP_400_BAD_REQUEST:  # RFC 6749, 5.2: of this code
            log.warning("sign-in refused", reason=str(away))
            raise SignInRefused("The identity provider does not take this sign-in's code. Begin again.") from None
        raise _provider_away() from away
    return await _signed_in(request, principal, attempt.back_to, until=_latest_end(request))


@router.post("/sign-out")
async def sign_out(request: Request, session: SignedInDep) -> Response:
    """End the session here, then at the identity provider."""
    location = None
    if (flow := state_of(request).code_flow) is not None:
        try:
            location = await flow.sign_out_address(_own_url(request, "/sign-in"))
        except (DocumentError, TimeoutError) as error:
            log.warning("not signed out at the identity provider", error=str(error))
    request.scope["state"]["ops_session"] = None  # the page that follows is not of this session
    response: Response
    if location is None:
        response = RedirectResponse(address(request, "/sign-in"), 303)
    else:
        # A page that goes on, instead of a redirect: `form-action` holds for the redirects of a form as well.
        host = urlsplit(location).hostname
        response = page(request, "signed_out.html", headers={"Refresh": f"0; url={location}"}, next=location, host=host)
    end_session(request, response)
    try:
        await _record(request, "session.end", session)
    except DatabaseUnavailableError as error:  # the browser forgets the session all the same
        log.warning("a sign-out was not recorded", session=session.id, reason=str(error))
    return response


async def _signed_in(request: Request, principal: Principal, back_to: str, *, until: int) -> Response:
    if principal.first is None:
        raise DatabaseUnavailableError
    response = RedirectResponse(f"{request.scope.get('root_path', '')}{back_to}", 303)
    try:
        session = begin_session(request, response, principal, until=until)
    except ValueError:
        raise ForbiddenError("Your roles do not fit into a cookie: PERMISSIONS grants the page to too many.") from None
    await _record(request, "session.begin", session)
    return response


async def _record(request: Request, action: str, session: Session) -> None:
    """Write an operator's act into the audit log. Others that sign in see no page, and leave a line in the log."""
    state, principal = api_state_of(request), session.principal
    if not state["permissions"].has(principal, READ_JOBS):
        log.info("signed in without a permission" if action == "session.begin" else "signed out", session=session.id)
        return
    async with state["database"].session() as database:
        await record(database, principal, action, f"session:{session.id}")


def _form(request: Request, back_to: str, problem: str = "", *, status: int = 200) -> Response:
    flow = state_of(request).code_flow
    host = urlsplit(flow.issuer).hostname if flow is not None else None
    return page(request, "sign_in.html", status=status, host=host, next=back_to, problem=problem)


def _code_flow(request: Request) -> CodeFlow:
    flow = state_of(request).code_flow
    if flow is None:
        raise NotFoundError("There is no identity provider to sign in at: the sign-in takes a token.")
    return flow


def _own_url(request: Request, path: str) -> str:
    """The whole address of a path below /ops."""
    return f"{own_origin(request)}{address(request, path)}"


def _latest_end(request: Request) -> int:
    return int(time.time() + api_state_of(request)["settings"].OPS_SESSION_HOURS * 3600)


def _provider_away() -> ServiceUnavailableError:
    return ServiceUnavailableError(
        "The identity provider does not answer as it should. Try again in a moment.",
        code="identity_provider_unavailable",
        retry_after=5,
    )
