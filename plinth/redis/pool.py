"""The pool of connections to Redis."""

from contextlib import suppress
from typing import Any

from redis import exceptions
from redis.asyncio import BlockingConnectionPool

__all__ = ["LeavingPool"]


class LeavingPool(BlockingConnectionPool):
    """A pool that can leave its server: no command is sent on a connection that is open now.

    Once it is closed, each connection is closed as it comes back. redis-py's own pool leaves open what was being opened
    while it was closed, and what a command opens anew after it has lost its connection.
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
        """Give a connection back, which is closed if the pool is."""
        try:
            if self._closed:
                await connection.disconnect()
        finally:
            await super().release(connection)

    async def disconnect(self, inuse_connections: bool = True) -> None:
        """Close the pool and its idle connections; with `inuse_connections` also those in use."""
        self._closed = True
        await super().disconnect(inuse_connections)

    async def _open_anew(self, connection: Any) -> None:
        try:
            with suppress(Exception):  # it is closed all the same
                await connection.disconnect()
            await connection.connect()
        except BaseException:
            await self.release(connection)
            raise
