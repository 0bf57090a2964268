"""API keys: bearer tokens for machines, made and revoked by `plinth keys`.

A key is `plk_<id>_<secret>`, so that scanners find it where it should not be. The database has a digest of the secret.
"""

import hashlib
import re
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import JSON, LargeBinary, String, func, insert, update
from sqlalchemy.dialects.postgresql import ARRAY
from sqlmodel import Field, col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from plinth.audit import Actor, record
from plinth.database.tables import PlatformTable, UtcDateTime
from plinth.database.uuid7 import uuid7
from plinth.errors import NotFoundError

__all__ = ["PREFIX", "ApiKey", "NewKey", "create_key", "list_keys", "read_key", "revoke_key"]

PREFIX = "plk_"
SECRET_BYTES = 24
MAX_LIFE = timedelta(days=3650)
MAX_LENGTH = 100  # of a name and of a scope
MAX_SCOPES = 50

_KEY = re.compile(rf"{PREFIX}([0-9a-f]{{32}})_([0-9a-f]{{{2 * SECRET_BYTES}}})")
_SCOPE = re.compile(rf"[\x21\x23-\x5b\x5d-\x7e]{{1,{MAX_LENGTH}}}")  # RFC 6749, 3.3


class ApiKey(PlatformTable, table=True):
    """An API key without its secret. A revoked one stays: the audit log names it."""

    __tablename__ = "api_key"

    id: UUID = Field(default=None, primary_key=True, sa_column_kwargs={"server_default": uuid7()})
    name: str = Field(sa_type=String(MAX_LENGTH))
    digest: bytes = Field(sa_type=LargeBinary)
    scopes: list[str] = Field(sa_type=ARRAY(String(MAX_LENGTH)).with_variant(JSON(), "sqlite"))
    created_at: datetime = Field(
        default=None, nullable=False, sa_type=UtcDateTime, sa_column_kwargs={"server_default": func.now()}
    )
    # The subject of the actor in the audit log.
    created_by: str = Field(sa_type=String(255))
    expires_at: datetime = Field(sa_type=UtcDateTime)
    # Written at most once a minute.
    last_used_at: datetime | None = Field(default=None, nullable=True, sa_type=UtcDateTime)
    revoked_at: datetime | None = Field(default=None, nullable=True, sa_type=UtcDateTime)


class KeyParts(NamedTuple):
    """What a key says: its id, and the digest of its secret."""

    id: UUID
    digest: bytes


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was just made: the one time that it is known."""

    id: UUID
    name: str
    scopes: list[str]
    expires_at: datetime
    key: str = field(repr=False)


def read_key(key: str) -> KeyParts | None:
    """Take a key apart; None if it does not have the form of one."""
    found = _KEY.fullmatch(key)
    return KeyParts(UUID(hex=found[1]), _digest(found[2])) if found else None


def _digest(secret: str) -> bytes:
    # The secret has 192 random bits: a slow hash would add nothing.
    return hashlib.sha256(secret.encode()).digest()


async def create_key(
    session: AsyncSession, name: str, *, scopes: Iterable[str], expires_in: timedelta, by: Actor
) -> NewKey:
    """Make a key.

    Raises:
        ValueError: the name, a scope or the lifetime is not acceptable.
    """
    given = sorted(set(scopes))
    if not (0 < len(name) <= MAX_LENGTH and name.isprintable()):
        raise ValueError(f"a key's name has 1 to {MAX_LENGTH} printable characters")
    if len(given) > MAX_SCOPES or not all(map(_SCOPE.fullmatch, given)):
        raise ValueError(
            f"a key has at most {MAX_SCOPES} scopes, of 1 to {MAX_LENGTH} visible ASCII characters without quotes and "
            "backslashes"
        )
    if not timedelta(0) < expires_in <= MAX_LIFE:
        raise ValueError(f"a key expires within {MAX_LIFE.days} days, and not at once")
    secret = secrets.token_hex(SECRET_BYTES)
    values = {"name": name, "digest": _digest(secret), "scopes": given, "created_by": by.subject}
    made = insert(ApiKey).values(**values, expires_at=func.now() + expires_in)
    row = (await session.exec(made.returning(col(ApiKey.id), col(ApiKey.expires_at)))).one()
    new = NewKey(row.id, name, given, row.expires_at, f"{PREFIX}{row.id.hex}_{secret}")
    await record(
        session, by, "key.create", f"key:{new.id}", name=name, scopes=given, expires_at=new.expires_at.isoformat()
    )
    return new


async def list_keys(session: AsyncSession) -> Sequence[ApiKey]:
    """List all keys, the newest first."""
    return (await session.exec(select(ApiKey).order_by(col(ApiKey.id).desc()))).all()


async def revoke_key(session: AsyncSession, key_id: UUID, *, by: Actor) -> None:
    """Revoke a key. A second time changes nothing.

    Raises:
        NotFoundError: there is no such key.
    """
    found = await session.get(ApiKey, key_id, with_for_update=True)
    if found is None:
        raise NotFoundError("There is no such key.")
    if found.revoked_at is not None:
        return
    await session.exec(update(ApiKey).where(col(ApiKey.id) == key_id).values(revoked_at=func.now()))
    await record(session, by, "key.revoke", f"key:{key_id}", name=found.name)
