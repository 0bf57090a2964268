"""Connections to the primary that Redis Sentinels name."""

import asyncio
from collections.abc import Awaitable, Callable
from copy import copy
from typing import Any

from redis.asyncio import Connection, SSLConnection
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff

from plinth.redis.pool import LeavingPool
from plinth.settings.sentinel import SentinelURL

__all__ = ["SentinelPool"]


class _PrimaryConnection(Connection):
    """A connection that asks for the address whenever it is opened.

    redis-py's own asks in `connect` alone, and would send a command on a closed connection to where it was before. It
    also hides that a server has become a replica, of which the pool makes use.
    """

    def __init__(self, *, find: Callable[[], Awaitable[tuple[str, int]]], **options: Any) -> None:
        super().__init__(**options)
        self._find = find

    async def _connect(self) -> None:
        self.host, self.port = await self._find()
        await super()._connect()  # type: ignore[no-untyped-call]


class _SecurePrimaryConnection(_PrimaryConnection, SSLConnection):
    pass


class SentinelPool(LeavingPool):
    """A pool whose connections are opened to the primary of the moment, under a URL's own options and `options`."""

    def __init__(self, address: SentinelURL, **options: Any) -> None:
        server: dict[str, Any] = dict(parse_url(address.server))
        del server["host"]
        secure = server.pop("connection_class", None) is SSLConnection
        shared = {name: value for name, value in (server | options).items() if name.startswith(("socket_", "ssl_"))}
        credentials = {"username": address.username, "password": address.password}
        # No retries: the next Sentinel is asked instead, and redis-py's own wait for seconds.
        retry = Retry(NoBackoff(), 0)
        self._sentinel = Sentinel(  # type: ignore[no-untyped-call]
            list(address.sentinels), sentinel_kwargs={**shared, **credentials, "ssl": secure, "retry": retry}
        )
        self._service = address.service
        connection_class = _SecurePrimaryConnection if secure else _PrimaryConnection
        super().__init__(connection_class=connection_class, find=self._primary, **server, **options)

    async def _primary(self) -> tuple[str, int]:
        # redis-py moves the Sentinel that has answered to the front by its index in a list that other tasks reorder
        # meanwhile: of three, which 20 tasks asked at once while one was away, one was lost from the list for good.
        asking = copy(self._sentinel)
        asking.sentinels = [*self._sentinel.sentinels]
        try:
            host, port = await asking.discover_master(self._service)
        finally:
            if self._closed:  # and so were connections to Sentinels, after which redis-py has asked the next ones
                await self._leave_sentinels()
        self._sentinel.sentinels.sort(key=lambda sentinel: sentinel is not asking.sentinels[0])
        return str(host), int(port)

    async def disconnect(self, inuse_connections: bool = True) -> None:
        """Close the connections, those to the Sentinels too."""
        await super().disconnect(inuse_connections)
        await self._leave_sentinels()

    async def _leave_sentinels(self) -> None:
        await asyncio.gather(*(sentinel.aclose() for sentinel in self._sentinel.sentinels))
