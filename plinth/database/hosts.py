"""Connects to the first of several hosts that serves, with the time limit for each of them, as in libpq.

asyncpg's limit is for all hosts together: one that hangs leaves no time for the next.
"""

from typing import Any

import asyncpg

__all__ = ["connect"]

# What the next host may do better. A wrong password, or a database that is not there, it would refuse as well.
_NEXT = (OSError, TimeoutError, asyncpg.CannotConnectNowError, asyncpg.TargetServerAttributeNotMatched)


async def connect(
    *, host: str | list[str] | None = None, port: int | list[int] | None = None, **options: Any
) -> asyncpg.Connection:
    """Connect as `asyncpg.connect` does; SQLAlchemy's `async_creator_fn`.

    Raises:
        OSError, TimeoutError, asyncpg.PostgresError: the error of the last host that was tried.
    """
    if not isinstance(host, list) or not isinstance(port, list):
        return await asyncpg.connect(host=host, port=port, **options)
    wanted = options.pop("target_session_attrs", "any")
    attributes: tuple[Any, ...] = ("standby", "any") if wanted == "prefer-standby" else (wanted,)
    failure: BaseException | None = None
    for attribute in attributes:
        for one_host, one_port in zip(host, port, strict=True):
            try:
                return await asyncpg.connect(host=one_host, port=one_port, target_session_attrs=attribute, **options)
            except _NEXT as error:
                failure = error
    assert failure is not None  # there is a host
    raise failure
