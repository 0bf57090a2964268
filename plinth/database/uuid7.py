"""Time-ordered ids (UUID version 7, RFC 9562), made by the database.

PostgreSQL 18 has `uuidv7()`, 15 to 17 do not: a SQL function of our own serves all of them alike. The 12 bits
after the version carry the fraction of the millisecond, so ids made in one millisecond keep their order.
"""

import os
import time
import uuid
from datetime import datetime
from typing import Any

from sqlalchemy import DDL, Uuid, event
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import GenericFunction
from sqlmodel import SQLModel

from plinth.database.tables import PlatformTable

CREATE_UUID7 = """
CREATE OR REPLACE FUNCTION uuid7() RETURNS uuid LANGUAGE sql VOLATILE PARALLEL SAFE AS $$
    SELECT encode(
        substring(int8send(us / 1000) FROM 3)
            || int2send((28672 + us % 1000 * 4096 / 1000)::int2)
            || set_byte(r, 0, (get_byte(r, 0) & 63) | 128),
        'hex')::uuid
    FROM (
        SELECT (date_part('epoch', clock_timestamp()) * 1000000)::bigint AS us,
            substring(uuid_send(gen_random_uuid()) FROM 9) AS r
    ) AS parts
$$
"""

_CREATE = DDL(CREATE_UUID7.replace("%", "%%"))  # type: ignore[no-untyped-call]
for _metadata in (PlatformTable.metadata, SQLModel.metadata):
    event.listen(_metadata, "before_create", _CREATE.execute_if(dialect="postgresql"))


class uuid7(GenericFunction[uuid.UUID]):  # noqa: N801 - it is the SQL function's name
    """`uuid7()` in SQL; a server default in both PostgreSQL and SQLite."""

    type = Uuid()
    inherit_cache = True


@compiles(uuid7, "sqlite")
def _sqlite_uuid7(element: uuid7, compiler: Any, **kwargs: Any) -> str:
    return "(uuid7())"


def python_uuid7() -> uuid.UUID:
    """The same id made here, for SQLite, which asks for it through a function of the connection."""
    microseconds = time.time_ns() // 1000
    millisecond, rest = divmod(microseconds, 1000)
    random = int.from_bytes(os.urandom(8)) & (1 << 62) - 1
    return uuid.UUID(int=millisecond << 80 | 7 << 76 | int(rest * 4.096) << 64 | 0b10 << 62 | random)


def first_uuid7(at: datetime) -> uuid.UUID:
    """The smallest id that is made at a time: ids from it on were made then or later."""
    return uuid.UUID(int=max(0, int(at.timestamp() * 1000)) << 80)
