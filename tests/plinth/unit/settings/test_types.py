import pytest

from plinth.settings import PlatformSettings
from tests.support.settings import isolated_problems


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ENVIRONMENT", "prod"),
        ("DEBUG", "perhaps"),
        ("LOG_LEVEL", "loud"),
        ("LOG_FORMAT", "xml"),
        ("PROJECT_NAME", "x" * 64),
        ("API_V1_STR", "/api/v1/"),
        ("API_V1_STR", "api"),
        ("ROOT_PATH", "/shop/"),
        ("ROOT_PATH", "shop"),
        ("BACKEND_CORS_ORIGINS", "app.example.com"),
        ("BACKEND_CORS_ORIGINS", "https://app.example.com/path"),
        ("BACKEND_CORS_ORIGINS", "null"),
        ("BACKEND_CORS_ORIGINS", "https://*"),
        ("BACKEND_CORS_ORIGINS", "https://*.com"),
        ("BACKEND_CORS_ORIGINS", "https://*example.com"),
        ("BACKEND_CORS_ORIGINS", "https://app.*.example.com"),
        ("BACKEND_CORS_ORIGINS", "https://*.*.example.com"),
        ("BACKEND_CORS_ORIGINS", "https://*.example.com:*"),
        ("BACKEND_CORS_ORIGINS", "*://app.example.com"),
        ("BACKEND_CORS_ORIGINS", "*.example.com"),
        ("BACKEND_CORS_ORIGINS", "https://(a+)+.example.com/" + "x"),
        ("BACKEND_CORS_ALLOW_HEADERS", "*"),
        ("BACKEND_CORS_ALLOW_HEADERS", "X-Tenant: a"),
        ("BACKEND_CORS_EXPOSE_HEADERS", "X Total"),
        ("TRACEPARENT_ALLOW_IPS", "10.0.0.1/8"),
        ("TRACEPARENT_ALLOW_IPS", "gateway"),
        ("MAX_BODY_BYTES", "0"),
        ("MAX_HEAD_BYTES", "10"),
        ("MAX_CONNECTIONS", "0"),
        ("HEAD_TIMEOUT", "0"),
        ("FORWARDED_ALLOW_IPS", "127.0.0.1/8"),
        ("FORWARDED_ALLOW_IPS", "10.0.0.0/33"),
        ("FORWARDED_ALLOW_IPS", "10.0.0.1;10.0.0.2"),
        ("FORWARDED_ALLOW_IPS", "proxy"),
        ("DATABASE_URL", "mysql://app@db/app"),
        ("DATABASE_URL", "sqlite:///app.db"),
        ("DB_POOL_SIZE", "0"),
        ("DB_MAX_OVERFLOW", "-1"),
        ("DB_STATEMENT_TIMEOUT", "0"),
        ("DB_CONNECT_TIMEOUT", "inf"),
        ("DB_POOL_TIMEOUT", "nan"),
        ("REDIS_URL", "http://cache"),
        ("READINESS_REQUIRED", "database,disk"),
        ("RATE_LIMIT", "600"),
        ("RATE_LIMIT", "0/minute"),
        ("SUPABASE_JWT_SECRET", "short"),
        (
            "SUPABASE_JWT_SECRET",
            "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE\n-----END PUBLIC KEY-----",
        ),
        ("SUPABASE_JWT_SECRET", '{"kty":"EC","crv":"P-256","x":"MFkwEwYHKoZIzj0CAQYI","y":"KoZIzj0DAQcDQgAE"}'),
        ("SUPABASE_JWT_SECRET", f"{'s' * 40},short"),
        ("SUPABASE_JWT_SECRET", ","),
        ("SECRET_KEY", " , "),
        ("SUPABASE_URL", "https://user:password@example.com"),
        ("CLERK_AUTHORIZED_PARTIES", "*"),
        ("OIDC_JWKS_URL", "file:///etc/passwd"),
        ("OIDC_ALGORITHMS", "HS256"),
        ("OIDC_ALGORITHMS", "none"),
        ("OIDC_ALGORITHMS", "RS256,HS256"),
        ("OIDC_ALGORITHMS", "RS256,none"),
        ("OIDC_ALGORITHMS", "rs256"),
        ("OIDC_ALGORITHMS", "ES256K"),
        ("OIDC_ALGORITHMS", "[]"),
    ],
)
def test_wrong_value_of_a_setting_is_refused(name: str, value: str) -> None:
    found = isolated_problems(**{name: value})
    assert len(found) == 1
    assert found[0].startswith(f"{name} (argument): expected")


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("LOG_LEVEL", "warning", "WARNING"),
        ("BACKEND_CORS_ORIGINS", "*", ("*",)),
        ("BACKEND_CORS_ORIGINS", "http://[::1]:3000", ("http://[::1]:3000",)),
        (
            "BACKEND_CORS_ORIGINS",
            "https://*.Example.com/, http://*.localhost:3000",
            ("https://*.example.com", "http://*.localhost:3000"),
        ),
        ("BACKEND_CORS_ALLOW_HEADERS", "X-Tenant, x-other", ("X-Tenant", "x-other")),
        ("TRACEPARENT_ALLOW_IPS", "*", ("*",)),
        ("RATE_LIMIT", "10 per 30 seconds", "10 per 30 seconds"),
        ("FORWARDED_ALLOW_IPS", "10.0.0.0/8, ::1", ("10.0.0.0/8", "::1/128")),
        ("FORWARDED_ALLOW_IPS", '["192.0.2.1"]', ("192.0.2.1/32",)),
        ("OIDC_ALGORITHMS", "ES256,ES384", ("ES256", "ES384")),
        ("OIDC_ALGORITHMS", "EdDSA", ("EdDSA",)),
        ("OIDC_ALGORITHMS", "RS256,ES256", ("RS256", "ES256")),
        ("CLERK_ISSUER", "https://x.clerk.accounts.dev/", "https://x.clerk.accounts.dev"),
        ("OIDC_ISSUER", "https://x.example.com/", ("https://x.example.com/",)),
    ],
)
def test_value_of_a_setting_is_accepted_and_normalised(name: str, value: str, expected: object) -> None:
    assert getattr(PlatformSettings.isolated(**{name: value}), name) == expected


@pytest.mark.parametrize("rate", ["600/minute", "1 per second", "10/30seconds", "5 per 2 hours", "9/day"])
def test_rate_limit_is_accepted_as_the_limits_library_reads_it(rate: str) -> None:
    from limits import parse

    assert str(parse(PlatformSettings.isolated(RATE_LIMIT=rate).RATE_LIMIT))
