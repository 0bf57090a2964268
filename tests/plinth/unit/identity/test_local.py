"""Development tokens: signed here, accepted here, and nowhere that others can reach."""

from datetime import timedelta
from typing import Any

import jwt
import pytest

from notes.config import Settings
from plinth.identity import build_verifier, sign_local_token
from plinth.identity.rules import Reason, TokenError
from plinth.settings.keys import derive_key

SECRET = "one-secret-of-thirty-two-letters"
SETTINGS = Settings.isolated(SECRET_KEY=SECRET)


async def test_is_accepted_by_the_one_who_signed() -> None:
    token = sign_local_token(SETTINGS, subject="alice", ttl=60, scopes=["a", "b"], roles=["editor"])
    verifier = build_verifier(SETTINGS)
    principal = await verifier.verify(token)
    assert (principal.subject, principal.issuer) == ("alice", "plinth-local")
    assert principal.scopes == {"a", "b"}
    assert principal.roles == {"editor"}
    assert verifier.cached(token) is principal


@pytest.mark.parametrize("ttl", [3600, timedelta(hours=1)])
def test_claims(ttl: timedelta | int) -> None:
    token = sign_local_token(SETTINGS, subject="alice", ttl=ttl)
    claims = jwt.decode(token, options={"verify_signature": False})
    assert claims["exp"] - claims["iat"] == 3600
    assert (
        claims["jti"]
        != jwt.decode(sign_local_token(SETTINGS, subject="alice", ttl=ttl), options={"verify_signature": False})["jti"]
    )


async def test_of_another_secret() -> None:
    other = Settings.isolated(SECRET_KEY="another-secret-of-the-same-length")
    with pytest.raises(TokenError) as caught:
        await build_verifier(SETTINGS).verify(sign_local_token(other, subject="alice", ttl=60))
    assert caught.value.reason == Reason.BAD_SIGNATURE


@pytest.mark.parametrize("key", [SECRET.encode(), derive_key(SECRET, "cursor")])
async def test_signed_with_the_secret_itself_or_with_a_key_for_another_purpose(key: bytes) -> None:
    good = sign_local_token(SETTINGS, subject="alice", ttl=60)
    claims = jwt.decode(good, options={"verify_signature": False})
    with pytest.raises(TokenError) as caught:
        await build_verifier(SETTINGS).verify(jwt.encode(claims, key, "HS256"))
    assert caught.value.reason == Reason.BAD_SIGNATURE


def test_is_not_signed_for_another_provider() -> None:
    settings = Settings.isolated(AUTH_PROVIDER="supabase", SUPABASE_URL="https://project.supabase.co")
    with pytest.raises(ValueError, match="only the local provider"):
        sign_local_token(settings, subject="alice", ttl=60)


@pytest.mark.parametrize(
    "asked",
    [{"subject": ""}, {"subject": "a\nb"}, {"subject": "x" * 256}, {"ttl": 0}, {"ttl": timedelta(-1)}],
)
def test_is_not_signed_when_it_would_not_be_accepted(asked: dict[str, Any]) -> None:
    good: dict[str, Any] = {"subject": "alice", "ttl": 60}
    with pytest.raises(ValueError, match="expected a subject"):
        sign_local_token(SETTINGS, **(good | asked))
