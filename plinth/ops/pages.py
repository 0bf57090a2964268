"""What the pages of /ops are made with: templates, a router, and answers that are HTML whatever goes wrong."""

import re
from collections.abc import Callable, Coroutine, Mapping
from typing import Any
from urllib.parse import parse_qsl

from fastapi import APIRouter, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.datastructures import ImmutableMultiDict
from starlette.responses import HTMLResponse, RedirectResponse, Response

from plinth.errors import AppException, BadRequestError, ServiceUnavailableError, ValidationError
from plinth.http.error_handlers import log_failure, title_of
from plinth.http.routes import path_of
from plinth.telemetry.log_records import request_id_var

__all__ = ["ROOT", "SeeOther", "address", "error_page", "own_path", "page", "page_router", "path_back", "read_form"]

ROOT = "/ops"

# Everything comes from this service, and forms go nowhere else. No inline script or style.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
MAX_FIELDS = 1000

_templates = Environment(
    loader=PackageLoader("plinth.ops"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)

# Of this page's paths alone: no other host (`//`, a backslash), no way up, no line break.
_OWN_PATH = re.compile(rf"{ROOT}(/[A-Za-z0-9_~:@!$&'()*+,;=%/.-]*)?(\?[!-\[\]-~]*)?")
MAX_PATH_LENGTH = 2000

_ANY_URL = re.compile(r"[a-z]+://[^/?#]*(/[^#]*)(#.*)?")


def own_path(path: str) -> str:
    """The path if it is one of /ops, else /ops itself: for where a sign-in leads to."""
    # Browsers take %2e for a dot, and go up by two.
    climbs = ".." in path.partition("?")[0].lower().replace("%2e", ".")
    return path if len(path) <= MAX_PATH_LENGTH and _OWN_PATH.fullmatch(path) and not climbs else ROOT


def path_back(request: Request) -> str:
    """The path of the page that a request is for, or is sent from."""
    if (current := request.headers.get("hx-current-url")) is not None:  # htmx replaces a part of that page
        found = _ANY_URL.fullmatch(current)
        return own_path(found[1].removeprefix(request.scope.get("root_path", ""))) if found else ROOT
    if request.method not in ("GET", "HEAD"):
        return ROOT
    path, query = path_of(request.scope), request.url.query
    return own_path(f"{path}?{query}" if query else path)


def address(request: Request, path: str = "") -> str:
    """The address of a path below /ops as browsers have it: behind the prefix that a proxy takes off."""
    return f"{request.scope.get('root_path', '')}{ROOT}{path}"


def page(
    request: Request, template: str, *, status: int = 200, headers: Mapping[str, str] | None = None, **context: Any
) -> HTMLResponse:
    """Render a template. Each has `root`, the address of /ops, and `session`, which is None without a sign-in.

    A form that is posted has `<input type="hidden" name="csrf" value="{{ session.csrf }}">`; htmx sends the same as
    the header `X-CSRF-Token`.
    """
    session = request.scope["state"].get("ops_session")
    text = _templates.get_template(template).render(root=address(request), session=session, **context)
    return HTMLResponse(text, status, headers={"Content-Security-Policy": _POLICY, **(headers or {})})


def error_page(request: Request, error: AppException) -> Response:
    """A page that says what went wrong; to those that are signed in also why the service cannot answer."""
    log_failure(error)
    signed_in = request.scope["state"].get("ops_session") is not None
    headers = {name: value for name, value in error.headers.items() if name != "WWW-Authenticate"}
    return page(
        request,
        "error.html",
        status=error.status,
        headers=headers,
        title=title_of(error.status),
        detail=error.detail or "This cannot be done.",
        reason=error.reason if signed_in and isinstance(error, ServiceUnavailableError) else None,
        request_id=request_id_var.get() or "",
    )


async def read_form(request: Request) -> ImmutableMultiDict[str, str]:
    """The fields of a form that was posted. Without python-multipart, which FastAPI's `Form` needs for this too.

    Raises:
        BadRequestError: it has too many fields, or is not UTF-8.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/x-www-form-urlencoded":
        return ImmutableMultiDict()
    try:
        text = (await request.body()).decode()
        return ImmutableMultiDict(parse_qsl(text, keep_blank_values=True, max_num_fields=MAX_FIELDS, errors="strict"))
    except ValueError:
        raise BadRequestError(
            f"The form cannot be read: it is not UTF-8 or has more than {MAX_FIELDS} fields."
        ) from None


class SeeOther(Exception):
    """Sends the browser to another page instead of an answer. `location`: as `address` makes it."""

    def __init__(self, location: str) -> None:
        self.location = location


class _PageRoute(APIRoute):
    """A route whose every answer is a page, errors too."""

    # Of what the route raises, and of what its session raises at its end, which is after it has answered.
    error_response = staticmethod(error_page)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_page(request: Request) -> Response:
            try:
                return await handle(request)
            except SeeOther as other:
                return _see_other(request, other.location)
            except RequestValidationError:
                raise ValidationError("The address has a value that this page cannot read.") from None

        return handle_page


def page_router() -> APIRouter:
    """A router for pages: its paths begin with /ops, and none is in the OpenAPI document."""
    return APIRouter(prefix=ROOT, route_class=_PageRoute, include_in_schema=False)


def _see_other(request: Request, location: str) -> Response:
    if "hx-request" in request.headers:  # htmx would put the other page into a part of this one
        return Response(status_code=401, headers={"HX-Redirect": location})
    return RedirectResponse(location, 303)
