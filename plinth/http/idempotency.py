"""`Idempotency-Key` for endpoints that make something."""

from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Header, Request, Response
from sqlmodel.ext.asyncio.session import AsyncSession

from plinth.http import idempotency_store as idempotency
from plinth.identity.rules import Principal

__all__ = ["IdempotencyKey", "answer_once"]

# Visible ASCII: it is a header, and a column.
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description="Send the same key again with the same request, and it takes effect only once.",
    ),
]

_KEPT_HEADERS = ("content-type", "location", "etag")


async def answer_once(
    request: Request,
    session: AsyncSession,
    principal: Principal,
    key: str,
    work: Callable[[], Awaitable[Response]],
) -> Response:
    """The answer of `work`, or the one that this request got before. `work` shares the session's transaction.

    Raises:
        ConflictError: the same key is being worked on.
        ValidationError: the key was used for another request.
    """
    fingerprint = idempotency.fingerprint(request.method.encode(), request.url.path.encode(), await request.body())
    record = await idempotency.recall(session, principal.subject, key, fingerprint)
    if record is not None:
        headers = {**record.headers, "Idempotency-Replayed": "true"}
        return Response(record.body, record.status, headers=headers)
    response = await work()
    await idempotency.remember(
        session,
        principal.subject,
        key,
        fingerprint,
        status=response.status_code,
        headers={name: response.headers[name] for name in _KEPT_HEADERS if name in response.headers},
        body=bytes(response.body),
    )
    return response
