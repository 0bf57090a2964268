import pytest

from plinth.settings import DEVELOPMENT_SECRET_KEY, PlatformSettings
from tests.support.settings import PRODUCTION, isolated_problems


@pytest.mark.parametrize("environment", ["staging", "production"])
def test_complete_settings_pass_in_a_deployment(environment: str) -> None:
    assert PlatformSettings.isolated(**PRODUCTION | {"ENVIRONMENT": environment}).ENVIRONMENT.deployed


@pytest.mark.parametrize("environment", ["staging", "production"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SECRET_KEY", DEVELOPMENT_SECRET_KEY),
        ("SECRET_KEY", None),
        ("SECRET_KEY", "5b0f2d7c91e84a36f0c7b21d9e6a4f8"),
        ("SECRET_KEY", f"{DEVELOPMENT_SECRET_KEY}X"),
        ("SECRET_KEY", "a" * 64),
        ("SECRET_KEY", f"{PRODUCTION['SECRET_KEY']},{DEVELOPMENT_SECRET_KEY}"),
        ("SECRET_KEY", f"{PRODUCTION['SECRET_KEY']},short"),
        ("SECRET_KEY", ","),
        ("SUPABASE_JWT_SECRET", "super-secret-jwt-token-with-at-least-32-characters-long"),
        ("FORWARDED_ALLOW_IPS", "*"),
        ("FORWARDED_ALLOW_IPS", "10.0.0.0/8,*"),
        ("DATABASE_URL", None),
        ("DATABASE_URL", "sqlite+aiosqlite:///app.db"),
        ("BACKEND_CORS_ORIGINS", "https://app.example.com,*"),
        ("AUTH_PROVIDER", "local"),
        ("OIDC_ISSUER", "http://localhost:8080"),
        ("OIDC_JWKS_URL", "http://localhost:8080/keys"),
    ],
)
def test_deployment_refuses_development_values(environment: str, name: str, value: str | None) -> None:
    values = PRODUCTION | {"ENVIRONMENT": environment, name: value}
    found = isolated_problems(**{name: value for name, value in values.items() if value is not None})
    assert [problem.partition(" ")[0] for problem in found] == [name]


def test_only_production_refuses_debug() -> None:
    assert isolated_problems(**PRODUCTION, DEBUG=True) == ["DEBUG (argument): expected false in production"]
    assert PlatformSettings.isolated(**PRODUCTION | {"ENVIRONMENT": "staging"}, DEBUG=True).DEBUG


def test_deployment_that_requires_redis_needs_its_url() -> None:
    assert isolated_problems(**PRODUCTION, READINESS_REQUIRED="redis") == [
        "REDIS_URL (not set): expected a value, because READINESS_REQUIRED names redis"
    ]


@pytest.mark.parametrize("environment", ["local", "test"])
def test_development_environment_requires_no_settings(environment: str) -> None:
    found = PlatformSettings.isolated(ENVIRONMENT=environment, DEBUG=True, BACKEND_CORS_ORIGINS="*", SECRET_KEY="x")
    assert not found.ENVIRONMENT.deployed


@pytest.mark.parametrize(
    ("environment", "wish", "served"),
    [
        ("local", None, True),
        ("staging", None, True),
        ("production", None, False),
        ("production", "true", True),
    ],
)
def test_docs_are_served_except_in_production(environment: str, wish: str | None, served: bool) -> None:
    values = PRODUCTION | {"ENVIRONMENT": environment} | ({"DOCS_ENABLED": wish} if wish else {})
    assert PlatformSettings.isolated(**values).docs_enabled is served
