"""The provider for development: the service signs its own tokens. Deployed environments refuse it."""

import time
from collections.abc import Iterable
from uuid import uuid4

import jwt

from plinth.identity.rules import TokenRules, is_subject
from plinth.settings import AuthProvider, PlatformSettings
from plinth.settings.keys import derive_keys

__all__ = ["sign_local_token", "signing_keys", "token_rules"]

_ALGORITHM = "HS256"
_AUDIENCE = "plinth"


def token_rules(_settings: PlatformSettings, issuer: str) -> TokenRules:
    """The rules for tokens that `sign_local_token` makes."""
    return TokenRules(issuer=issuer, audiences=frozenset({_AUDIENCE}))


def signing_keys(settings: PlatformSettings) -> tuple[bytes, ...]:
    """The keys of local tokens, derived from SECRET_KEY. The first one signs."""
    return derive_keys(settings.SECRET_KEY, "local-tokens")


def sign_local_token(
    settings: PlatformSettings,
    *,
    subject: str,
    ttl: int,
    scopes: Iterable[str] = (),
    roles: Iterable[str] = (),
) -> str:
    """Sign a token that the `local` provider accepts for `ttl` seconds.

    Raises ValueError when another provider is configured, or for a subject or lifetime that no token may have.
    """
    if settings.AUTH_PROVIDER is not AuthProvider.LOCAL:
        raise ValueError(f"AUTH_PROVIDER is {settings.AUTH_PROVIDER}: only the local provider signs tokens")
    if not is_subject(subject) or ttl <= 0:
        raise ValueError("expected a subject of 1 to 255 printable characters and a lifetime above 0")
    if settings.TOKEN_MAX_LIFETIME is not None and ttl > settings.TOKEN_MAX_LIFETIME:
        raise ValueError(f"expected a lifetime of at most TOKEN_MAX_LIFETIME, {settings.TOKEN_MAX_LIFETIME} seconds")
    now = int(time.time())
    claims = {
        "iss": settings.issuers[0],
        "aud": _AUDIENCE,
        "sub": subject,
        "iat": now,
        "exp": now + ttl,
        "jti": str(uuid4()),
        "scope": " ".join(scopes),
        "roles": sorted(roles),
    }
    return jwt.encode(claims, signing_keys(settings)[0], _ALGORITHM, headers={"typ": "at+jwt"})
