import pytest

from plinth.settings import PlatformSettings
from tests.support.settings import isolated_problems


@pytest.mark.parametrize(
    ("values", "issuers", "jwks_urls", "algorithms"),
    [
        ({}, ("plinth-local",), (), ("HS256",)),
        (
            {"AUTH_PROVIDER": "supabase", "SUPABASE_URL": "https://x.supabase.co/"},
            ("https://x.supabase.co/auth/v1",),
            ("https://x.supabase.co/auth/v1/.well-known/jwks.json",),
            ("ES256", "RS256", "EdDSA"),
        ),
        (
            {
                "AUTH_PROVIDER": "supabase",
                "SUPABASE_URL": "http://127.0.0.1:54321",
                "SUPABASE_JWT_SECRET": "s" * 32,
            },
            ("http://127.0.0.1:54321/auth/v1",),
            ("http://127.0.0.1:54321/auth/v1/.well-known/jwks.json",),
            ("ES256", "RS256", "EdDSA", "HS256"),
        ),
        (
            {
                "AUTH_PROVIDER": "clerk",
                "CLERK_ISSUER": "https://x.clerk.accounts.dev",
                "CLERK_AUTHORIZED_PARTIES": "https://app.example.com",
            },
            ("https://x.clerk.accounts.dev",),
            ("https://x.clerk.accounts.dev/.well-known/jwks.json",),
            ("RS256",),
        ),
        (
            {"AUTH_PROVIDER": "custom", "OIDC_ISSUER": "https://id.example.com/", "OIDC_AUDIENCE": "api"},
            ("https://id.example.com/",),
            (),
            ("RS256",),
        ),
        (
            {
                "AUTH_PROVIDER": "custom",
                "OIDC_ISSUER": "http://localhost:8080",
                "OIDC_AUDIENCE": "api",
                "OIDC_JWKS_URL": "http://[::1]:8080/keys",
                "OIDC_ALGORITHMS": "ES256,ES384",
            },
            ("http://localhost:8080",),
            ("http://[::1]:8080/keys",),
            ("ES256", "ES384"),
        ),
    ],
)
def test_issuer_keys_and_algorithms_of_each_provider(
    values: dict[str, str], issuers: tuple[str, ...], jwks_urls: tuple[str, ...], algorithms: tuple[str, ...]
) -> None:
    found = PlatformSettings.isolated(**values)
    assert (found.issuers, found.jwks_urls, found.jwt_algorithms) == (issuers, jwks_urls, algorithms)


@pytest.mark.parametrize(
    ("provider", "names"),
    [
        ("supabase", ["SUPABASE_URL"]),
        ("clerk", ["CLERK_ISSUER", "CLERK_AUTHORIZED_PARTIES"]),
        ("custom", ["OIDC_ISSUER", "OIDC_AUDIENCE"]),
    ],
)
def test_each_provider_needs_its_settings(provider: str, names: list[str]) -> None:
    expected = [f"{name} (not set): expected a value, because AUTH_PROVIDER is {provider}" for name in names]
    assert isolated_problems(AUTH_PROVIDER=provider) == expected


@pytest.mark.parametrize("name", ["SUPABASE_URL", "CLERK_ISSUER", "OIDC_ISSUER", "OIDC_JWKS_URL"])
@pytest.mark.parametrize("url", ["http://id.example.com", "http://localhost.example.com", "http://10.0.0.1"])
def test_plain_http_to_another_machine_is_refused(name: str, url: str) -> None:
    found = isolated_problems(**{name: url})
    assert len(found) == 1
    assert found[0].startswith(f"{name} (argument): expected https://")


@pytest.mark.parametrize("name", ["OIDC_ISSUER", "OIDC_JWKS_URL"])
def test_each_url_of_a_list_is_checked(name: str) -> None:
    values = dict.fromkeys(("OIDC_ISSUER", "OIDC_JWKS_URL"), "https://id.example.com,https://other.example.com")
    values[name] = "http://localhost,http://id.example.com"
    assert [problem.split(":")[0] for problem in isolated_problems(**values)] == [f"{name} (argument)"]
    values[name] = "https://id.example.com,http://localhost"
    assert PlatformSettings.isolated(**values)
    values[name] = "https://id.example.com,id.example.com"
    assert len(isolated_problems(**values)) == 1


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"OIDC_ISSUER": "https://a.test,https://b.test", "OIDC_JWKS_URL": "https://a.test/keys"}, "OIDC_JWKS_URL"),
        ({"OIDC_ISSUER": "https://a.test", "OIDC_JWKS_URL": "https://a.test/1,https://a.test/2"}, "OIDC_JWKS_URL"),
        ({"OIDC_ISSUER": "https://a.test,https://a.test"}, "OIDC_ISSUER"),
        ({"OIDC_ISSUER": "https://a.test", "OIDC_AUDIENCE": '["api", ""]'}, "OIDC_AUDIENCE"),
        ({"OIDC_ISSUER": "https://a.test", "OIDC_AUDIENCE": "[1]"}, "OIDC_AUDIENCE"),
        ({"CLERK_AUDIENCE": '[""]'}, "CLERK_AUDIENCE"),
        ({"TOKEN_MAX_LIFETIME": "0"}, "TOKEN_MAX_LIFETIME"),
        ({"TOKEN_MAX_LIFETIME": "nan"}, "TOKEN_MAX_LIFETIME"),
        ({"TOKEN_MAX_LIFETIME": "-60"}, "TOKEN_MAX_LIFETIME"),
    ],
)
def test_wrong_identity_setting_is_refused(values: dict[str, str], problem: str) -> None:
    (found,) = isolated_problems(**values)
    assert found.startswith(f"{problem} (argument): expected")


def test_several_issuers_and_audiences_are_lists() -> None:
    found = PlatformSettings.isolated(
        AUTH_PROVIDER="custom",
        OIDC_ISSUER="https://a.test/, https://b.test",
        OIDC_AUDIENCE='["api", "https://api.test"]',
    )
    assert found.issuers == ("https://a.test/", "https://b.test")
    assert found.OIDC_AUDIENCE == ("api", "https://api.test")
