"""The token rules of each provider, on tokens of the form that it issues."""

from typing import Any

import pytest

from notes.config import Settings
from plinth.identity import rules_for
from plinth.identity.errors import Reason, TokenError
from plinth.identity.principal import Principal
from plinth.identity.rules import TokenRules

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
    (rules,) = rules_for(Settings.isolated(AUTH_PROVIDER="supabase", SUPABASE_URL=URL))

    def test_supabase_user_has_the_roles_of_the_app_metadata(self) -> None:
        principal = admit(self.rules, self.USER)
        assert principal.subject == self.USER["sub"]
        assert principal.roles == {"editor"}  # user_metadata, which users can write, does not count

    def test_anonymous_supabase_user_has_the_role_anonymous(self) -> None:
        assert admit(self.rules, self.USER | {"is_anonymous": True}).roles == {"editor", "anonymous"}

    @pytest.mark.parametrize("role", ["anon", "service_role", "admin", "", None, ["authenticated"], ...])
    def test_supabase_token_of_another_role_is_refused(self, role: object) -> None:
        assert refusal(self.rules, self.USER | {"role": role}) == Reason.WRONG_ROLE

    @pytest.mark.parametrize("role", ["anon", "service_role"])
    def test_supabase_api_key_is_refused_as_a_token(self, role: str) -> None:
        key = {"iss": "supabase", "ref": "abcdefghijklmnop", "role": role, **TIMES}
        assert refusal(self.rules, key) == Reason.MISSING_CLAIM

    def test_supabase_token_of_another_audience_is_refused(self) -> None:
        assert refusal(self.rules, self.USER | {"aud": "anon"}) == Reason.WRONG_AUDIENCE


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
    SETTINGS: dict[str, Any] = {  # noqa: RUF012
        "AUTH_PROVIDER": "clerk",
        "CLERK_ISSUER": ISSUER,
        "CLERK_AUTHORIZED_PARTIES": ["https://app.example.com"],
    }
    (rules,) = rules_for(Settings.isolated(**SETTINGS))

    def test_clerk_session_token_is_accepted(self) -> None:
        assert admit(self.rules, self.SESSION).subject == self.SESSION["sub"]
        assert admit(self.rules, self.SESSION | {"sts": ...})

    @pytest.mark.parametrize("azp", ["https://evil.example.com", "http://app.example.com", ...])
    def test_clerk_token_of_another_party_is_refused(self, azp: object) -> None:
        assert refusal(self.rules, self.SESSION | {"azp": azp}) == Reason.WRONG_PARTY

    @pytest.mark.parametrize("sts", ["pending", "", None, True])
    def test_clerk_token_of_an_incomplete_session_is_refused(self, sts: object) -> None:
        assert refusal(self.rules, self.SESSION | {"sts": sts}) == Reason.PENDING_SESSION

    def test_clerk_token_with_an_audience_is_refused(self) -> None:
        assert refusal(self.rules, self.SESSION | {"aud": "convex"}) == Reason.WRONG_AUDIENCE

    def test_clerk_token_has_the_audience_that_was_customised(self) -> None:
        (rules,) = rules_for(Settings.isolated(**self.SETTINGS, CLERK_AUDIENCE="orders-api, orders-web"))
        for aud in ("orders-api", "orders-web", ["orders-api", "convex"]):
            assert admit(rules, self.SESSION | {"aud": aud})
        for wrong in ("convex", ["convex"], "", [], 7):
            assert refusal(rules, self.SESSION | {"aud": wrong}) == Reason.WRONG_AUDIENCE
        assert refusal(rules, self.SESSION) == Reason.MISSING_CLAIM
        # The audience does not replace the other rules.
        evil = self.SESSION | {"aud": "orders-api", "azp": "https://evil.example.com"}
        assert refusal(rules, evil) == Reason.WRONG_PARTY

    @pytest.mark.parametrize("claims", [{"org_role": "org:admin"}, {"o": {"id": "org_1", "rol": "admin"}}])
    def test_clerk_role_in_the_organization_becomes_a_role(self, claims: dict[str, Any]) -> None:
        assert admit(self.rules, self.SESSION | claims).roles == {"org:admin"}


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
    (rules,) = rules_for(Settings.isolated(AUTH_PROVIDER="custom", OIDC_ISSUER=ISSUER, OIDC_AUDIENCE="plinth-api"))

    def test_oidc_access_token_has_scopes_and_roles(self) -> None:
        principal = admit(self.rules, self.ACCESS)
        assert principal.scopes == {"openid", "items:read"}
        assert principal.roles == {"editor", "viewer"}

    @pytest.mark.parametrize("realm", [None, [], {"roles": None}, {"roles": [1]}])
    def test_malformed_realm_roles_are_ignored(self, realm: object) -> None:
        assert admit(self.rules, self.ACCESS | {"realm_access": realm}).roles == {"viewer"}

    def test_oidc_id_token_is_refused(self) -> None:
        id_token = self.ACCESS | {"typ": "ID", "nonce": "n", "at_hash": "h", "scope": ...}
        assert refusal(self.rules, id_token) == Reason.WRONG_TYPE
        assert refusal(self.rules, id_token | {"aud": "some-client"}) == Reason.WRONG_AUDIENCE

    @pytest.mark.parametrize("aud", ["account", ["account"]])
    def test_oidc_token_of_another_audience_is_refused(self, aud: object) -> None:
        assert refusal(self.rules, self.ACCESS | {"aud": aud}) == Reason.WRONG_AUDIENCE

    def test_oidc_token_without_an_audience_is_refused(self) -> None:
        assert refusal(self.rules, self.ACCESS | {"aud": ...}) == Reason.MISSING_CLAIM

    def test_oidc_issuer_without_its_trailing_slash_is_refused(self) -> None:
        assert refusal(self.rules, self.ACCESS | {"iss": self.ISSUER.rstrip("/")}) == Reason.WRONG_ISSUER


