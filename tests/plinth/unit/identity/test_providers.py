"""The rules of each provider, on tokens as it makes them."""

from typing import Any

import pytest

from notes.config import Settings
from plinth.identity.providers import rules_for
from plinth.identity.rules import Principal, Reason, TokenError, TokenRules

NOW = 1_800_000_000
TIMES = {"iat": NOW, "exp": NOW + 600}


def admit(rules: TokenRules, claims: dict[str, Any]) -> Principal:
    claims = {name: value for name, value in claims.items() if value is not ...}
    return rules.admit(claims, typed=False, now=NOW)


def refusal(rules: TokenRules, claims: dict[str, Any]) -> Reason:
    with pytest.raises(TokenError) as caught:
        admit(rules, claims)
    return caught.value.reason


class TestSupabase:
    URL = "https://abcdefghijklmnop.supabase.co"
    USER: dict[str, Any] = {  # noqa: RUF012
        "iss": f"{URL}/auth/v1",
        "aud": "authenticated",
        "sub": "0b8f4c3e-7a52-4c0a-9a53-0d7a3f6a2b11",
        "role": "authenticated",
        "aal": "aal1",
        "session_id": "5f1d0d4e-0b0e-4a57-8a9d-6a5f3c1e2d10",
        "app_metadata": {"provider": "email", "roles": ["editor"]},
        "user_metadata": {"roles": ["admin"], "role": "admin"},
        "is_anonymous": False,
        **TIMES,
    }
    rules = rules_for(Settings.isolated(AUTH_PROVIDER="supabase", SUPABASE_URL=URL))

    def test_user(self) -> None:
        principal = admit(self.rules, self.USER)
        assert principal.subject == self.USER["sub"]
        assert principal.roles == {"editor"}  # what users write about themselves does not count

    def test_anonymous_user_passes_and_is_marked(self) -> None:
        assert admit(self.rules, self.USER | {"is_anonymous": True}).roles == {"editor", "anonymous"}

    @pytest.mark.parametrize("role", ["anon", "service_role", "admin", "", None, ["authenticated"], ...])
    def test_other_roles(self, role: object) -> None:
        assert refusal(self.rules, self.USER | {"role": role}) == Reason.WRONG_ROLE

    @pytest.mark.parametrize("role", ["anon", "service_role"])
    def test_api_keys_as_they_are(self, role: str) -> None:
        key = {"iss": "supabase", "ref": "abcdefghijklmnop", "role": role, **TIMES}
        assert refusal(self.rules, key) == Reason.MISSING_CLAIM

    def test_other_audience(self) -> None:
        assert refusal(self.rules, self.USER | {"aud": "anon"}) == Reason.WRONG_AUDIENCE

    def test_algorithms(self) -> None:
        legacy = Settings.isolated(AUTH_PROVIDER="supabase", SUPABASE_URL=self.URL, SUPABASE_JWT_SECRET="s" * 40)
        assert self.rules.algorithms == {"ES256"}
        assert rules_for(legacy).algorithms == {"HS256"}


class TestClerk:
    ISSUER = "https://clerk.example.com"
    SESSION: dict[str, Any] = {  # noqa: RUF012
        "iss": ISSUER,
        "sub": "user_2NNEqL2nrIRdJ194ndJqAHwEfxC",
        "sid": "sess_2NNEqL2nrIRdJ194ndJqAHwEfxD",
        "azp": "https://app.example.com",
        "sts": "active",
        "v": 2,
        **TIMES,
        "nbf": NOW - 10,
    }
    rules = rules_for(
        Settings.isolated(
            AUTH_PROVIDER="clerk",
            CLERK_ISSUER=ISSUER,
            CLERK_AUTHORIZED_PARTIES=["https://app.example.com"],
        )
    )

    def test_session(self) -> None:
        assert admit(self.rules, self.SESSION).subject == self.SESSION["sub"]
        assert admit(self.rules, self.SESSION | {"sts": ...})

    @pytest.mark.parametrize("azp", ["https://evil.example.com", "http://app.example.com", ...])
    def test_other_parties(self, azp: object) -> None:
        assert refusal(self.rules, self.SESSION | {"azp": azp}) == Reason.WRONG_PARTY

    @pytest.mark.parametrize("sts", ["pending", "", None, True])
    def test_session_that_is_not_complete(self, sts: object) -> None:
        assert refusal(self.rules, self.SESSION | {"sts": sts}) == Reason.PENDING_SESSION

    def test_token_made_for_somebody_else(self) -> None:
        assert refusal(self.rules, self.SESSION | {"aud": "convex"}) == Reason.WRONG_AUDIENCE

    @pytest.mark.parametrize("claims", [{"org_role": "org:admin"}, {"o": {"id": "org_1", "rol": "admin"}}])
    def test_role_in_the_organization(self, claims: dict[str, Any]) -> None:
        assert admit(self.rules, self.SESSION | claims).roles == {"org:admin"}

    def test_algorithms(self) -> None:
        assert self.rules.algorithms == {"RS256"}


class TestOpenIDConnect:
    ISSUER = "https://issuer.example.com/realms/one/"
    ACCESS: dict[str, Any] = {  # noqa: RUF012
        "iss": ISSUER,
        "aud": ["plinth-api", "account"],
        "sub": "f:1:alice",
        "typ": "Bearer",
        "scope": "openid items:read",
        "realm_access": {"roles": ["editor"]},
        "roles": ["viewer"],
        **TIMES,
    }
    rules = rules_for(Settings.isolated(AUTH_PROVIDER="custom", OIDC_ISSUER=ISSUER, OIDC_AUDIENCE="plinth-api"))

    def test_access_token(self) -> None:
        principal = admit(self.rules, self.ACCESS)
        assert principal.scopes == {"openid", "items:read"}
        assert principal.roles == {"editor", "viewer"}

    @pytest.mark.parametrize("realm", [None, [], {"roles": None}, {"roles": [1]}])
    def test_roles_that_are_none(self, realm: object) -> None:
        assert admit(self.rules, self.ACCESS | {"realm_access": realm}).roles == {"viewer"}

    def test_id_token(self) -> None:
        id_token = self.ACCESS | {"typ": "ID", "nonce": "n", "at_hash": "h", "scope": ...}
        assert refusal(self.rules, id_token) == Reason.WRONG_TYPE
        assert refusal(self.rules, id_token | {"aud": "some-client"}) == Reason.WRONG_AUDIENCE

    @pytest.mark.parametrize("aud", ["account", ["account"]])
    def test_token_for_another_client(self, aud: object) -> None:
        assert refusal(self.rules, self.ACCESS | {"aud": aud}) == Reason.WRONG_AUDIENCE

    def test_audience_is_required(self) -> None:
        assert refusal(self.rules, self.ACCESS | {"aud": ...}) == Reason.MISSING_CLAIM

    def test_issuer_without_its_slash(self) -> None:
        assert refusal(self.rules, self.ACCESS | {"iss": self.ISSUER.rstrip("/")}) == Reason.WRONG_ISSUER
