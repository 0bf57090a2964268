"""An httpx client whose requests are traced: for calls to other services.

async with TracedClient(base_url="https://prices.example", timeout=5) as client:
    answer = await client.get("/today")
"""

from typing import Any

import httpx
from opentelemetry.trace import StatusCode

from plinth.telemetry.propagation import outgoing_headers
from plinth.telemetry.redaction import redact_text
from plinth.telemetry.tracing import MAX_METHOD, MAX_PATH, METHODS, OTHER_METHOD, client_span, is_recorded

__all__ = ["TracedClient"]


class TracedClient(httpx.AsyncClient):
    """An `httpx.AsyncClient` that makes a span of each request and sends the trace's headers along, and the baggage.

    A request is one span, with the redirects that the client follows. Spans hold no query and no credentials. Headers
    that the caller has set stay as they are.
    """

    async def send(self, request: httpx.Request, **options: Any) -> httpx.Response:
        if not is_recorded():
            return await self._send_traced(request, options)
        url = request.url
        method = request.method if request.method in METHODS else OTHER_METHOD
        attributes: dict[str, str | int] = {
            "http.request.method": method,
            "server.address": url.host,
            "server.port": url.port or (443 if url.scheme == "https" else 80),
            "url.full": _shown(url),
        }
        if method is OTHER_METHOD:
            attributes["http.request.method_original"] = request.method[:MAX_METHOD]
        with client_span("HTTP" if method is OTHER_METHOD else method, attributes) as span:
            response = await self._send_traced(request, options)
            span.set_attribute("http.response.status_code", response.status_code)
            if response.status_code >= 400:
                span.set_attribute("error.type", str(response.status_code))
                span.set_status(StatusCode.ERROR)
            return response

    async def _send_traced(self, request: httpx.Request, options: dict[str, Any]) -> httpx.Response:
        added = outgoing_headers()
        if any(name in request.headers for name in added):
            added = {}
        request.headers.update(added)
        try:
            return await super().send(request, **options)
        finally:
            # The same request may be sent again, within another trace.
            for name in added:
                del request.headers[name]


def _shown(url: httpx.URL) -> str:
    # `url.path` is decoded: of `/a%3Fb` it would make a query.
    path = url.raw_path.partition(b"?")[0][:MAX_PATH]
    return f"{url.scheme}://{url.netloc.decode('ascii')}{redact_text(path.decode('ascii'))}"
