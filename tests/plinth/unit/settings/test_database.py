from pathlib import Path

import pytest

from plinth.settings import PlatformSettings, SettingsError
from tests.support.settings import clear_environment, problems


def test_database_connections_have_session_settings_and_time_limits() -> None:
    found = PlatformSettings.isolated(PROJECT_NAME="Mine", DB_CONNECT_TIMEOUT=0.3, DB_STATEMENT_TIMEOUT=2.5)
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
def test_a_transaction_pooler_gets_no_session_settings_and_no_named_statements(values: dict[str, str]) -> None:
    found = PlatformSettings.isolated(**values)
    arguments = found.database_connect_args
    assert found.DB_TRANSACTION_POOLER
    assert arguments["prepared_statement_name_func"]() == ""
    assert arguments["statement_cache_size"] == arguments["prepared_statement_cache_size"] == 0
    assert "server_settings" not in arguments


def test_parameters_of_the_database_url_take_precedence() -> None:
    url = "postgresql://db/app?connect_timeout=7&application_name=cron&options=-c%20search_path%3Dx"
    arguments = PlatformSettings.isolated(DATABASE_URL=url).database_connect_args
    assert arguments["timeout"] == 7
    assert arguments["server_settings"]["application_name"] == "cron"
    assert arguments["server_settings"]["options"] == "-c search_path=x"
    assert arguments["server_settings"]["statement_timeout"] == "1300"


def test_database_url_is_translated_for_asyncpg_and_libpq() -> None:
    found = PlatformSettings.isolated(DATABASE_URL="postgres://app:p%40ss@db:5433/app?sslmode=require")
    assert found.async_database_url == "postgresql+asyncpg://app:p%40ss@db:5433/app?ssl=require"


def test_sqlite_url_is_left_as_it_is() -> None:
    found = PlatformSettings.isolated(DATABASE_URL="sqlite+aiosqlite:///:memory:")
    assert found.async_database_url == "sqlite+aiosqlite:///:memory:"
    assert found.database_connect_args == {}


def test_certificate_that_cannot_be_loaded_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    url = f"postgresql://db/app?sslmode=verify-full&sslrootcert={tmp_path}/ca.pem"
    found = PlatformSettings.isolated(DATABASE_URL=url)
    with pytest.raises(SettingsError) as caught:
        _ = found.database_connect_args
    assert caught.value.problems == ["DATABASE_URL: sslrootcert: no certificate can be loaded from it"]
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    ("name", "wrong", "right"),
    [
        ("PGSSLMODE", "s3cret", "require"),
        ("PGSSLNEGOTIATION", "s3cret", "postgres"),
        ("PGSSLMINPROTOCOLVERSION", "s3cret", "TLSv1.2"),
        ("PGSSLMAXPROTOCOLVERSION", "s3cret", "TLSv1.3"),
        ("PGTARGETSESSIONATTRS", "s3cret", "read-write"),
        ("PGGSSLIB", "s3cret", "gssapi"),
    ],
)
def test_wrong_variable_that_asyncpg_reads_stops_the_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, wrong: str, right: str
) -> None:
    clear_environment(monkeypatch, tmp_path)
    for value in (right, ""):
        monkeypatch.setenv(name, value)
        PlatformSettings()
    monkeypatch.setenv(name, wrong)
    (found,) = problems(PlatformSettings)
    assert found.startswith(f"{name} (environment): expected ")
    assert "s3cret" not in found
