"""The `Idempotency-Key` header, for endpoints that create something."""

from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Header, Request, Response
from sqlmodel.ext.asyncio.session import AsyncSession

from plinth.http import idempotency_store as store
from plinth.identity.principal import Principal

__all__ = ["IdempotencyKey", "answer_once"]

# Visible ASCII: the key is a header and a column.
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description="A request that is sent again with the same key takes effect only once.",
    ),
]

_KEPT_HEADERS = ("content-type", "location", "etag")


async def answer_once(
    request: Request,
    session: AsyncSession,
    principal: Principal,
    key: str | None,
    work: Callable[[], Awaitable[Response]],
) -> Response:
    """Return the response of `work`, or the stored one if this request was answered before.

    `work` must use the session's transaction. Without a key it always runs.

    Raises:
        ConflictError: another request with this key is in progress.
        ValidationError: the key was used for another request.
    """
    if key is None:
        return await work()
    fingerprint = store.fingerprint(request.method.encode(), request.url.path.encode(), await request.body())
    record = await store.recall(session, principal.subject, key, fingerprint)
    if record is not None:
        headers = {**record.headers, "Idempotency-Replayed": "true"}
        return Response(record.body, record.status, headers=headers)
    response = await work()
    record = store.IdempotencyRecord(
        principal=principal.subject,
        key=key,
        fingerprint=fingerprint,
        status=response.status_code,
        headers={name: response.headers[name] for name in _KEPT_HEADERS if name in response.headers},
        body=bytes(response.body),
    )
    await store.remember(session, record)
    return response
