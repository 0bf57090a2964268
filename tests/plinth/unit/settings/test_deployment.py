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
        ("JOBS_ENCRYPTION_KEY", "a" * 64),
        ("JOBS_ENCRYPTION_KEY", f"{PRODUCTION['SECRET_KEY']},for-development-only-the-key-of-payloads"),
        ("FORWARDED_ALLOW_IPS", "*"),
        ("FORWARDED_ALLOW_IPS", "10.0.0.0/8,*"),
        ("DATABASE_URL", None),
        ("DATABASE_URL", "sqlite+aiosqlite:///app.db"),
        ("DATABASE_URL", "postgresql://app:secret@db/app"),
        ("DATABASE_URL", "postgresql:///app"),
        ("DATABASE_URL", "postgresql://app@/app?host=/run/postgresql,db"),
        ("DATABASE_URL", "postgresql://plinth:plinth@db/plinth?sslmode=require"),
        ("DATABASE_URL", "postgresql://user:password@db/app?sslmode=require"),
        ("DATABASE_URL", "postgresql://db/app?sslmode=require&user=orders&password=orders"),
        ("DATABASE_REPLICA_URL", "postgresql://app:secret@standby/app"),
        ("DATABASE_REPLICA_URL", "postgresql://plinth:plinth@standby/plinth?sslmode=require"),
        ("REDIS_URL", "redis://cache:6379/0"),
        ("REDIS_URL", "redis://127.0.0.1:6379/0"),
        ("REDIS_URL", "rediss://:password@cache:6379/0"),
        ("REDIS_URL", "rediss://cache:6379/0?username=orders&password=orders"),
        ("REDIS_URL", "redis+sentinel://one,two/main"),
        ("REDIS_URL", "rediss+sentinel://:password@one,two/main"),
        ("REDIS_URL", "rediss+sentinel://one,two/main?sentinel_password=password"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=me, x-api-key=the-key"),
        ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "x-api-key=the%2Dkey"),
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


@pytest.mark.parametrize(
    "values",
    [
        {"DATABASE_URL": "postgresql://app:secret@db/app?sslmode=disable"},
        {"DATABASE_URL": "postgresql://app:secret@db/app?ssl=true"},
        {"DATABASE_URL": "postgresql://app:secret@db/app?sslrootcert=system"},
        {"DATABASE_URL": "postgresql://app@/app?host=/run/postgresql"},
        {"DATABASE_URL": "postgresql://app@%2Frun%2Fpostgresql/app"},
        {"DATABASE_REPLICA_URL": "postgresql://app:secret@standby/app?sslmode=require"},
        {"REDIS_URL": "rediss://:s3cret@cache:6379/0"},
        {"REDIS_URL": "unix:///run/redis.sock"},
        {"REDIS_URL": "rediss+sentinel://:s3cret@one,two/main"},
        {"REDIS_URL": "redis+sentinel://one,two/main", "REDIS_PLAINTEXT": True},
        {"REDIS_URL": "redis://:s3cret@cache:6379/0", "REDIS_PLAINTEXT": True},
    ],
)
def test_way_to_the_stores_that_is_stated_passes_in_a_deployment(values: dict[str, object]) -> None:
    PlatformSettings.isolated(**PRODUCTION | values)


def test_both_problems_of_a_url_are_named_and_its_password_is_not() -> None:
    (found,) = isolated_problems(**PRODUCTION | {"DATABASE_URL": "postgresql://orders:plinth@db/app"})
    assert found == (
        "DATABASE_URL (argument): expected sslmode=verify-full, require, … in the URL, or sslmode=disable for plain "
        "text; expected a password of its own, not one that is printed as an example"
    )


def test_example_of_an_upstash_token_is_refused() -> None:
    pair = {"UPSTASH_REDIS_URL": "https://x.upstash.io", "UPSTASH_REDIS_TOKEN": "the-token"}
    (found,) = isolated_problems(**PRODUCTION | pair)
    assert found.startswith("UPSTASH_REDIS_TOKEN (argument): expected a token of its own")


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
