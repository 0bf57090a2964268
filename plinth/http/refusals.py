"""Connections that are ended before their request is served: answer, count and log lines, a bounded number of them."""

from time import monotonic
from typing import Any

import structlog
from prometheus_client import Counter
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from plinth.http.error_handlers import problem_response

__all__ = ["Refused", "report"]

log = structlog.get_logger("plinth.http")

LINES_A_MINUTE = 20

_REFUSED = Counter("plinth_http_refused", "Connections ended before their request was served.", ["reason"])
REASONS = (
    "head_too_large",
    "malformed",
    "not_implemented",
    "not_read",
    "too_many_connections",
    "too_many_headers",
    "too_slow",
)
for _reason in REASONS:
    _REFUSED.labels(_reason)


class Refused(Exception):
    """A request that is not served. `reason` is one of `REASONS` and the code of the answer."""

    def __init__(self, status: int, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.reason = reason
        self.detail = detail

    def response(self, *, with_body: bool = True) -> bytes:
        """The whole response: a problem document, or for a HEAD its headers alone."""
        response = problem_response(
            self.status,
            code=self.reason,
            detail=self.detail,
            headers={"Connection": "close"},
        )
        headers = [b"%s: %s\r\n" % header for header in response.raw_headers]
        return b"".join([STATUS_LINE[self.status], *headers, b"\r\n", response.body if with_body else b""])


class _Lines:
    """Log lines: so many a minute, and then the number of the others."""

    def __init__(self) -> None:
        self._minute = 0
        self._written = self._left_out = 0

    def write(self, **values: Any) -> None:
        minute = int(monotonic() // 60)
        if minute != self._minute:
            if self._left_out:
                log.info("more connections were refused", number=self._left_out)
            self._minute, self._written, self._left_out = minute, 0, 0
        if self._written < LINES_A_MINUTE:
            self._written += 1
            log.info("connection refused", **values)
        else:
            self._left_out += 1


_lines = _Lines()


def report(refused: Refused, client: tuple[str, int] | None, *, logged: bool = True) -> None:
    """Count a refused connection, and log it."""
    _REFUSED.labels(refused.reason).inc()
    if logged:
        _lines.write(reason=refused.reason, detail=refused.detail, client=client[0] if client else None)
