"""The names of this service in Redis, which other services may use as well."""

from functools import lru_cache
from hashlib import blake2b

from sqlalchemy import make_url

from plinth.settings import PlatformSettings
from plinth.settings.keys import derive_key

__all__ = ["key_prefix"]


@lru_cache(maxsize=8)
def key_prefix(settings: PlatformSettings) -> str:
    """What the keys and channels of this service begin with: PROJECT_NAME, and 12 digits of its own.

    Services that leave PROJECT_NAME at its default, or environments of one service, may share a Redis. The digits
    come from ENVIRONMENT, SECRET_KEY and the name of the database. Not from its host or user: processes of one
    service may reach their database by different ways, such as a pooler, and must hear each other.
    """
    database = make_url(settings.async_database_url).database or ""
    own = f"{settings.ENVIRONMENT}\0{database}".encode()
    key = derive_key(settings.SECRET_KEY.get_secret_value(), "redis")
    return f"{settings.PROJECT_NAME}:{blake2b(own, key=key, digest_size=6).hexdigest()}"
