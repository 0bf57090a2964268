"""The provider for development: this service signs its own tokens. Deployed environments refuse it."""

import time
from collections.abc import Iterable
from datetime import timedelta
from uuid import uuid4

import jwt

from plinth.identity.rules import is_subject
from plinth.settings import AuthProvider, PlatformSettings
from plinth.settings.keys import derive_key

LOCAL_ALGORITHM = "HS256"
LOCAL_AUDIENCE = "plinth"


def signing_key(settings: PlatformSettings) -> bytes:
    return derive_key(settings.SECRET_KEY.get_secret_value(), "local-tokens")


def sign_local_token(
    settings: PlatformSettings,
    *,
    subject: str,
    ttl: timedelta | int,
    scopes: Iterable[str] = (),
    roles: Iterable[str] = (),
) -> str:
    """Sign a token that the `local` provider accepts until `ttl` (a number means seconds) has passed.

    Raises ValueError when another provider is configured, or for a subject that no token may have.
    """
    lifetime = int(ttl.total_seconds()) if isinstance(ttl, timedelta) else ttl
    if settings.AUTH_PROVIDER is not AuthProvider.LOCAL:
        raise ValueError(f"AUTH_PROVIDER is {settings.AUTH_PROVIDER}: only the local provider signs tokens")
    if not is_subject(subject) or lifetime <= 0:
        raise ValueError("expected a subject of 1 to 255 printable characters and a lifetime above 0")
    now = int(time.time())
    claims = {
        "iss": settings.issuer,
        "aud": LOCAL_AUDIENCE,
        "sub": subject,
        "iat": now,
        "exp": now + lifetime,
        "jti": str(uuid4()),
        "scope": " ".join(scopes),
        "roles": sorted(roles),
    }
    return jwt.encode(claims, signing_key(settings), LOCAL_ALGORITHM, headers={"typ": "at+jwt"})
