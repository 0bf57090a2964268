"""The command line, as shells and scripts see it: what it prints, and its exit codes."""

from collections.abc import Callable, Iterator

import pytest
from click.testing import CliRunner, Result

from app import __version__
from app.cli import main
from app.core.config import get_settings

SECRET = "a-secret-that-nobody-may-ever-read-0123456789"

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Run a command in a folder of its own; keyword arguments are its environment."""
    monkeypatch.chdir(tmp_path)  # type: ignore[arg-type]
    monkeypatch.setattr("app.cli.configure_logging", lambda settings: None)  # it is for the whole process

    def run(*arguments: str, **environment: str) -> Result:
        get_settings.cache_clear()
        return CliRunner().invoke(main, arguments, env=environment)

    yield run
    get_settings.cache_clear()


class TestSettings:
    def test_wrong_ones_are_all_named_and_the_exit_code_is_2(self, run: Run) -> None:
        result = run("config", "check", DB_POOL_SIZE="many", ENVIRONMENT="moon", SECRET_KEY=SECRET)
        assert result.exit_code == 2
        assert "DB_POOL_SIZE" in result.stderr
        assert "ENVIRONMENT" in result.stderr
        assert SECRET not in result.output

    def test_what_is_in_force_is_printed_without_secrets(self, run: Run) -> None:
        result = run(
            "config",
            "check",
            SECRET_KEY=SECRET,
            DATABASE_URL=f"postgresql://me:{SECRET}@db.example/x",
            DB_POOL_SIZE="7",
        )
        assert result.exit_code == 0
        assert "db.example" in result.stdout
        assert SECRET not in result.output
        (row,) = (row for row in result.stdout.splitlines() if row.startswith("DB_POOL_SIZE"))
        assert row.split() == ["DB_POOL_SIZE", "set", "7"]


class TestToken:
    def test_it_prints_a_token_and_nothing_else(self, run: Run) -> None:
        result = run("token", "--sub", "alice", "--scope", "items", "--role", "operator")
        assert result.exit_code == 0
        assert result.stdout.count(".") == 2
        assert len(result.stdout.split()) == 1

    def test_only_the_local_provider_signs(self, run: Run) -> None:
        result = run("token", "--sub", "alice", AUTH_PROVIDER="supabase", SUPABASE_URL="https://x.supabase.co")
        assert result.exit_code == 1
        assert "AUTH_PROVIDER" in result.stderr


class TestMigrate:
    def test_check_tells_what_is_missing(self, run: Run, empty_database_url: str) -> None:
        result = run("migrate", "--check", DATABASE_URL=empty_database_url)
        assert result.exit_code == 1
        assert result.stdout.startswith("missing: ")

    def test_check_is_content_with_a_migrated_database(self, run: Run, database_url: str) -> None:
        result = run("migrate", "--check", DATABASE_URL=database_url)
        assert (result.exit_code, result.stdout) == (0, "up to date\n")

    def test_there_and_back(self, run: Run, empty_database_url: str) -> None:
        assert run("migrate", DATABASE_URL=empty_database_url).exit_code == 0
        assert run("migrate", "--down", "base", DATABASE_URL=empty_database_url).exit_code == 0
        assert run("migrate", "--check", DATABASE_URL=empty_database_url).exit_code == 1

    def test_what_keeps_it_from_working_is_a_sentence(self, run: Run) -> None:
        result = run("migrate", "--wait", "0", DATABASE_URL="postgresql://plinth@127.0.0.1:1/plinth")
        assert result.exit_code == 1
        assert result.stderr.splitlines()[-1].startswith("The database did not answer within 0 s")


def test_version(run: Run) -> None:
    assert run("version").stdout == f"{__version__}\n"
