"""The command line: its output and its exit codes."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import notes
import plinth
from plinth.cli.jobs import STATES
from plinth.health.probe_server import ProbeServer
from plinth.jobs import State
from plinth.telemetry.logging import log_level
from plinth.testing import NO_DATABASE
from tests.support.cli import Run, command_line
from tests.support.logs import logging_as

SECRET = "a-secret-that-nobody-may-ever-read-0123456789"


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    with command_line(tmp_path) as run:
        yield run


class TestSettings:
    def test_config_check_names_every_wrong_setting_and_exits_with_2(self, run: Run) -> None:
        result = run("config", "check", DB_POOL_SIZE="many", ENVIRONMENT="moon", SECRET_KEY=SECRET)
        assert result.exit_code == 2
        assert "DB_POOL_SIZE" in result.stderr
        assert "ENVIRONMENT" in result.stderr
        assert SECRET not in result.output

    def test_config_check_prints_the_settings_without_secrets(self, run: Run) -> None:
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


@pytest.mark.parametrize("command", [["run"], ["with-servers", "true"]])
def test_command_without_the_embedded_servers_says_how_to_install_them(
    run: Run, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    for name in ("run", "with_servers"):
        monkeypatch.setitem(sys.modules, f"plinth.embedded.{name}", None)
    result = run(*command)
    assert result.exit_code == 2
    assert result.stderr.endswith(" is not installed. Install it with: pip install 'plinth[embedded]'\n")


class TestToken:
    def test_token_prints_a_token_and_nothing_else(self, run: Run) -> None:
        result = run("token", "--sub", "alice", "--scope", "items", "--role", "operator")
        assert result.exit_code == 0
        assert result.stdout.count(".") == 2
        assert len(result.stdout.split()) == 1

    def test_token_needs_the_local_provider(self, run: Run) -> None:
        result = run("token", "--sub", "alice", AUTH_PROVIDER="supabase", SUPABASE_URL="https://x.supabase.co")
        assert result.exit_code == 1
        assert "AUTH_PROVIDER" in result.stderr


class TestMigrate:
    def test_migrate_check_names_the_missing_migrations(self, run: Run, empty_database_url: str) -> None:
        result = run("migrate", "--check", DATABASE_URL=empty_database_url)
        assert result.exit_code == 1
        assert result.stdout.startswith("missing: ")

    def test_migrate_check_passes_on_a_migrated_database(self, run: Run, database_url: str) -> None:
        result = run("migrate", "--check", DATABASE_URL=database_url)
        assert (result.exit_code, result.stdout) == (0, "up to date\n")

    def test_migrations_can_be_applied_and_reverted(self, run: Run, empty_database_url: str) -> None:
        assert run("migrate", DATABASE_URL=empty_database_url).exit_code == 0
        assert run("migrate", "--down", "base", DATABASE_URL=empty_database_url).exit_code == 0
        assert run("migrate", "--check", DATABASE_URL=empty_database_url).exit_code == 1

    def test_migrate_without_a_database_ends_with_a_one_line_error(self, run: Run) -> None:
        result = run("migrate", "--wait", "0", DATABASE_URL="postgresql://plinth@127.0.0.1:1/plinth")
        assert result.exit_code == 1
        assert result.stderr.splitlines()[-1].startswith("The database does not answer (")


class TestWait:
    def test_wait_returns_at_once_on_a_migrated_database(self, run: Run, database_url: str) -> None:
        result = run("wait", DATABASE_URL=database_url)
        assert (result.exit_code, result.output) == (0, "")

    def test_wait_gives_up_and_names_the_missing_migrations(self, run: Run, empty_database_url: str) -> None:
        result = run("wait", "--timeout", "0", DATABASE_URL=empty_database_url)
        assert result.exit_code == 1
        assert result.stderr.splitlines()[-1].startswith("The database lacks the migrations ")


class TestJobs:
    """Errors are reported before a connection is opened: no database runs here."""

    @pytest.mark.parametrize(
        ("arguments", "complaint"),
        [
            (("jobs", "list", "--state", "dead"), "'dead' is not one of 'scheduled'"),
            (("jobs", "list", "--limit", "0"), "0 is not in the range"),
            (("jobs", "list", "--before", "yesterday"), "'yesterday' is not a valid UUID"),
            (("jobs", "show", "7"), "'7' is not a valid UUID"),
            (("jobs", "cancel"), "Missing argument"),
            (("jobs", "retry"), "Name jobs, or say which dead letters: --kind, --since, --until or --limit."),
            (("jobs", "retry", "--dry-run"), "Name jobs, or say which dead letters"),
            (("jobs", "retry", "01a213ea-e31e-76f9-a51f-fde878c43fe0", "--kind", "a"), "not both"),
            (("jobs", "retry", "01a213ea-e31e-76f9-a51f-fde878c43fe0", "--dry-run"), "not both"),
            (("jobs", "retry", "--since", "1h", "--until", "2h"), "--since has to be before --until"),
            (("jobs", "retry", "--since", "2w"), "expected a time such as 2030-01-31T08:00"),
            (("jobs", "retry", "--since", "2030-13-01"), "expected a time such as"),
            (("jobs", "retry", "--since", "999999999d"), "expected a time such as"),
            (("jobs", "retry", "--kind", "a b"), "'a b' is not a name"),
            (("jobs", "pause", "a b"), "'a b' is not a name"),
            (("jobs", "resume", ""), "'' is not a name"),
            (("jobs", "enqueue", "no.such.kind", "{}"), "There is no kind of job 'no.such.kind'."),
            (("worker", "--queues", "mail,a b"), "'a b' is not a name"),
            (("worker", "--queues", "mail,"), "'' is not a name"),
            (("worker", "--queues", ""), "'' is not a name"),
        ],
    )
    def test_wrong_arguments_of_a_jobs_command_are_refused(
        self, run: Run, arguments: tuple[str, ...], complaint: str
    ) -> None:
        result = run(*arguments, DATABASE_URL=NO_DATABASE)
        assert result.exit_code == 2, result.output
        assert complaint in result.stderr
        assert result.stdout == ""

    def test_jobs_command_with_wrong_settings_is_refused(self, run: Run) -> None:
        result = run("jobs", "list", DB_POOL_SIZE="many")
        assert result.exit_code == 2
        assert "DB_POOL_SIZE" in result.stderr

    @pytest.mark.parametrize("command", [("jobs", "list"), ("workers",), ("worker",)], ids=" ".join)
    def test_jobs_and_worker_commands_refuse_sqlite(self, run: Run, command: tuple[str, ...]) -> None:
        result = run(*command, DATABASE_URL="sqlite+aiosqlite:///jobs.db")
        assert (result.exit_code, result.output) == (2, "DATABASE_URL: jobs need PostgreSQL.\n")

    def test_every_job_state_is_a_choice_of_the_command_line(self) -> None:
        assert tuple(State) == STATES


def test_version_prints_those_of_the_service_and_the_platform(run: Run) -> None:
    assert run("version").stdout == f"{notes.__version__} (plinth {plinth.__version__})\n"


class TestLogLevel:
    """The command runs against the probe server of this process."""

    @pytest.fixture
    def port(self) -> Iterator[str]:
        server = ProbeServer("127.0.0.1", 0, alive=lambda: True, ready=lambda: True)
        with logging_as(LOG_LEVEL="INFO"):
            yield str(server.start())
            server.stop()

    def test_log_level_command_prints_and_changes_the_level(self, run: Run, port: str) -> None:
        said = [
            run("log-level", METRICS_PORT=port),
            run("log-level", "debug", METRICS_PORT=port),
            run("log-level", "--port", port),
            run("log-level", "WARNING", "--port", port, METRICS_PORT="1"),
        ]
        assert [result.exit_code for result in said] == [0] * 4
        assert [result.stdout for result in said] == ["INFO\n", "INFO -> DEBUG\n", "DEBUG\n", "DEBUG -> WARNING\n"]

    def test_unknown_log_level_is_refused(self, run: Run, port: str) -> None:
        result = run("log-level", "LOUD", METRICS_PORT=port)
        assert result.exit_code == 2
        assert "'LOUD' is not one of" in result.stderr
        assert log_level() == "INFO"

    def test_log_level_of_a_port_without_a_process_is_an_error(self, run: Run) -> None:
        result = run("log-level", METRICS_PORT="1")
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr == "No process answers on port 1 of this machine: ConnectionRefusedError.\n"

    def test_log_level_without_a_known_port_is_an_error(self, run: Run) -> None:
        result = run("log-level", METRICS_PORT="0")
        assert result.exit_code == 2
        assert "--port" in result.stderr
