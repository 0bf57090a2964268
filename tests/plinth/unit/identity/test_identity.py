"""Verifiers built from settings, against a provider over HTTP and its attackers."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from notes.config import Settings
from plinth.identity import build_verifier, jwks
from plinth.identity.errors import KeysUnavailable, Reason, TokenError
from plinth.identity.verifier import TokenVerifier
from tests.support.identity_provider import DISCOVERY_PATH, JWKS_PATH, IdentityProvider, SigningKey, compact, hs256
from tests.support.notes import PACKAGES

MINE = SigningKey.make("mine")


class SupabaseProject(IdentityProvider):
    """Keys and issuer live below /auth/v1."""

    @property
    def issuer(self) -> str:
        return f"{self.url}/auth/v1"

    def document(self, path: str) -> object | None:
        return super().document(JWKS_PATH) if path == "/auth/v1/.well-known/jwks.json" else None


class ClerkInstance(IdentityProvider):
    def document(self, path: str) -> object | None:
        return super().document(JWKS_PATH) if path == "/.well-known/jwks.json" else None


@pytest.fixture
def provider() -> Iterator[IdentityProvider]:
    with IdentityProvider() as provider:
        yield provider


@pytest.fixture
def attacker() -> Iterator[IdentityProvider]:
    with IdentityProvider(MINE) as attacker:
        yield attacker


def oidc(provider: IdentityProvider, **settings: Any) -> TokenVerifier:
    return build_verifier(
        Settings.isolated(AUTH_PROVIDER="custom", OIDC_ISSUER=provider.issuer, OIDC_AUDIENCE="plinth", **settings)
    )


@pytest.fixture
async def verifier(provider: IdentityProvider) -> AsyncIterator[TokenVerifier]:
    verifier = oidc(provider)
    yield verifier
    await verifier.aclose()


async def refusal(verifier: TokenVerifier, token: str) -> Reason:
    with pytest.raises(TokenError) as caught:
        await verifier.verify(token)
    return caught.value.reason


async def test_token_of_an_issuer_found_by_discovery_is_verified(
    verifier: TokenVerifier, provider: IdentityProvider
) -> None:
    token = provider.token()
    principal = await verifier.verify(token)
    assert (principal.subject, principal.issuer) == ("alice", provider.issuer)
    assert verifier.cached(token) is principal
    assert provider.fetched == {DISCOVERY_PATH: 1, JWKS_PATH: 1}


async def test_token_is_verified_with_keys_from_a_configured_jwks_url(provider: IdentityProvider) -> None:
    verifier = oidc(provider, OIDC_JWKS_URL=provider.jwks_url, OIDC_ALGORITHMS=["ES256"])
    provider.keys = [SigningKey.make("key-1", "ES256")]
    assert await verifier.verify(provider.token())
    assert provider.fetched == {JWKS_PATH: 1}
    await verifier.aclose()


def supabase(project: IdentityProvider, **settings: Any) -> TokenVerifier:
    return build_verifier(Settings.isolated(AUTH_PROVIDER="supabase", SUPABASE_URL=project.url, **settings))


@pytest.mark.parametrize("alg", ["ES256", "RS256", "EdDSA"])
async def test_supabase_token_is_accepted_for_authenticated_users_only(alg: str) -> None:
    with SupabaseProject(SigningKey.make("key-1", alg)) as project:
        verifier = supabase(project)
        assert await verifier.verify(project.token(aud="authenticated", role="authenticated"))
        for role in ("anon", "service_role"):
            assert await refusal(verifier, project.token(aud="authenticated", role=role)) == Reason.WRONG_ROLE
        shared = compact({"alg": "HS256"}, project.claims(aud="authenticated"), hs256(b"s" * 40))
        assert await refusal(verifier, shared) == Reason.WRONG_ALGORITHM
        await verifier.aclose()


async def test_supabase_project_may_publish_keys_of_several_types() -> None:
    keys = [SigningKey.make(f"key-{alg}", alg) for alg in ("ES256", "RS256", "EdDSA")]
    with SupabaseProject(*keys) as project:
        verifier = supabase(project)
        for key in keys:
            assert await verifier.verify(project.token(key, aud="authenticated", role="authenticated"))
        for alg in ("ES384", "PS256", "RS512"):
            other = project.token(SigningKey.make("key-RS256", alg), aud="authenticated", role="authenticated")
            assert await refusal(verifier, other) == Reason.WRONG_ALGORITHM
        assert project.fetched == {"/auth/v1/.well-known/jwks.json": 1}
        await verifier.aclose()


async def test_supabase_project_that_rotates_has_a_shared_secret_beside_its_keys() -> None:
    key = SigningKey.make("key-1", "ES256")
    with SupabaseProject(key) as project:
        verifier = supabase(project, SUPABASE_JWT_SECRET="s" * 40)
        claims = project.claims(aud="authenticated", role="authenticated")
        assert await verifier.verify(jwt.encode(claims, "s" * 40, headers={"kid": "any"}))
        assert project.fetched == {}  # the secret needs no key of the project
        assert await verifier.verify(project.token(aud="authenticated", role="authenticated"))
        for role in ("anon", "service_role"):
            token = jwt.encode(claims | {"role": role}, "s" * 40)
            assert await refusal(verifier, token) == Reason.WRONG_ROLE
        assert await refusal(verifier, jwt.encode(claims, "t" * 40)) == Reason.BAD_SIGNATURE
        for encoding in (Encoding.PEM, Encoding.DER):
            forged = compact({"alg": "HS256", "kid": "key-1"}, claims, hs256(key.public_bytes(encoding)))
            assert await refusal(verifier, forged) == Reason.BAD_SIGNATURE
        await verifier.aclose()


async def test_supabase_project_before_its_rotation_publishes_no_key() -> None:
    with SupabaseProject() as project:
        project.keys = []
        verifier = supabase(project, SUPABASE_JWT_SECRET="s" * 40)
        claims = project.claims(aud="authenticated", role="authenticated")
        assert await verifier.verify(jwt.encode(claims, "s" * 40))
        forged = project.token(SigningKey.make("key-1", "ES256"), aud="authenticated", role="authenticated")
        assert await refusal(verifier, forged) == Reason.UNKNOWN_KID
        await verifier.aclose()


async def test_supabase_tokens_of_several_shared_secrets_are_verified() -> None:
    secrets = f"{'s' * 40},{'t' * 40}"
    with SupabaseProject(SigningKey.make("key-1", "ES256")) as project:
        verifier = build_verifier(
            Settings.isolated(AUTH_PROVIDER="supabase", SUPABASE_URL=project.url, SUPABASE_JWT_SECRET=secrets)
        )
        claims = project.claims(aud="authenticated", role="authenticated")
        for secret in ("s" * 40, "t" * 40):
            assert await verifier.verify(jwt.encode(claims, secret))
        for secret in ("u" * 40, secrets):
            assert await refusal(verifier, jwt.encode(claims, secret)) == Reason.BAD_SIGNATURE
        await verifier.aclose()


async def test_clerk_token_is_accepted_for_authorized_parties_only() -> None:
    with ClerkInstance() as instance:
        verifier = build_verifier(
            Settings.isolated(
                AUTH_PROVIDER="clerk",
                CLERK_ISSUER=instance.url,
                CLERK_AUTHORIZED_PARTIES=["https://app.example.com"],
            )
        )
        assert await verifier.verify(instance.token(aud=..., azp="https://app.example.com"))
        evil = instance.token(aud=..., azp="https://evil.example.com")
        assert await refusal(verifier, evil) == Reason.WRONG_PARTY
        await verifier.aclose()


async def test_several_issuers_are_verified_each_with_keys_of_its_own() -> None:
    # Both publish a key of the same name.
    with (
        IdentityProvider(SigningKey.make("key-1")) as one,
        IdentityProvider(SigningKey("key-1", "RS256", MINE.private)) as other,
    ):
        verifier = build_verifier(
            Settings.isolated(
                AUTH_PROVIDER="custom", OIDC_ISSUER=f"{one.issuer},{other.issuer}", OIDC_AUDIENCE="plinth,second"
            )
        )
        assert (await verifier.verify(one.token())).issuer == one.issuer
        assert one.fetched
        assert not other.fetched  # the keys of an issuer are fetched for its own tokens
        assert (await verifier.verify(other.token(aud="second"))).issuer == other.issuer
        for forged in (one.token(iss=other.issuer), other.token(iss=one.issuer)):
            assert await refusal(verifier, forged) == Reason.BAD_SIGNATURE
        other.down()
        assert await verifier.verify(one.token(sub="bob"))
        await verifier.aclose()


async def test_several_issuers_may_have_a_jwks_url_each(provider: IdentityProvider, attacker: IdentityProvider) -> None:
    settings = {
        "OIDC_ISSUER": "https://one.test,https://two.test",
        "OIDC_JWKS_URL": f"{provider.jwks_url},{attacker.jwks_url}",
    }
    verifier = build_verifier(Settings.isolated(AUTH_PROVIDER="custom", OIDC_AUDIENCE="plinth", **settings))
    assert await verifier.verify(provider.token(iss="https://one.test"))
    assert await verifier.verify(attacker.token(iss="https://two.test"))
    assert await refusal(verifier, attacker.token(iss="https://one.test")) == Reason.UNKNOWN_KID
    await verifier.aclose()


async def test_optional_rules_are_set_by_settings(provider: IdentityProvider) -> None:
    verifier = oidc(provider, OIDC_REQUIRE_AT_JWT=True, TOKEN_MAX_LIFETIME=600)
    assert await verifier.verify(provider.token(header={"typ": "at+jwt"}))
    assert await refusal(verifier, provider.token()) == Reason.WRONG_TYPE
    late = provider.claims()["exp"] + 600
    assert await refusal(verifier, provider.token(header={"typ": "at+jwt"}, exp=late)) == Reason.LIVES_TOO_LONG
    await verifier.aclose()


@pytest.mark.parametrize("kid", ["mine", "key-1", ...])
async def test_token_header_that_points_to_the_attackers_keys_is_not_followed(
    verifier: TokenVerifier, provider: IdentityProvider, attacker: IdentityProvider, kid: object
) -> None:
    forged = attacker.token(
        iss=provider.issuer,
        header={
            "kid": kid,
            "jku": attacker.jwks_url,
            "x5u": attacker.url + "/certificate.pem",
            "jwk": MINE.jwk(),
            "x5c": ["MIIB"],
        },
    )
    assert await refusal(verifier, forged) in (Reason.UNKNOWN_KID, Reason.BAD_SIGNATURE)
    assert attacker.fetched == {}


async def test_thousand_unknown_kids_fetch_the_keys_once(
    verifier: TokenVerifier, provider: IdentityProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jwks, "COOLDOWN", 3600.0)  # however long the test takes
    tokens = [provider.token(header={"kid": f"unknown-{number}"}) for number in range(500)]
    for token in tokens:
        assert await refusal(verifier, token) == Reason.UNKNOWN_KID
    verdicts = await asyncio.gather(*map(verifier.verify, tokens), return_exceptions=True)
    assert {str(verdict) for verdict in verdicts} == {"unknown_kid"}
    assert provider.jwks_fetches == 1


async def test_verification_without_the_provider_raises_keys_unavailable(
    verifier: TokenVerifier, provider: IdentityProvider
) -> None:
    token = provider.token()
    provider.down()
    with pytest.raises(KeysUnavailable):
        await verifier.verify(token)


async def test_deployed_verifier_fetches_no_keys_over_http(
    provider: IdentityProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings.isolated(
        ENVIRONMENT="staging",
        SECRET_KEY="5b0f2d7c91e84a36f0c7b21d9e6a4f83",
        DATABASE_URL="postgresql://localhost/plinth?sslmode=disable",
        AUTH_PROVIDER="custom",
        OIDC_ISSUER="https://issuer.example.com",
        OIDC_AUDIENCE="plinth",
    )
    # Settings refuse such an address; this is for one that a discovery document gives.
    monkeypatch.setattr(Settings, "jwks_urls", (provider.jwks_url,))
    verifier = build_verifier(settings)
    with pytest.raises(KeysUnavailable):
        await verifier.verify(provider.token(iss="https://issuer.example.com"))
    assert provider.fetched == {}
    await verifier.aclose()


def test_local_provider_needs_no_http_client() -> None:
    program = (
        "import sys; from notes.config import Settings; from plinth.identity import build_verifier;"
        "build_verifier(Settings.isolated()); sys.exit('httpx' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": PACKAGES}
    done = subprocess.run([sys.executable, "-c", program], env=environment, check=False)
    assert done.returncode == 0
