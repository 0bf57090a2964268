"""The names of this service in Redis, which other services may use as well."""

from functools import lru_cache
from hashlib import blake2b

from sqlalchemy import make_url

from plinth.settings import PlatformSettings
from plinth.settings.keys import derive_keys

__all__ = ["key_prefix"]


def key_prefix(settings: PlatformSettings) -> str:
    """What the keys and channels of this service begin with: PROJECT_NAME, and 12 digits of its own.

    Services that leave PROJECT_NAME at its default, or environments of one service, may share a Redis. The digits
    come from ENVIRONMENT, the first SECRET_KEY and the name of the database. Not from its host or user: processes of
    one service may reach their database by different ways, such as a pooler, and must hear each other.
    """
    # Not remembered by the settings themselves: those with a list or a dictionary have no hash.
    return _prefix(
        settings.PROJECT_NAME,
        settings.ENVIRONMENT,
        derive_keys(settings.SECRET_KEY, "redis")[0],
        settings.async_database_url,
    )


@lru_cache(maxsize=8)
def _prefix(project: str, environment: str, key: bytes, database_url: str) -> str:
    own = f"{environment}\0{make_url(database_url).database or ''}".encode()
    digits = blake2b(own, key=key, digest_size=6)
    return f"{project}:{digits.hexdigest()}"
