"""Authentication of a caller by a bearer token, and what `/me` shows of it."""

import httpx
import pytest

from notes.config import Settings
from notes.main import create_app
from plinth.identity import sign_local_token
from plinth.testing import problem
from tests.support.api import client_of, signed_in
from tests.support.identity_provider import IdentityProvider
from tests.support.notes import settings_with


class TestMe:
    async def test_me_shows_the_claims_of_the_token(self, service: httpx.AsyncClient, settings: Settings) -> None:
        token = sign_local_token(settings, subject="alice", ttl=600, scopes=["b", "a"], roles=["admin"])

        response = await service.get("/me", headers={"Authorization": f"Bearer {token}"})

        me = response.json()
        assert me.pop("expires_at").endswith("Z")
        assert me == {
            "subject": "alice",
            "issuer": settings.issuers[0],
            "scopes": ["a", "b"],
            "roles": ["admin"],
        }

    @pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "Bearer   "])
    async def test_bearer_scheme_is_case_insensitive(
        self, service: httpx.AsyncClient, alice: dict[str, str], scheme: str
    ) -> None:
        token = alice["Authorization"].removeprefix("Bearer ")

        response = await service.get("/me", headers={"Authorization": f"{scheme} {token}"})

        assert response.status_code == 200

    async def test_cached_verdict_on_a_token_equals_the_first(
        self, service: httpx.AsyncClient, alice: dict[str, str]
    ) -> None:
        first, second = [await service.get("/me", headers=alice) for _ in range(2)]

        assert first.json() == second.json()


class TestUnauthenticated:
    @pytest.mark.parametrize(
        "authorization", ["", "Bearer", "Bearer ", "Basic YWxpY2U6cHc=", "Token abc", "DPoP abc", "alice"]
    )
    async def test_request_without_a_bearer_token_is_asked_for_one(
        self, service: httpx.AsyncClient, authorization: str
    ) -> None:
        response = await service.get("/me", headers={"Authorization": authorization})

        problem(response, 401, "unauthorized")
        assert response.headers["www-authenticate"] == "Bearer"

    @pytest.mark.parametrize("scheme", ["DPoP", "PoP", "Basic", "Digest", "Bearer,", "Bearer:"])
    async def test_token_under_another_scheme_is_refused(
        self, service: httpx.AsyncClient, alice: dict[str, str], scheme: str
    ) -> None:
        token = alice["Authorization"].removeprefix("Bearer ")
        problem(await service.get("/me", headers={"Authorization": f"{scheme} {token}"}), 401, "unauthorized")

    @pytest.mark.parametrize("token", ["abc", "a.b.c", "é", "\xff\xfe", "x" * 20_000, "a b c"])
    async def test_invalid_token_is_refused_without_the_reason(self, service: httpx.AsyncClient, token: str) -> None:
        response = await service.get("/me", headers={b"Authorization": f"Bearer {token}".encode()})

        body = problem(response, 401, "unauthorized")
        assert response.headers["www-authenticate"] == 'Bearer error="invalid_token"'
        assert body["detail"] == "The token is not valid."

    async def test_token_of_another_service_is_refused(self, service: httpx.AsyncClient) -> None:
        another = settings_with(SECRET_KEY="another secret of quite some length")

        problem(await service.get("/me", headers=signed_in(another)), 401)

    @pytest.mark.parametrize(
        ("method", "path"),
        [
            ("GET", "/me"),
            ("GET", "/notes"),
            ("POST", "/notes"),
            ("GET", "/notes/00000000-0000-0000-0000-000000000000"),
            ("PATCH", "/notes/00000000-0000-0000-0000-000000000000"),
            ("DELETE", "/notes/00000000-0000-0000-0000-000000000000"),
        ],
    )
    async def test_every_operation_needs_a_token(self, service: httpx.AsyncClient, method: str, path: str) -> None:
        problem(await service.request(method, path), 401)


def trusting(provider: IdentityProvider, database_url: str) -> Settings:
    return settings_with(
        DATABASE_URL=database_url,
        AUTH_PROVIDER="custom",
        OIDC_ISSUER=provider.issuer,
        OIDC_AUDIENCE="plinth",
        RATE_LIMIT_ANONYMOUS="1/minute",
    )


class TestProvider:
    async def test_unreachable_identity_provider_is_503_not_401(self, database_url: str) -> None:
        with IdentityProvider() as provider:
            settings = trusting(provider, database_url)
            caller = {"Authorization": f"Bearer {provider.token()}"}
            provider.down()
            async with client_of(create_app(settings)) as client:
                for _ in range(3):
                    response = await client.get("/me", headers=caller)
                    problem(response, 503, "identity_provider_unavailable")
                    assert response.headers["retry-after"] == "5"

    async def test_token_of_the_identity_provider_is_accepted(self, database_url: str) -> None:
        with IdentityProvider() as provider:
            settings = trusting(provider, database_url)
            async with client_of(create_app(settings)) as client:
                response = await client.get("/me", headers={"Authorization": f"Bearer {provider.token()}"})

            assert response.json()["issuer"] == provider.issuer
