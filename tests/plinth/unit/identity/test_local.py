"""Local development tokens: how they are signed, and where they are refused."""

from typing import Any

import jwt
import pytest

from notes.config import Settings
from plinth.identity import build_verifier, sign_local_token
from plinth.identity.errors import Reason, TokenError
from plinth.settings.keys import derive_key

SECRET = "one-secret-of-thirty-two-letters"
SETTINGS = Settings.isolated(SECRET_KEY=SECRET)


async def test_local_token_is_accepted_by_the_same_settings() -> None:
    token = sign_local_token(SETTINGS, subject="alice", ttl=60, scopes=["a", "b"], roles=["editor"])
    verifier = build_verifier(SETTINGS)
    principal = await verifier.verify(token)
    assert (principal.subject, principal.issuer) == ("alice", "plinth-local")
    assert principal.scopes == {"a", "b"}
    assert principal.roles == {"editor"}
    assert verifier.cached(token) is principal


def test_local_token_has_a_lifetime_and_a_unique_jti() -> None:
    tokens = [sign_local_token(SETTINGS, subject="alice", ttl=3600) for _ in range(2)]
    one, other = (jwt.decode(token, options={"verify_signature": False}) for token in tokens)
    assert one["exp"] - one["iat"] == 3600
    assert one["jti"] != other["jti"]


async def test_local_token_of_another_secret_is_refused() -> None:
    other = Settings.isolated(SECRET_KEY="another-secret-of-the-same-length")
    with pytest.raises(TokenError) as caught:
        await build_verifier(SETTINGS).verify(sign_local_token(other, subject="alice", ttl=60))
    assert caught.value.reason == Reason.BAD_SIGNATURE


async def test_first_secret_signs_and_all_verify() -> None:
    new = Settings.isolated(SECRET_KEY="another-secret-of-the-same-length")
    both = Settings.isolated(SECRET_KEY=f" another-secret-of-the-same-length , {SECRET}")
    for signing in (new, both, SETTINGS):
        token = sign_local_token(signing, subject="alice", ttl=60)
        assert (await build_verifier(both).verify(token)).subject == "alice"
    assert (await build_verifier(new).verify(sign_local_token(both, subject="alice", ttl=60))).subject == "alice"
    with pytest.raises(TokenError):
        await build_verifier(SETTINGS).verify(sign_local_token(both, subject="alice", ttl=60))


@pytest.mark.parametrize("key", [SECRET.encode(), derive_key(SECRET, "cursor")])
async def test_token_signed_with_the_raw_secret_or_another_derived_key_is_refused(key: bytes) -> None:
    good = sign_local_token(SETTINGS, subject="alice", ttl=60)
    claims = jwt.decode(good, options={"verify_signature": False})
    with pytest.raises(TokenError) as caught:
        await build_verifier(SETTINGS).verify(jwt.encode(claims, key, "HS256"))
    assert caught.value.reason == Reason.BAD_SIGNATURE


async def test_local_token_lives_no_longer_than_allowed() -> None:
    brief = Settings.isolated(SECRET_KEY=SECRET, TOKEN_MAX_LIFETIME=60)
    assert await build_verifier(brief).verify(sign_local_token(brief, subject="alice", ttl=60))
    with pytest.raises(ValueError, match="at most TOKEN_MAX_LIFETIME, 60 seconds"):
        sign_local_token(brief, subject="alice", ttl=61)
    with pytest.raises(TokenError) as caught:
        await build_verifier(brief).verify(sign_local_token(SETTINGS, subject="alice", ttl=61))
    assert caught.value.reason == Reason.LIVES_TOO_LONG


def test_local_token_is_not_signed_for_another_provider() -> None:
    settings = Settings.isolated(AUTH_PROVIDER="supabase", SUPABASE_URL="https://project.supabase.co")
    with pytest.raises(ValueError, match="only the local provider"):
        sign_local_token(settings, subject="alice", ttl=60)


@pytest.mark.parametrize(
    "asked",
    [{"subject": ""}, {"subject": "a\nb"}, {"subject": "x" * 256}, {"ttl": 0}, {"ttl": -1}],
)
def test_local_token_that_would_be_refused_is_not_signed(asked: dict[str, Any]) -> None:
    good: dict[str, Any] = {"subject": "alice", "ttl": 60}
    with pytest.raises(ValueError, match="expected a subject"):
        sign_local_token(SETTINGS, **(good | asked))
