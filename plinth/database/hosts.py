"""Connects to the first of several hosts that serves, with the time limit for each of them, as in libpq.

asyncpg's limit is for all hosts together: one that hangs leaves no time for the next.
"""

import random
import socket
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import asyncpg

__all__ = ["connect"]

# What the next host may do better. A wrong password, or a database that is not there, it would refuse as well.
_NEXT = (OSError, TimeoutError, asyncpg.CannotConnectNowError, asyncpg.TargetServerAttributeNotMatched)
# libpq's parameters, with the options of a TCP socket that they set. macOS has another name for the first.
_TCP_OPTIONS = {
    "keepalives_idle": getattr(socket, "TCP_KEEPIDLE", None) or getattr(socket, "TCP_KEEPALIVE", None),
    "keepalives_interval": getattr(socket, "TCP_KEEPINTVL", None),
    "keepalives_count": getattr(socket, "TCP_KEEPCNT", None),
    "tcp_user_timeout": getattr(socket, "TCP_USER_TIMEOUT", None),
}
_DEFAULT: Mapping[str, int] = MappingProxyType({})


async def connect(
    *,
    host: str | list[str] | None = None,
    port: int | list[int] | None = None,
    shuffle: bool = False,
    keepalive: Mapping[str, int] = _DEFAULT,
    **options: Any,
) -> asyncpg.Connection:
    """Connect as `asyncpg.connect` does; SQLAlchemy's `async_creator_fn`.

    With `shuffle` several hosts are tried in any order. `keepalive` has libpq's `keepalives`, which is on unless it is
    0, and the parameters beside it.

    Raises:
        OSError, TimeoutError, asyncpg.PostgresError: the error of the last host that was tried.
    """
    if isinstance(host, list) and isinstance(port, list):
        hosts = list(zip(host, port, strict=True))
        if shuffle:
            random.shuffle(hosts)
        connection = await _first(hosts, options)
    else:
        connection = await asyncpg.connect(host=host, port=port, **options)
    if keepalive.get("keepalives", 1) != 0:
        _keep_alive(connection, keepalive)
    return connection


async def _first(hosts: list[tuple[str, int]], options: dict[str, Any]) -> asyncpg.Connection:
    wanted = options.pop("target_session_attrs", "any")
    attributes: tuple[Any, ...] = ("standby", "any") if wanted == "prefer-standby" else (wanted,)
    failure: BaseException | None = None
    for attribute in attributes:
        for one_host, one_port in hosts:
            try:
                return await asyncpg.connect(host=one_host, port=one_port, target_session_attrs=attribute, **options)
            except _NEXT as error:
                failure = error
    assert failure is not None  # there is a host
    raise failure


def _keep_alive(connection: asyncpg.Connection, wanted: Mapping[str, int]) -> None:
    """Have the system ask a peer that says nothing whether it is there, as libpq does."""
    found = connection._transport.get_extra_info("socket")  # type: ignore[attr-defined]
    if found.family == socket.AF_UNIX:
        return
    found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, option in _TCP_OPTIONS.items():
        if option is not None and wanted.get(name, 0) > 0:  # 0 is the system's own
            found.setsockopt(socket.IPPROTO_TCP, option, wanted[name])