class TestIssuersAsTheyAre:
    """Access tokens as these issuers make them, cut to the claims that matter."""

    AUDIENCE = "orders-api"

    def rules(self, issuer: str) -> TokenRules:
        settings = Settings.isolated(AUTH_PROVIDER="custom", OIDC_ISSUER=issuer, OIDC_AUDIENCE=self.AUDIENCE)
        (rules,) = rules_for(settings)
        return rules

    COGNITO: dict[str, Any] = {  # noqa: RUF012
        "iss": "https://cognito-idp.eu-central-1.amazonaws.com/eu-central-1_AbCdEfGhI",
        "sub": "0b8f4c3e-7a52-4c0a-9a53-0d7a3f6a2b11",
        "cognito:groups": ["operators"],
        "client_id": AUDIENCE,
        "token_use": "access",
        "scope": "aws.cognito.signin.user.admin",
        "username": "alice",
        **TIMES,
    }

    def test_cognito_access_token_is_for_its_client(self) -> None:
        rules = self.rules(self.COGNITO["iss"])
        assert admit(rules, self.COGNITO).roles == {"operators"}
        assert refusal(rules, self.COGNITO | {"client_id": "another"}) == Reason.WRONG_AUDIENCE
        assert refusal(rules, self.COGNITO | {"client_id": ...}) == Reason.MISSING_CLAIM

    def test_client_that_asked_for_a_token_is_not_its_audience(self) -> None:
        rules = self.rules(self.COGNITO["iss"])
        assert refusal(rules, self.COGNITO | {"token_use": ...}) == Reason.MISSING_CLAIM
        assert refusal(rules, self.COGNITO | {"aud": "another"}) == Reason.WRONG_AUDIENCE

    def test_cognito_id_token_is_refused(self) -> None:
        id_token = self.COGNITO | {"token_use": "id", "aud": self.AUDIENCE, "client_id": ...}
        assert refusal(self.rules(self.COGNITO["iss"]), id_token) == Reason.WRONG_TYPE

    KEYCLOAK: dict[str, Any] = {  # noqa: RUF012
        "iss": "https://id.example.com/realms/shop",
        "aud": [AUDIENCE, "account"],
        "sub": "f:1:alice",
        "typ": "Bearer",
        "azp": "shop-web",
        "nonce": "d1b4e2",
        "realm_access": {"roles": ["offline_access"]},
        "resource_access": {AUDIENCE: {"roles": ["clerk"]}, "account": {"roles": ["manage-account"]}},
        **TIMES,
    }

    def test_keycloak_access_token_may_have_a_nonce(self) -> None:
        assert admit(self.rules(self.KEYCLOAK["iss"]), self.KEYCLOAK).roles == {"offline_access", "clerk"}

    @pytest.mark.parametrize(
        "changes", [{"typ": "ID"}, {"typ": ...}, {"at_hash": "h"}, {"typ": "Logout", "events": {}}]
    )
    def test_other_keycloak_token_is_refused(self, changes: dict[str, Any]) -> None:
        assert refusal(self.rules(self.KEYCLOAK["iss"]), self.KEYCLOAK | changes) == Reason.WRONG_TYPE

    @pytest.mark.parametrize("access", [None, [], {"orders-api": []}, {"orders-api": {"roles": 5}}])
    def test_malformed_client_roles_are_ignored(self, access: object) -> None:
        claims = self.KEYCLOAK | {"resource_access": access}
        assert admit(self.rules(self.KEYCLOAK["iss"]), claims).roles == {"offline_access"}

    def test_keycloak_client_roles_are_those_of_the_audiences_that_a_token_names(self) -> None:
        settings = Settings.isolated(
            AUTH_PROVIDER="custom", OIDC_ISSUER=self.KEYCLOAK["iss"], OIDC_AUDIENCE="orders-api,stock-api,account"
        )
        (rules,) = rules_for(settings)
        access = self.KEYCLOAK["resource_access"] | {"stock-api": {"roles": ["keeper"]}}
        claims = self.KEYCLOAK | {"resource_access": access, "aud": ["orders-api", "account"]}
        assert admit(rules, claims).roles == {"offline_access", "clerk", "manage-account"}
        assert admit(rules, claims | {"aud": "stock-api"}).roles == {"offline_access", "keeper"}

    @pytest.mark.parametrize(
        ("iss", "aud", "scopes"),
        [
            ("https://login.microsoftonline.com/72f988bf-86f1-41af-91ab-2d7cd011db47/v2.0", "6e74172b", "Orders.Read"),
            ("https://sts.windows.net/72f988bf-86f1-41af-91ab-2d7cd011db47/", "api://6e74172b", "Orders.Read"),
        ],
    )
    def test_entra_token_of_each_version_is_accepted(self, iss: str, aud: str, scopes: str) -> None:
        settings = Settings.isolated(
            AUTH_PROVIDER="custom", OIDC_ISSUER=iss, OIDC_AUDIENCE="6e74172b,api://6e74172b", TOKEN_MAX_LIFETIME=86400
        )
        (rules,) = rules_for(settings)
        claims: dict[str, Any] = {
            "iss": iss,
            "aud": aud,
            "sub": "AAAAAAAAAAAAAAAAAAAAAIkzqFVrSaSaFHy782bbtaQ",
            "azp": "client",
            "scp": scopes,
            "roles": ["Operator"],
            "groups": [f"0b8f4c3e-7a52-4c0a-9a53-0d7a3f6a2{number:03}" for number in range(200)],
            "ver": "2.0",
            **TIMES,
            "nbf": NOW,
        }
        principal = admit(rules, claims)
        assert principal.scopes == {"Orders.Read"}
        assert principal.roles == {"Operator"}
        assert refusal(rules, claims | {"iss": iss.replace("72f988bf", "11111111")}) == Reason.WRONG_ISSUER

    def test_auth0_permissions_are_roles(self) -> None:
        claims: dict[str, Any] = {
            "iss": "https://shop.eu.auth0.com/",
            "aud": [self.AUDIENCE, "https://shop.eu.auth0.com/userinfo"],
            "sub": "auth0|64f1",
            "azp": "client",
            "scope": "openid profile",
            "permissions": ["orders:write"],
            **TIMES,
        }
        assert admit(self.rules(claims["iss"]), claims).roles == {"orders:write"}
