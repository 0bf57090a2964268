"""The pool of connections to Redis."""

from contextlib import suppress
from typing import Any

from redis import exceptions
from redis.asyncio import BlockingConnectionPool

__all__ = ["LeavingPool"]


class LeavingPool(BlockingConnectionPool):
    """A pool that can leave its server: no command is sent on a connection that is open now.

    It is closed for good: redis-py's own would leave those open that were being opened meanwhile, and those that a
    command opens anew because it lost the one that it waited for.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._leaving: set[Any] = set()
        self._closed = False

    def leave(self) -> None:
        """Have each connection opened anew before it is used again."""
        self._leaving = {*self._available_connections, *self._in_use_connections}

    async def get_connection(self, *arguments: Any, **options: Any) -> Any:
        """Take a connection."""
        self._check_open()
        try:
            connection = await super().get_connection(*arguments, **options)  # type: ignore[no-untyped-call]
            if connection in self._leaving:
                self._leaving.remove(connection)
                await self._open_anew(connection)
        except exceptions.ConnectionError as error:
            if isinstance(error.__cause__, exceptions.ResponseError):  # redis-py before 6 would use it, in database 0
                self.leave()
            raise
        return connection

    async def release(self, connection: Any) -> None:
        """Give a connection back."""
        try:
            if self._closed:
                await connection.disconnect()
        finally:
            await super().release(connection)

    async def disconnect(self, inuse_connections: bool = True) -> None:
        """Close the connections, for good."""
        self._closed = True
        await super().disconnect(inuse_connections)

    def _check_open(self) -> None:
        if self._closed:
            raise exceptions.ConnectionError("the client is closed")

    async def _open_anew(self, connection: Any) -> None:
        try:
            with suppress(Exception):  # it is closed all the same
                await connection.disconnect()
            await connection.connect()
        except BaseException:
            await self.release(connection)
            raise
