import os
import pickle
import re
import subprocess
import sys
import traceback
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk import trace as sdk_trace
from pydantic import SecretStr

from app.core.config import Settings, get_settings, settings
from plinth.cli.config import effective_configuration
from plinth.settings.base import DEVELOPMENT_SECRET_KEY, Environment, SettingsError

ENV_EXAMPLE = Path(__file__).parents[4] / ".env.example"

PRODUCTION = {
    "ENVIRONMENT": "production",
    "SECRET_KEY": "k" * 32,
    "DATABASE_URL": "postgresql://app:secret@db/app",
    "AUTH_PROVIDER": "custom",
    "OIDC_ISSUER": "https://id.example.com/",
    "OIDC_AUDIENCE": "https://api.example.com",
}


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable is set, and the working directory has no `.env`."""
    for name in set(os.environ) - {"PYTEST_CURRENT_TEST"}:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    get_settings.cache_clear()


def problems(make: Callable[[], object]) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        make()
    return caught.value.problems


def isolated_problems(**values: Any) -> list[str]:
    return problems(lambda: Settings.isolated(**values))


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `code` in an interpreter of its own that has just these variables set."""
    return subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": os.pathsep.join(sys.path), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


class TestSources:
    def test_environment_wins_over_env_file_and_that_over_the_default(self, monkeypatch: pytest.MonkeyPatch) -> None:
        Path(".env").write_text("DB_POOL_SIZE=20\nDB_MAX_OVERFLOW=7\n")
        monkeypatch.setenv("DB_POOL_SIZE", "30")
        found = Settings()
        assert (found.DB_POOL_SIZE, found.DB_MAX_OVERFLOW, found.MAX_BODY_BYTES) == (30, 7, 1_048_576)

    def test_isolated_reads_neither_environment_nor_env_file(self, monkeypatch: pytest.MonkeyPatch) -> None:
        Path(".env").write_text("DB_POOL_SIZE=20\nNONSENSE=1\n")
        monkeypatch.setenv("DB_MAX_OVERFLOW", "30")
        monkeypatch.setenv("DATABASE_ULR", "misspelt")
        found = Settings.isolated(PROJECT_NAME="Mine")
        assert (found.PROJECT_NAME, found.DB_POOL_SIZE, found.DB_MAX_OVERFLOW) == ("Mine", 10, 0)

    def test_without_env_file_the_environment_is_still_read(self, monkeypatch: pytest.MonkeyPatch) -> None:
        Path(".env").write_text("DB_POOL_SIZE=20\n")
        monkeypatch.setenv("DB_MAX_OVERFLOW", "7")
        found = Settings(PROJECT_NAME="Mine", _env_file=None)
        assert (found.PROJECT_NAME, found.DB_POOL_SIZE, found.DB_MAX_OVERFLOW) == ("Mine", 10, 7)

    def test_two_settings_live_side_by_side(self) -> None:
        one, other = Settings.isolated(PROJECT_NAME="One"), Settings.isolated(PROJECT_NAME="Other")
        assert (one.PROJECT_NAME, other.PROJECT_NAME) == ("One", "Other")

    def test_settings_are_frozen(self) -> None:
        found = Settings.isolated()
        with pytest.raises(AttributeError, match="frozen"):
            found.DEBUG = True  # type: ignore[misc]
        assert not found.DEBUG
        assert hash(found) == hash(Settings.isolated())

    def test_a_copy_may_differ(self) -> None:
        original = Settings.isolated(DB_STATEMENT_TIMEOUT=3)
        copy = original.model_copy(update={"DB_STATEMENT_TIMEOUT": 0.5})
        assert copy.database_connect_args["server_settings"]["statement_timeout"] == "500"
        assert deepcopy(original) == original

    def test_an_empty_value_counts_as_not_set(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("REDIS_URL", "DB_POOL_SIZE", "DOCS_ENABLED", "SUPABASE_JWT_SECRET"):
            monkeypatch.setenv(name, "")
        assert Settings().model_fields_set == set()

    def test_an_empty_rate_is_a_value(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RATE_LIMIT", "")
        assert Settings().RATE_LIMIT == ""

    def test_blanks_around_a_value_are_not_part_of_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SECRET_KEY", f"{'k' * 32}\n")
        assert SecretStr("k" * 32) == Settings().SECRET_KEY

    def test_get_settings_reads_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        first = get_settings()
        monkeypatch.setenv("PROJECT_NAME", "Later")
        assert get_settings() is first

    def test_settings_is_read_on_first_use(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PROJECT_NAME", "Mine")
        assert "Mine" not in repr(settings)
        assert settings.PROJECT_NAME == "Mine"
        assert settings.issuer == get_settings().issuer


class TestImport:
    def test_reads_nothing_and_loads_no_driver(self, tmp_path: Path) -> None:
        ran = run(
            "import sys, app.core.config; app.core.config.settings\n"
            "sys.exit([name for name in ('sqlalchemy', 'asyncpg', 'redis', 'fastapi') if name in sys.modules])",
            DB_POOL_SIZE="not a number",
        )
        assert (ran.returncode, ran.stderr) == (1, "[]\n")


class TestLists:
    @pytest.mark.parametrize(
        "text",
        [
            "https://a.example,https://b.example",
            " https://A.example/ , https://b.example ,",
            '["https://a.example/","https://b.example"]',
        ],
    )
    def test_are_written_with_commas_or_in_json(self, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
        monkeypatch.setenv("BACKEND_CORS_ORIGINS", text)
        assert Settings().BACKEND_CORS_ORIGINS == ("https://a.example", "https://b.example")

    def test_may_be_empty_in_json(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("READINESS_REQUIRED", "[]")
        assert Settings().READINESS_REQUIRED == ()

    def test_broken_json_is_a_problem(self) -> None:
        assert isolated_problems(BACKEND_CORS_ORIGINS='["https://a') == [
            "BACKEND_CORS_ORIGINS (argument): expected a list, separated by commas or in JSON"
        ]


class TestValues:
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
            ("BACKEND_CORS_ORIGINS", "app.example.com"),
            ("BACKEND_CORS_ORIGINS", "https://app.example.com/path"),
            ("MAX_BODY_BYTES", "0"),
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
            ("SUPABASE_URL", "https://user:password@example.com"),
            ("CLERK_AUTHORIZED_PARTIES", "*"),
            ("OIDC_JWKS_URL", "file:///etc/passwd"),
            ("OIDC_ALGORITHMS", "HS256"),
            ("OIDC_ALGORITHMS", "none"),
            ("OIDC_ALGORITHMS", "RS256,ES256"),
            ("OIDC_ALGORITHMS", "[]"),
        ],
    )
    def test_refused(self, name: str, value: str) -> None:
        found = isolated_problems(**{name: value})
        assert len(found) == 1
        assert found[0].startswith(f"{name} (argument): expected")

    @pytest.mark.parametrize(
        ("name", "value", "expected"),
        [
            ("LOG_LEVEL", "warning", "WARNING"),
            ("BACKEND_CORS_ORIGINS", "*", ("*",)),
            ("BACKEND_CORS_ORIGINS", "http://[::1]:3000", ("http://[::1]:3000",)),
            ("RATE_LIMIT", "10 per 30 seconds", "10 per 30 seconds"),
            ("OIDC_ALGORITHMS", "ES256,ES384", ("ES256", "ES384")),
            ("OIDC_ALGORITHMS", "EdDSA", ("EdDSA",)),
            ("CLERK_ISSUER", "https://x.clerk.accounts.dev/", "https://x.clerk.accounts.dev"),
            ("OIDC_ISSUER", "https://x.example.com/", "https://x.example.com/"),
        ],
    )
    def test_accepted(self, name: str, value: str, expected: object) -> None:
        assert getattr(Settings.isolated(**{name: value}), name) == expected

    @pytest.mark.parametrize("rate", ["600/minute", "1 per second", "10/30seconds", "5 per 2 hours", "9/day"])
    def test_rates_are_those_that_the_limiter_reads(self, rate: str) -> None:
        from limits import parse

        assert str(parse(Settings.isolated(RATE_LIMIT=rate).RATE_LIMIT))


class TestProblems:
    def test_one_message_lists_all_with_their_sources(self, monkeypatch: pytest.MonkeyPatch) -> None:
        Path(".env").write_text("DB_POOL_SIZE=many\nDATABSE_URL=postgresql://db/app\nAUTH_PROVIDER=clerk\n")
        monkeypatch.setenv("ENVIRONMENT", "production")
        monkeypatch.setenv("DEBUG", "true")
        monkeypatch.setenv("BACKEND_CORS_ORIGINS", "*")
        with pytest.raises(SettingsError) as caught:
            get_settings()
        assert str(caught.value) == (
            "The configuration cannot be used:\n"
            "  - DATABSE_URL (.env): not a setting; did you mean DATABASE_URL?\n"
            "  - DB_POOL_SIZE (.env): expected a valid integer\n"
            "  - DEBUG (environment): expected false in production\n"
            "  - SECRET_KEY (not set): expected a secret of your own of 32 characters or more (openssl rand -hex 32)\n"
            "  - DATABASE_URL (not set): expected postgresql://user:password@host:port/database\n"
            "  - BACKEND_CORS_ORIGINS (environment): expected origins by name, not *: they may send credentials\n"
            "  - CLERK_ISSUER (not set): expected a value, because AUTH_PROVIDER is clerk\n"
            "  - CLERK_AUTHORIZED_PARTIES (not set): expected a value, because AUTH_PROVIDER is clerk"
        )

    def test_a_wrong_value_is_reported_once(self) -> None:
        assert isolated_problems(**PRODUCTION | {"SECRET_KEY": 5, "AUTH_PROVIDER": "okta"}) == [
            "SECRET_KEY (argument): expected a valid string",
            "AUTH_PROVIDER (argument): expected 'supabase', 'clerk', 'custom' or 'local'",
        ]

    @pytest.mark.parametrize(
        ("line", "problem"),
        [
            ("DATABASE_ULR=x", "DATABASE_ULR (.env): not a setting; did you mean DATABASE_URL?"),
            ("database_url=x", "database_url (.env): not a setting; did you mean DATABASE_URL?"),
            ("BACKEND_CORS=x", "BACKEND_CORS (.env): not a setting; did you mean BACKEND_CORS_ORIGINS?"),
            ("RATE_LIMT=", "RATE_LIMT (.env): not a setting; did you mean RATE_LIMIT?"),
            ("POSTGRES_HOST=x", "POSTGRES_HOST (.env): not a setting"),
            ("SECRET_KEY", ".env, line 2: expected NAME=value"),
            ("SECRET_KEY x", ".env, line 2: expected NAME=value"),
        ],
    )
    def test_of_env_file(self, line: str, problem: str) -> None:
        Path(".env").write_text(f"# Mine\n{line}\n")
        assert problems(get_settings) == [problem]

    def test_env_file_in_another_encoding(self) -> None:
        Path(".env").write_bytes(b"PROJECT_NAME=Caf\xe9\n")
        assert problems(get_settings) == [".env: cannot be read (UnicodeDecodeError)"]

    def test_docker_compose_may_share_the_env_file(self) -> None:
        Path(".env").write_text("COMPOSE_PROJECT_NAME=x\nPROJECT_NAME=Mine\n")
        assert get_settings().PROJECT_NAME == "Mine"

    @pytest.mark.parametrize(
        ("name", "meant"),
        [
            ("DATABASE_ULR", "DATABASE_URL"),
            ("DATABSE_URL", "DATABASE_URL"),
            ("DATABASE_URLS", "DATABASE_URL"),
            ("DB_POOLSIZE", "DB_POOL_SIZE"),
            ("Database_Url", "DATABASE_URL"),
            ("REDIS_URI", "REDIS_URL"),
            ("BACKEND_CORS_ORIGIN", "BACKEND_CORS_ORIGINS"),
            ("SECRET_KYE", "SECRET_KEY"),
        ],
    )
    def test_misspelt_variable(self, monkeypatch: pytest.MonkeyPatch, name: str, meant: str) -> None:
        monkeypatch.setenv(name, "x")
        expected = f"{name} (environment): did you mean {meant}? If it belongs to another program, set {meant} too"
        assert problems(get_settings) == [expected]

    def test_a_similar_variable_beside_the_right_one_belongs_to_another(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LOGLEVEL", "x")
        monkeypatch.setenv("LOG_LEVEL", "DEBUG")
        monkeypatch.setenv("REDIS_URI", "x")
        Path(".env").write_text("REDIS_URL=redis://cache\n")
        assert get_settings().LOG_LEVEL == "DEBUG"

    @pytest.mark.parametrize(
        "service", ["PLINTH", "PLINTH_API", "REDIS", "POSTGRESQL", "DATABASE", "DB", "AUTH", "SECRET"]
    )
    def test_variables_that_kubernetes_injects_are_left_alone(
        self, monkeypatch: pytest.MonkeyPatch, service: str
    ) -> None:
        for suffix in ("SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_HTTP", "PORT", "PORT_80_TCP_ADDR"):
            monkeypatch.setenv(f"{service}_{suffix}", "tcp://10.0.0.1:80")
        get_settings()

    @pytest.mark.parametrize(
        "name",
        [
            *(
                "DATABASE",
                "DATABASE_HOST",
                "POSTGRES_URL",
                "DB_HOST",
                "DB_PASSWORD",
                "REDIS_HOST",
                "REDIS_TLS_URL",
            ),
            *("UPSTASH_REDIS_REST_URL", "UPSTASH_REDIS_REST_TOKEN", "SUPABASE_KEY", "SUPABASE_ANON_KEY"),
            *(
                "CLERK_SECRET_KEY",
                "NDEBUG",
                "DEBUG_",
                "ENV",
                "LOGNAME",
                "LOG_FILE",
                "PROJECT_ID",
                "PATH",
                "HOME",
            ),
        ],
    )
    def test_variables_of_others_are_left_alone(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        monkeypatch.setenv(name, "x")
        get_settings()

    def test_unknown_argument(self) -> None:
        assert isolated_problems(DB_POOLSIZE=5) == ["DB_POOLSIZE (argument): not a setting; did you mean DB_POOL_SIZE?"]


class TestTraces:
    def test_are_off_unless_there_is_an_endpoint(self) -> None:
        assert Settings.isolated().traces_endpoint is None

    @pytest.mark.parametrize(
        ("values", "endpoint"),
        [
            ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318/"}, "http://collector:4318/v1/traces"),
            ({"OTEL_EXPORTER_OTLP_ENDPOINT": "https://otlp.example/otlp"}, "https://otlp.example/otlp/v1/traces"),
            (
                {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://b/own"},
                "http://b/own",
            ),
            ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a", "OTEL_SDK_DISABLED": "true"}, None),
            ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a", "OTEL_TRACES_EXPORTER": "none"}, None),
        ],
    )
    def test_go_where_the_standard_says(self, values: dict[str, str], endpoint: str | None) -> None:
        assert Settings.isolated(**values).traces_endpoint == endpoint

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://user:password@collector"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc"),
            ("OTEL_TRACES_EXPORTER", "zipkin"),
            ("OTEL_TRACES_SAMPLER", "jaeger_remote"),
            ("OTEL_TRACES_SAMPLER_ARG", "10"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "no-pair"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a=b,two words=c"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a=two%0Alines"),
            ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "a=\u00fc"),
            ("OTEL_RESOURCE_ATTRIBUTES", "no pairs"),
            ("OTEL_RESOURCE_ATTRIBUTES", "a=b,=c"),
            ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "4096"),
            ("LOG_ACCESS_SAMPLE", "1.1"),
        ],
    )
    def test_that_cannot_be_had_are_refused(self, name: str, value: str) -> None:
        (problem,) = isolated_problems(**{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a", name: value})
        assert problem.startswith(f"{name} (argument): ")
        assert value not in problem

    @pytest.mark.parametrize("headers", ["x-api-key=the-key", "Authorization=Basic YTpi==, b = c%2Cd", "a=b,"])
    def test_go_with_these_headers(self, headers: str) -> None:
        found = Settings.isolated(OTEL_EXPORTER_OTLP_HEADERS=headers).OTEL_EXPORTER_OTLP_HEADERS
        assert found is not None
        assert found.get_secret_value() == headers

    def test_what_others_need_does_not_matter_while_they_are_off(self) -> None:
        assert Settings.isolated(OTEL_EXPORTER_OTLP_PROTOCOL="grpc").traces_endpoint is None

    def test_go_by_their_own_protocol_whatever_other_signals_have(self) -> None:
        names = ("OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL")
        values = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a", **dict(zip(names, ("grpc", "http/protobuf"), strict=True))}
        assert Settings.isolated(**values).traces_endpoint == "http://a/v1/traces"

    @pytest.mark.parametrize("value", ["many", "-1", "1.5", "unset"])
    def test_have_limits_that_are_numbers(self, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
        """The SDK reads them by itself, when it is imported."""
        names = {name for name in vars(sdk_trace) if name.startswith("OTEL_") and name.endswith("_LIMIT")}
        assert len(names) == 8
        for name in names:
            monkeypatch.setenv(name, value)
        found = problems(get_settings)
        assert {problem.partition(" ")[0] for problem in found} == names
        assert {problem.partition(": ")[2] for problem in found} == {"expected a whole number, 0 or more"}

    @pytest.mark.parametrize("value", ["0", " 128 ", ""])
    def test_have_limits_that_the_sdk_takes(self, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
        monkeypatch.setenv("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", value)
        get_settings()
        sdk_trace.SpanLimits()

    def test_the_spelling_of_a_sampler_may_be_any(self) -> None:
        assert Settings.isolated(OTEL_TRACES_SAMPLER="Always_On").OTEL_TRACES_SAMPLER == "always_on"

    def test_other_signals_are_not_taken_for_slips(self) -> None:
        names = (
            "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
            "OTEL_METRICS_EXPORTER",
            "OTEL_LOGS_EXPORTER",
            "OTEL_PROPAGATORS",
        )
        code = "from app.core.config import get_settings; get_settings()"
        assert run(code, **dict.fromkeys(names, "none")).returncode == 0


class TestDeployment:
    @pytest.mark.parametrize("environment", ["staging", "production"])
    def test_complete_settings_pass(self, environment: str) -> None:
        assert Settings.isolated(**PRODUCTION | {"ENVIRONMENT": environment}).ENVIRONMENT.deployed

    @pytest.mark.parametrize("environment", ["staging", "production"])
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("SECRET_KEY", DEVELOPMENT_SECRET_KEY),
            ("SECRET_KEY", None),
            ("SECRET_KEY", "k" * 31),
            ("DATABASE_URL", None),
            ("DATABASE_URL", "sqlite+aiosqlite:///app.db"),
            ("BACKEND_CORS_ORIGINS", "https://app.example.com,*"),
            ("AUTH_PROVIDER", "local"),
            ("OIDC_ISSUER", "http://localhost:8080"),
            ("OIDC_JWKS_URL", "http://localhost:8080/keys"),
        ],
    )
    def test_refuses(self, environment: str, name: str, value: str | None) -> None:
        values = PRODUCTION | {"ENVIRONMENT": environment, name: value}
        found = isolated_problems(**{name: value for name, value in values.items() if value is not None})
        assert [problem.partition(" ")[0] for problem in found] == [name]

    def test_only_production_refuses_debug(self) -> None:
        assert isolated_problems(**PRODUCTION, DEBUG=True) == ["DEBUG (argument): expected false in production"]
        assert Settings.isolated(**PRODUCTION | {"ENVIRONMENT": "staging"}, DEBUG=True).DEBUG

    def test_a_required_redis_has_to_be_named(self) -> None:
        assert isolated_problems(**PRODUCTION, READINESS_REQUIRED="redis") == [
            "REDIS_URL (not set): expected a value, because READINESS_REQUIRED names redis"
        ]

    @pytest.mark.parametrize("environment", ["local", "test"])
    def test_development_needs_nothing(self, environment: str) -> None:
        found = Settings.isolated(ENVIRONMENT=environment, DEBUG=True, BACKEND_CORS_ORIGINS="*", SECRET_KEY="x")
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
    def test_docs(self, environment: str, wish: str | None, served: bool) -> None:
        values = PRODUCTION | {"ENVIRONMENT": environment} | ({"DOCS_ENABLED": wish} if wish else {})
        assert Settings.isolated(**values).docs_enabled is served


class TestIdentity:
    @pytest.mark.parametrize(
        ("values", "issuer", "jwks_url", "algorithms"),
        [
            ({}, "plinth-local", None, ("HS256",)),
            (
                {"AUTH_PROVIDER": "supabase", "SUPABASE_URL": "https://x.supabase.co/"},
                "https://x.supabase.co/auth/v1",
                "https://x.supabase.co/auth/v1/.well-known/jwks.json",
                ("ES256",),
            ),
            (
                {
                    "AUTH_PROVIDER": "supabase",
                    "SUPABASE_URL": "http://127.0.0.1:54321",
                    "SUPABASE_JWT_SECRET": "s" * 32,
                },
                "http://127.0.0.1:54321/auth/v1",
                "http://127.0.0.1:54321/auth/v1/.well-known/jwks.json",
                ("HS256",),
            ),
            (
                {
                    "AUTH_PROVIDER": "clerk",
                    "CLERK_ISSUER": "https://x.clerk.accounts.dev",
                    "CLERK_AUTHORIZED_PARTIES": "https://app.example.com",
                },
                "https://x.clerk.accounts.dev",
                "https://x.clerk.accounts.dev/.well-known/jwks.json",
                ("RS256",),
            ),
            (
                {"AUTH_PROVIDER": "custom", "OIDC_ISSUER": "https://id.example.com/", "OIDC_AUDIENCE": "api"},
                "https://id.example.com/",
                None,
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
                "http://localhost:8080",
                "http://[::1]:8080/keys",
                ("ES256", "ES384"),
            ),
        ],
    )
    def test_each_provider(
        self, values: dict[str, str], issuer: str, jwks_url: str | None, algorithms: tuple[str, ...]
    ) -> None:
        found = Settings.isolated(**values)
        assert (found.issuer, found.jwks_url, found.jwt_algorithms) == (issuer, jwks_url, algorithms)

    @pytest.mark.parametrize(
        ("provider", "names"),
        [
            ("supabase", ["SUPABASE_URL"]),
            ("clerk", ["CLERK_ISSUER", "CLERK_AUTHORIZED_PARTIES"]),
            ("custom", ["OIDC_ISSUER", "OIDC_AUDIENCE"]),
        ],
    )
    def test_each_provider_needs_its_settings(self, provider: str, names: list[str]) -> None:
        expected = [f"{name} (not set): expected a value, because AUTH_PROVIDER is {provider}" for name in names]
        assert isolated_problems(AUTH_PROVIDER=provider) == expected

    @pytest.mark.parametrize("name", ["SUPABASE_URL", "CLERK_ISSUER", "OIDC_ISSUER", "OIDC_JWKS_URL"])
    @pytest.mark.parametrize("url", ["http://id.example.com", "http://localhost.example.com", "http://10.0.0.1"])
    def test_plain_http_stays_on_this_machine(self, name: str, url: str) -> None:
        found = isolated_problems(**{name: url})
        assert len(found) == 1
        assert found[0].startswith(f"{name} (argument): expected https://")


class TestDatabase:
    def test_session_settings_and_time_limits(self) -> None:
        found = Settings.isolated(PROJECT_NAME="Mine", DB_CONNECT_TIMEOUT=0.3, DB_STATEMENT_TIMEOUT=2.5)
        assert found.database_connect_args == {
            "timeout": 0.3,
            "command_timeout": pytest.approx(2.7),
            "server_settings": {
                "application_name": "Mine",
                "statement_timeout": "2500",
                "idle_in_transaction_session_timeout": "60000",
                "timezone": "UTC",
                "jit": "off",
            },
        }

    @pytest.mark.parametrize(
        "values",
        [
            {"DATABASE_URL": "postgresql://app@pooler/app", "DB_TRANSACTION_POOLER": "true"},
            {"DATABASE_URL": "postgresql://app@pooler/app?pgbouncer=true"},
        ],
    )
    def test_a_transaction_pooler_gets_no_session_settings_and_no_named_statements(
        self, values: dict[str, str]
    ) -> None:
        found = Settings.isolated(**values)
        arguments = found.database_connect_args
        assert found.DB_TRANSACTION_POOLER
        assert arguments["prepared_statement_name_func"]() == ""
        assert arguments["statement_cache_size"] == arguments["prepared_statement_cache_size"] == 0
        assert "server_settings" not in arguments

    def test_what_the_url_says_wins(self) -> None:
        url = "postgresql://db/app?connect_timeout=7&application_name=cron&options=-c%20search_path%3Dx"
        arguments = Settings.isolated(DATABASE_URL=url).database_connect_args
        assert arguments["timeout"] == 7
        assert arguments["server_settings"]["application_name"] == "cron"
        assert arguments["server_settings"]["options"] == "-c search_path=x"
        assert arguments["server_settings"]["statement_timeout"] == "1300"

    def test_urls(self) -> None:
        found = Settings.isolated(DATABASE_URL="postgres://app:p%40ss@db:5433/app?sslmode=require")
        assert found.async_database_url == "postgresql+asyncpg://app:p%40ss@db:5433/app?ssl=require"
        assert found.sync_database_url == "postgresql://app:p%40ss@db:5433/app?sslmode=require"

    def test_sqlite_is_left_as_it_is(self) -> None:
        found = Settings.isolated(DATABASE_URL="sqlite+aiosqlite:///:memory:")
        assert found.async_database_url == "sqlite+aiosqlite:///:memory:"
        assert found.sync_database_url == "sqlite:///:memory:"
        assert found.database_connect_args == {}

    def test_a_certificate_that_cannot_be_loaded(self, tmp_path: Path) -> None:
        (tmp_path / "ca.pem").write_text("no certificate")
        url = f"postgresql://db/app?sslmode=verify-full&sslrootcert={tmp_path}/ca.pem"
        found = Settings.isolated(DATABASE_URL=url)
        with pytest.raises(SettingsError) as caught:
            _ = found.database_connect_args
        assert caught.value.problems == ["DATABASE_URL: sslrootcert: no certificate can be loaded from it"]
        assert caught.value.__context__ is None


class TestRedis:
    @pytest.mark.parametrize(
        ("values", "expected"),
        [
            ({}, None),
            ({"REDIS_URL": "redis://cache:6380/2"}, "redis://cache:6380/2"),
            (
                {"UPSTASH_REDIS_URL": "https://x-1.upstash.io/", "UPSTASH_REDIS_TOKEN": "to/ken="},
                "rediss://default:to%2Fken%3D@x-1.upstash.io:6379",
            ),
            (
                {
                    "REDIS_URL": "redis://cache",
                    "UPSTASH_REDIS_URL": "https://x-1.upstash.io",
                    "UPSTASH_REDIS_TOKEN": "token",
                },
                "redis://cache",
            ),
        ],
    )
    def test_url(self, values: dict[str, str], expected: str | None) -> None:
        assert Settings.isolated(**values).redis_url == expected

    @pytest.mark.parametrize(
        ("given", "missing"),
        [
            ({"UPSTASH_REDIS_URL": "https://x.upstash.io"}, "UPSTASH_REDIS_TOKEN"),
            ({"UPSTASH_REDIS_TOKEN": "token"}, "UPSTASH_REDIS_URL"),
        ],
    )
    def test_the_upstash_pair_goes_together(self, given: dict[str, str], missing: str) -> None:
        found = isolated_problems(**given)
        assert len(found) == 1
        assert found[0].startswith(f"{missing} (not set): expected")


SENTINEL = "s3ntinel"
SECRETS = {
    "SECRET_KEY": f"{SENTINEL}-{'k' * 32}",
    "DATABASE_URL": f"postgresql://app:{SENTINEL}@db/app",
    "REDIS_URL": f"redis://:{SENTINEL}@cache:6379/0?password={SENTINEL}",
    "UPSTASH_REDIS_URL": "https://x.upstash.io",
    "UPSTASH_REDIS_TOKEN": SENTINEL,
    "SUPABASE_JWT_SECRET": f"{SENTINEL}-{'k' * 32}",
}
MALFORMED = [
    ("SECRET_KEY", SENTINEL),
    ("DATABASE_URL", SENTINEL),
    ("DATABASE_URL", f"mysql://app:{SENTINEL}@db/app"),
    ("DATABASE_URL", f"postgresql://app:{SENTINEL}"),
    ("DATABASE_URL", f"postgresql://app:{SENTINEL}/{SENTINEL}@db/app"),
    ("DATABASE_URL", f"postgresql://app:12?{SENTINEL}=1@db/app"),
    ("DATABASE_URL", f"postgresql://app:12/{SENTINEL}@db/app"),
    ("DATABASE_URL", f"postgresql://app:{SENTINEL}#{SENTINEL}@db:{SENTINEL}/app"),
    ("DATABASE_URL", f"postgresql://app:{SENTINEL}@db/app?unheard_of={SENTINEL}"),
    ("DATABASE_URL", f"postgresql://app:{SENTINEL}@db/app?sslmode={SENTINEL}"),
    ("DATABASE_URL", f"postgresql://app@db/app?sslmode=require&sslcert=/nowhere&sslpassword={SENTINEL}"),
    ("REDIS_URL", f"http://:{SENTINEL}@cache"),
    ("REDIS_URL", f"redis://:{SENTINEL}/{SENTINEL}@cache:6379/0"),
    ("REDIS_URL", f"redis://:{SENTINEL}@cache:{SENTINEL}/0"),
    ("REDIS_URL", f"redis://[{SENTINEL}@cache"),
    ("UPSTASH_REDIS_URL", f"rediss://default:{SENTINEL}@x.upstash.io"),
    ("SUPABASE_JWT_SECRET", SENTINEL),
    ("SUPABASE_URL", f"https://app:{SENTINEL}@x.supabase.co"),
    ("OIDC_JWKS_URL", f"https://x.example.com?key={SENTINEL}"),
    ("BACKEND_CORS_ORIGINS", f'["{SENTINEL}'),
    ("DB_POOL_SIZE", SENTINEL),
    ("ENVIRONMENT", SENTINEL),
    ("RATE_LIMIT", SENTINEL),
]


def everything_shown(error: BaseException) -> str:
    """All that a log, a debugger or an error tracker shows: messages, tracebacks, causes, local variables."""
    shown = []
    pending: list[BaseException | None] = [error]
    while pending:
        if (current := pending.pop()) is not None:
            shown += [str(current), repr(current), repr(vars(current)), repr(current.args)]
            shown += traceback.TracebackException.from_exception(current, capture_locals=True).format()
            pending += [current.__cause__, current.__context__]
    return "".join(shown)


class TestSecrets:
    def test_are_not_in_any_form_of_the_settings(self) -> None:
        found = Settings.isolated(**SECRETS)
        shown = [
            repr(found),
            str(found),
            found.model_dump_json(),
            repr(found.model_dump()),
            repr(vars(found)),
        ]
        shown += [str(row) for row in effective_configuration(found)]
        assert SENTINEL not in "".join(shown)

    def test_are_not_in_the_error_of_a_write(self) -> None:
        with pytest.raises(AttributeError) as caught:
            Settings.isolated().SECRET_KEY = SENTINEL  # type: ignore[assignment, misc]
        assert SENTINEL not in str(caught.value)

    def test_are_not_in_the_errors_of_pydantic(self) -> None:
        assert Settings.model_config["hide_input_in_errors"]

    def test_are_not_pickled(self) -> None:
        with pytest.raises(TypeError, match="hold secrets"):
            pickle.dumps(Settings.isolated(**SECRETS))

    @pytest.mark.parametrize(("name", "value"), MALFORMED)
    def test_are_not_in_errors(self, monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
        for variable, secret in (PRODUCTION | SECRETS | {name: value}).items():
            monkeypatch.setenv(variable, secret)
        with pytest.raises(SettingsError) as caught:
            get_settings()
        del value, secret  # they are in this frame, which is in the traceback
        assert name in str(caught.value)
        assert caught.value.__cause__ is caught.value.__context__ is None
        frames = caught.value.with_traceback(caught.tb.tb_next)
        assert SENTINEL not in everything_shown(frames)

    @pytest.mark.parametrize(("name", "value"), MALFORMED)
    def test_are_not_in_errors_about_arguments(self, name: str, value: str) -> None:
        with pytest.raises(SettingsError) as caught:
            Settings.isolated(**PRODUCTION | SECRETS | {name: value})
        assert SENTINEL not in str(caught.value)
        assert caught.value.__cause__ is caught.value.__context__ is None

    def test_are_not_on_stderr_of_a_program_that_dies(self, tmp_path: Path) -> None:
        values = PRODUCTION | SECRETS | dict(MALFORMED) | {"ENVIRONMENT": "production"}
        (tmp_path / ".env").write_text(f"DATABSE_URL={SENTINEL}\nSECRET {SENTINEL}\nMIIEvQ{SENTINEL}==\n")
        ran = run("from app.core.config import settings; print(settings.DEBUG)", **values)
        assert ran.returncode == 1
        for name in {name for name, _ in MALFORMED} - {"ENVIRONMENT"} | {
            "DATABSE_URL",
            "Traceback",
            ".env, line 2",
            ".env, line 3",
        }:
            assert name in ran.stderr
        assert SENTINEL not in ran.stderr + ran.stdout


class TestEffectiveConfiguration:
    def test_has_a_row_for_every_setting_and_says_where_it_is_from(self) -> None:
        rows = {row.name: row for row in effective_configuration(Settings.isolated(DB_POOL_SIZE=10, DEBUG=True))}
        assert set(Settings.model_fields) < set(rows)
        assert (rows["DEBUG"].value, rows["DEBUG"].origin) == ("true", "set")
        assert (rows["DB_POOL_SIZE"].value, rows["DB_POOL_SIZE"].origin) == ("10", "set")
        assert (rows["REDIS_URL"].value, rows["REDIS_URL"].origin) == ("", "default")
        assert (rows["jwt_algorithms"].value, rows["jwt_algorithms"].origin) == ("HS256", "computed")

    def test_masks_the_secret_part_of_an_address(self) -> None:
        rows = {row.name: row.value for row in effective_configuration(Settings.isolated(**SECRETS))}
        assert rows["DATABASE_URL"] == "postgresql://app:********@db/app"
        assert rows["REDIS_URL"] == "redis://:********@cache:6379/0"
        assert rows["SECRET_KEY"] == rows["UPSTASH_REDIS_TOKEN"] == "********"

    def test_a_row_prints_as_a_line(self) -> None:
        assert str(effective_configuration(Settings.isolated())[1]) == f"{'ENVIRONMENT':<24}  default   local"


class TestEnvExample:
    LINE = re.compile(r"^(# )?([A-Z][A-Z0-9_]*)=(.*)$", re.MULTILINE)

    def test_has_every_setting_once_and_nothing_else(self) -> None:
        names = [name for _, name, _ in self.LINE.findall(ENV_EXAMPLE.read_text())]
        assert names == list(dict.fromkeys(names))
        assert set(names) == set(Settings.model_fields)

    def test_loads_as_it_is(self) -> None:
        found = Settings(_env_file=ENV_EXAMPLE)
        assert found.ENVIRONMENT is Environment.LOCAL
        # `plinth run` brings what is not set.
        assert "DATABASE_URL" not in found.model_fields_set
        assert found.redis_url is None

    def test_loads_with_all_that_is_optional(self, tmp_path: Path) -> None:
        everything = self.LINE.sub(r"\2=\3", ENV_EXAMPLE.read_text())
        (tmp_path / "all.env").write_text(everything)
        found = Settings(_env_file=tmp_path / "all.env")
        assert all(getattr(found, name) not in (None, ()) for name in Settings.model_fields)
        for provider in ("supabase", "clerk", "custom"):
            assert Settings(_env_file=tmp_path / "all.env", AUTH_PROVIDER=provider).issuer.startswith("https://")

    def test_what_it_calls_a_default_is_the_default(self, tmp_path: Path) -> None:
        commented = [f"{name}={value}" for hash_, name, value in self.LINE.findall(ENV_EXAMPLE.read_text()) if hash_]
        (tmp_path / "all.env").write_text("\n".join(commented))
        found, default = Settings(_env_file=tmp_path / "all.env"), Settings.isolated()
        for name in Settings.model_fields:
            if getattr(default, name) not in (None, ()):
                assert getattr(found, name) == getattr(default, name), name
