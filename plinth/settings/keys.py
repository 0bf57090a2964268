"""Secrets that a setting holds several of, and the keys derived from SECRET_KEY, one for each purpose."""

import hmac

from pydantic import SecretStr

__all__ = ["derive_key", "derive_keys", "secrets_in"]


def secrets_in(value: SecretStr) -> tuple[str, ...]:
    """The secrets of a setting, separated by commas. The first one signs; all of them verify."""
    return tuple(part for secret in value.get_secret_value().split(",") if (part := secret.strip()))


def derive_keys(value: SecretStr, purpose: str) -> tuple[bytes, ...]:
    """Make a key for one purpose out of each of the application's secrets, in their order."""
    return tuple(derive_key(secret, purpose) for secret in secrets_in(value))


def derive_key(secret: str, purpose: str) -> bytes:
    """Make a 32-byte key for one purpose out of a secret of the application.

    What is signed for one purpose never passes for another.
    """
    return hmac.digest(secret.encode(), b"plinth:" + purpose.encode(), "sha256")
