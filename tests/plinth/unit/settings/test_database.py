from pathlib import Path
from typing import Any

import pytest

from plinth.cli.config import effective_configuration
from plinth.settings import PlatformSettings, SettingsError
from plinth.settings.urls import MASK
from tests.support.settings import clear_environment, isolated_problems, problems


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


class TestReplica:
    def test_there_is_none_by_default(self) -> None:
        assert PlatformSettings.isolated().of_replica is None

    def test_it_has_the_limits_of_the_database_and_its_own_address(self) -> None:
        found = PlatformSettings.isolated(
            DATABASE_URL="postgresql://db/app?connect_timeout=7",
            DATABASE_REPLICA_URL="postgresql://app@standby:5433,other/app?sslmode=require&application_name=reads",
            DB_POOL_SIZE=3,
            DB_CONNECT_TIMEOUT=0.3,
        ).of_replica
        assert found is not None
        assert found.async_database_url.startswith("postgresql+asyncpg://app@/app?host=standby,other&port=5433,5432")
        arguments = found.database_connect_args
        assert (found.DB_POOL_SIZE, arguments["timeout"]) == (3, 0.3)
        assert arguments["server_settings"]["application_name"] == "reads"

    @pytest.mark.parametrize(
        ("values", "pooled"),
        [
            ({"DATABASE_REPLICA_URL": "postgresql://pooler/app?pgbouncer=true"}, (False, True)),
            ({"DATABASE_REPLICA_URL": "postgresql://db/app", "DB_TRANSACTION_POOLER": True}, (True, True)),
            ({"DATABASE_REPLICA_URL": "postgresql://db/app"}, (False, False)),
        ],
    )
    def test_it_may_be_behind_a_pooler_alone(self, values: dict[str, Any], pooled: tuple[bool, bool]) -> None:
        found = PlatformSettings.isolated(**values)
        both = (found, found.of_replica)
        assert tuple(settings is not None and settings.DB_TRANSACTION_POOLER for settings in both) == pooled

    @pytest.mark.parametrize(
        "values",
        [
            {"DATABASE_REPLICA_URL": "sqlite+aiosqlite:///app.db"},
            {"DATABASE_REPLICA_URL": "postgresql://db/app", "DATABASE_URL": "sqlite+aiosqlite:///app.db"},
        ],
    )
    def test_sqlite_has_none(self, values: dict[str, str]) -> None:
        (problem,) = isolated_problems(**values)
        assert problem.startswith("DATABASE_REPLICA_URL (argument): expected a standby of the PostgreSQL server in")

    def test_wrong_url_is_told_with_the_other_problems(self, tmp_path: Path) -> None:
        (tmp_path / "ca.pem").write_text("no certificate")
        url = f"postgresql://db/app?sslmode=verify-full&sslrootcert={tmp_path}/ca.pem"
        assert isolated_problems(DATABASE_REPLICA_URL=url, PROJECT_NAME="x" * 64) == [
            "PROJECT_NAME (argument): expected at most 63 characters",
            "DATABASE_REPLICA_URL (argument): sslrootcert: no certificate can be loaded from it",
        ]
        (problem,) = isolated_problems(DATABASE_REPLICA_URL="postgresql://db/app?sslmod=require")
        assert problem == "DATABASE_REPLICA_URL (argument): 'sslmod' is not a parameter of libpq; did you mean sslmode?"

    def test_url_comes_from_a_file(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        clear_environment(monkeypatch, tmp_path)
        (tmp_path / "url").write_text("postgresql://standby/app\n")
        monkeypatch.setenv("DATABASE_REPLICA_URL_FILE", f"{tmp_path}/url")
        found = PlatformSettings().of_replica
        assert found is not None
        assert found.async_database_url == "postgresql+asyncpg://standby/app"

    def test_password_is_masked_where_the_url_is_shown(self) -> None:
        found = PlatformSettings.isolated(DATABASE_REPLICA_URL="postgresql://app:s3cret@standby/app")
        (row,) = [row for row in effective_configuration(found) if row.name == "DATABASE_REPLICA_URL"]
        assert row.value == f"postgresql://app:{MASK}@standby/app"


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
