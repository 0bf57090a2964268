"""The caller of a WebSocket whose token is its first message."""

import asyncio

from fastapi import WebSocket

from plinth.api.dependencies import bearer
from plinth.errors import UnauthorizedError
from plinth.identity.principal import Principal

__all__ = ["principal_of_first_message"]

FIRST_MESSAGE_SECONDS = 10.0


async def principal_of_first_message(websocket: WebSocket) -> Principal:
    """The caller of a WebSocket that is accepted, by its first message: the token.

    Raises:
        UnauthorizedError: the first message is no text or does not come within 10 seconds; else as `PrincipalDep` does.
    """
    try:
        async with asyncio.timeout(FIRST_MESSAGE_SECONDS):
            message = await websocket.receive()
    except TimeoutError:
        raise UnauthorizedError("The first message has to be a token.") from None
    return await bearer.verify(websocket, message.get("text") or "")
