import os
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from pydantic import AliasChoices, BaseModel, Field, SecretStr
from pydantic_settings import SettingsConfigDict

from plinth.settings import PlatformSettings, SettingsError
from tests.support.settings import PRODUCTION, isolated_problems, problems


def test_environment_wins_over_env_file_and_that_over_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("DB_POOL_SIZE=20\nDB_MAX_OVERFLOW=7\n")
    monkeypatch.setenv("DB_POOL_SIZE", "30")
    found = PlatformSettings()
    assert (found.DB_POOL_SIZE, found.DB_MAX_OVERFLOW, found.MAX_BODY_BYTES) == (30, 7, 1_048_576)


def test_isolated_reads_neither_environment_nor_env_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("DB_POOL_SIZE=20\nNONSENSE=1\n")
    monkeypatch.setenv("DB_MAX_OVERFLOW", "30")
    monkeypatch.setenv("DATABASE_ULR", "misspelt")
    found = PlatformSettings.isolated(PROJECT_NAME="Mine")
    assert (found.PROJECT_NAME, found.DB_POOL_SIZE, found.DB_MAX_OVERFLOW) == ("Mine", 10, 0)


def test_without_env_file_the_environment_is_still_read(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("DB_POOL_SIZE=20\n")
    monkeypatch.setenv("DB_MAX_OVERFLOW", "7")
    found = PlatformSettings(PROJECT_NAME="Mine", _env_file=None)
    assert (found.PROJECT_NAME, found.DB_POOL_SIZE, found.DB_MAX_OVERFLOW) == ("Mine", 10, 7)


def test_a_service_may_give_a_variable_another_name(monkeypatch: pytest.MonkeyPatch) -> None:
    class Shop(PlatformSettings):
        currency: str = Field("EUR", validation_alias="SHOP_CURRENCY")

    monkeypatch.setenv("SHOP_CURRENCY", "CHF")
    assert Shop(_env_file=None).currency == "CHF"


@pytest.mark.parametrize("alias", ["SHOP_CURRENCY", AliasChoices("SHOP_CURRENCY", "CURRENCY")])
def test_that_other_name_may_stand_in_the_env_file(alias: str | AliasChoices) -> None:
    class Shop(PlatformSettings):
        currency: str = Field("EUR", validation_alias=alias)

    Path(".env").write_text("SHOP_CURRENCY=CHF\n")
    assert Shop().currency == "CHF"
    Path(".env").write_text("SHOP_CURENCY=CHF\n")
    assert problems(Shop) == ["SHOP_CURENCY (.env): not a setting; did you mean SHOP_CURRENCY?"]


class Limits(BaseModel):
    daily: int = 1
    monthly: int = 1


class ShopSettings(PlatformSettings):
    LIMITS: Limits = Limits()
    DISCOUNTS: dict[str, int] = Field({"regular": 5})


@pytest.mark.parametrize(
    ("config", "variable"),
    [
        ({"env_nested_delimiter": "__"}, {"LIMITS__daily": "7"}),
        ({"env_prefix": "SHOP_"}, {"SHOP_LIMITS": '{"daily": 7}'}),
        ({"case_sensitive": False}, {"Limits": '{"daily": 7}'}),
    ],
)
def test_a_service_may_name_its_variables_as_pydantic_lets_it(
    monkeypatch: pytest.MonkeyPatch, config: SettingsConfigDict, variable: dict[str, str]
) -> None:
    class Shop(ShopSettings):
        model_config = config

    for name, value in variable.items():
        monkeypatch.setenv(name, value)
    assert Limits(daily=7) == Shop().LIMITS


def test_a_service_may_add_a_source_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    class Shop(ShopSettings):
        @classmethod
        def settings_customise_sources(cls, *args: Any, **sources: Any) -> tuple[Any, ...]:
            return (
                *super().settings_customise_sources(*args, **sources),
                lambda: {"LIMITS": {"daily": 7, "monthly": 8}},
            )

    assert Limits(daily=7, monthly=8) == Shop().LIMITS
    monkeypatch.setenv("LIMITS", '{"daily": 9}')
    assert Limits(daily=9, monthly=8) == Shop().LIMITS


def test_a_map_of_the_environment_takes_nothing_from_that_of_the_env_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text('DISCOUNTS={"student": 10}\n')
    monkeypatch.setenv("DISCOUNTS", '{"staff": 20}')
    assert ShopSettings().DISCOUNTS == {"staff": 20}


def test_null_in_json_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISCOUNTS", "null")
    assert ShopSettings().DISCOUNTS == {"regular": 5}


@pytest.mark.parametrize("value", ['{"staff": 20', "[" * 100_000])
def test_a_map_that_is_no_json_is_a_problem(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("DISCOUNTS", value)
    assert problems(ShopSettings) == ["DISCOUNTS (environment): expected a valid dictionary"]


def test_two_settings_objects_are_independent() -> None:
    one, other = PlatformSettings.isolated(PROJECT_NAME="One"), PlatformSettings.isolated(PROJECT_NAME="Other")
    assert (one.PROJECT_NAME, other.PROJECT_NAME) == ("One", "Other")


def test_settings_are_frozen() -> None:
    found = PlatformSettings.isolated()
    with pytest.raises(AttributeError, match="frozen"):
        found.DEBUG = True  # type: ignore[misc]
    assert not found.DEBUG
    assert hash(found) == hash(PlatformSettings.isolated())


def test_copy_of_settings_may_have_other_values() -> None:
    original = PlatformSettings.isolated(DB_STATEMENT_TIMEOUT=3)
    copy = original.model_copy(update={"DB_STATEMENT_TIMEOUT": 0.5})
    assert copy.database_connect_args["server_settings"]["statement_timeout"] == "500"
    assert deepcopy(original) == original


def test_an_empty_value_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REDIS_URL", "DB_POOL_SIZE", "DOCS_ENABLED", "SUPABASE_JWT_SECRET"):
        monkeypatch.setenv(name, "")
    assert PlatformSettings().model_fields_set == set()


def test_an_empty_rate_is_a_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RATE_LIMIT", "")
    assert PlatformSettings().RATE_LIMIT == ""


def test_blanks_around_a_value_are_stripped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_KEY", f"{'k' * 32}\n")
    assert SecretStr("k" * 32) == PlatformSettings().SECRET_KEY


@pytest.mark.parametrize(
    "text",
    [
        "https://a.example,https://b.example",
        " https://A.example/ , https://b.example ,",
        '["https://a.example/","https://b.example"]',
    ],
)
def test_lists_are_written_with_commas_or_in_json(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("BACKEND_CORS_ORIGINS", text)
    assert PlatformSettings().BACKEND_CORS_ORIGINS == ("https://a.example", "https://b.example")


def test_list_setting_may_be_empty_in_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("READINESS_REQUIRED", "[]")
    assert PlatformSettings().READINESS_REQUIRED == ()


@pytest.mark.parametrize("name", PlatformSettings.model_fields)
def test_bytes_of_the_environment_that_are_no_text_are_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, os.fsdecode(b"a=\xff"))
    (problem,) = problems(PlatformSettings)
    assert problem == f"{name} (environment): expected text in UTF-8"


@pytest.mark.parametrize("value", ['["https://a', "[" * 100_000])
def test_broken_json_of_a_list_is_a_problem(value: str) -> None:
    assert isolated_problems(BACKEND_CORS_ORIGINS=value) == [
        "BACKEND_CORS_ORIGINS (argument): expected a list, separated by commas or in JSON"
    ]


def test_one_error_lists_all_problems_with_their_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("DB_POOL_SIZE=many\nDATABSE_URL=postgresql://db/app\nAUTH_PROVIDER=clerk\n")
    monkeypatch.setenv("ENVIRONMENT", "production")
    monkeypatch.setenv("DEBUG", "true")
    monkeypatch.setenv("BACKEND_CORS_ORIGINS", "*")
    with pytest.raises(SettingsError) as caught:
        PlatformSettings()
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


def test_a_wrong_value_is_reported_once() -> None:
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
def test_problem_in_the_env_file_is_reported(line: str, problem: str) -> None:
    Path(".env").write_text(f"# Mine\n{line}\n")
    assert problems(PlatformSettings) == [problem]


def test_env_file_in_another_encoding_is_a_problem() -> None:
    Path(".env").write_bytes(b"PROJECT_NAME=Caf\xe9\n")
    assert problems(PlatformSettings) == [".env: cannot be read (UnicodeDecodeError)"]


def test_docker_compose_may_share_the_env_file() -> None:
    Path(".env").write_text("COMPOSE_PROJECT_NAME=x\nPROJECT_NAME=Mine\n")
    assert PlatformSettings().PROJECT_NAME == "Mine"


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
def test_misspelt_variable_is_reported(monkeypatch: pytest.MonkeyPatch, name: str, meant: str) -> None:
    monkeypatch.setenv(name, "x")
    expected = f"{name} (environment): did you mean {meant}? If it belongs to another program, set {meant} too"
    assert problems(PlatformSettings) == [expected]


def test_similar_variable_beside_the_right_one_is_no_misspelling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGLEVEL", "x")
    monkeypatch.setenv("LOG_LEVEL", "DEBUG")
    monkeypatch.setenv("REDIS_URI", "x")
    Path(".env").write_text("REDIS_URL=redis://cache\n")
    assert PlatformSettings().LOG_LEVEL == "DEBUG"


@pytest.mark.parametrize("service", ["PLINTH", "PLINTH_API", "REDIS", "POSTGRESQL", "DATABASE", "DB", "AUTH", "SECRET"])
def test_variables_that_kubernetes_injects_are_left_alone(monkeypatch: pytest.MonkeyPatch, service: str) -> None:
    for suffix in ("SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_HTTP", "PORT", "PORT_80_TCP_ADDR"):
        monkeypatch.setenv(f"{service}_{suffix}", "tcp://10.0.0.1:80")
    PlatformSettings()


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
        *("SUPABASE_KEY", "SUPABASE_ANON_KEY"),
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
def test_variables_of_other_programs_are_left_alone(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "x")
    PlatformSettings()


def test_unknown_settings_argument_is_refused() -> None:
    assert isolated_problems(DB_POOLSIZE=5) == ["DB_POOLSIZE (argument): not a setting; did you mean DB_POOL_SIZE?"]
