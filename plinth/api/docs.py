"""The page /docs: Swagger UI over the OpenAPI document, with every file served by this process."""

from html import escape

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from plinth.http.static_files import Assets

__all__ = ["install_docs"]

_PATH = "/docs"
_ASSETS = f"{_PATH}/assets"

# Tokens are pasted into the page and kept by the browser: only scripts of ours run, and none can send them elsewhere.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" href="{assets}/favicon.png">
<link rel="stylesheet" href="{assets}/swagger-ui.css">
<link rel="stylesheet" href="{assets}/docs.css">
</head>
<body>
<main id="swagger-ui" data-document="{document}"></main>
<script src="{assets}/swagger-ui-bundle.js"></script>
<script src="{assets}/docs.js"></script>
</body>
</html>
"""


def install_docs(app: FastAPI) -> None:
    """Serve /docs, to which / leads unless the service has a route for it. Call it after the routers are included."""

    async def docs(request: Request) -> Response:
        root = request.scope.get("root_path", "")
        page = _PAGE.format(
            title=escape(app.title), assets=escape(root + _ASSETS), document=escape(f"{root}{app.openapi_url}")
        )
        return HTMLResponse(page, headers={"Content-Security-Policy": _POLICY})

    async def start(request: Request) -> Response:
        return RedirectResponse(request.scope.get("root_path", "") + _PATH)

    app.add_route(_PATH, docs, include_in_schema=False)
    for path in ("/", f"{_PATH}/"):
        app.add_route(path, start, include_in_schema=False)
    app.mount(_ASSETS, Assets(packages=[("fastapi_offline", "static"), ("plinth.api", "static")]))
