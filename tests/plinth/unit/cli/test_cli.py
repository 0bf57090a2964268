"""The command line: its output and its exit codes."""

import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import jwt
import pytest
from click.types import FloatParamType

import notes
import plinth
from notes.config import Settings
from plinth.cli import main
from plinth.cli.common import refuse_known_keys
from plinth.cli.drain import TIMEOUT_SECONDS
from plinth.cli.jobs import STATES
from plinth.embedded.secret_key import make_key
from plinth.health.probe_server import ProbeServer
from plinth.identity.local import signing_keys
from plinth.jobs import State
from plinth.settings import DEVELOPMENT_SECRET_KEY
from plinth.settings.health import HealthSettings
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

    def test_config_check_prints_warnings_on_stderr(self, run: Run) -> None:
        result = run(
            *("config", "check"), OTEL_METRICS_EXPORTER="otlp", OTEL_LOGS_EXPORTER="none", OTEL_PROPAGATORS="jaeger"
        )
        assert result.exit_code == 0
        first, second = result.stderr.splitlines()
        assert first.startswith("warning: OTEL_LOGS_EXPORTER, OTEL_METRICS_EXPORTER: ignored")
        assert second.startswith("warning: OTEL_PROPAGATORS: ")

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

    def test_token_without_a_key_has_that_of_the_run_in_the_data_folder(self, run: Run, tmp_path: Path) -> None:
        for folder in (".plinth", "other"):
            (tmp_path / folder).mkdir()
            make_key(Settings.isolated(), tmp_path / folder)
        for folder, options in ((".plinth", ()), ("other", ("--data-dir", "other"))):
            key = (tmp_path / folder / "secret-key").read_text().strip()
            token = run("token", "--sub", "alice", *options).stdout.strip()
            signed, *_ = signing_keys(Settings.isolated(SECRET_KEY=key))
            assert jwt.decode(token, signed, ["HS256"], audience="plinth")["sub"] == "alice"

    def test_key_that_others_can_read_signs_no_token(self, run: Run, tmp_path: Path) -> None:
        (tmp_path / "secret-key").write_text(SECRET)
        (tmp_path / "secret-key").chmod(0o644)
        result = run("token", "--sub", "alice", "--data-dir", str(tmp_path))
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr.startswith(f"{tmp_path}/secret-key is not a key of this user's own")
        assert run("token", "--sub", "alice", "--data-dir", str(tmp_path), SECRET_KEY=SECRET).exit_code == 0


class TestKnownKey:
    """No process listens where other machines could reach it with a key that they could know."""

    @pytest.mark.parametrize("environment", ["local", "test"])
    @pytest.mark.parametrize(
        "host",
        ["0.0.0.0", "::", "", "0", "127.1", "10.0.0.1", "::ffff:0.0.0.0", "example.com", "localhost.example.com"],
    )
    @pytest.mark.parametrize("command", ["api", "run"])
    def test_known_key_is_refused_on_other_addresses_than_loopback(
        self, run: Run, command: str, host: str, environment: str
    ) -> None:
        given = {"ENVIRONMENT": environment, "DATABASE_URL": NO_DATABASE}
        for key in ({}, {"SECRET_KEY": DEVELOPMENT_SECRET_KEY}, {"SECRET_KEY": "short"}):
            if command == "run" and not key:  # it makes one
                continue
            result = run(command, "--host", host, **given, **key)
            assert result.exit_code == 2, result.output
            assert result.stderr.startswith("SECRET_KEY: expected a secret of your own of 32 characters or more ")
            assert f"on {host or 'every address'}. Set SECRET_KEY" in result.stderr

    @pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost", "LOCALHOST", "::ffff:127.0.0.1"])
    def test_known_key_is_allowed_on_loopback(self, host: str) -> None:
        refuse_known_keys(Settings.isolated(), host)

    @pytest.mark.parametrize("command", ["api", "run"])
    def test_known_secret_of_another_issuer_is_refused_too(self, run: Run, command: str) -> None:
        given = {
            "SECRET_KEY": secrets.token_hex(32),
            "AUTH_PROVIDER": "supabase",
            "SUPABASE_URL": "https://x.supabase.co",
        }
        example = "super-secret-jwt-token-with-at-least-32-characters-long"
        result = run(command, "--host", "0.0.0.0", **given, SUPABASE_JWT_SECRET=example)
        assert result.exit_code == 2
        assert result.stderr.startswith("SUPABASE_JWT_SECRET: expected a secret of your own ")
        assert example not in result.output

    def test_own_key_is_allowed_everywhere(self) -> None:
        refuse_known_keys(Settings.isolated(SECRET_KEY=secrets.token_hex(32)), "0.0.0.0")


class TestHost:
    def test_all_addresses_are_those_of_ipv4_where_there_is_no_ipv6(
        self, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As on a node whose kernel was started without it, where no socket of IPv6 can be made."""
        heard: list[str] = []
        monkeypatch.setattr("plinth.cli.serve", lambda _settings, *, host, **_options: heard.append(host))
        given = {"SECRET_KEY": secrets.token_hex(32), "DATABASE_URL": NO_DATABASE}
        for has_ipv6, host in ((True, "::1"), (False, "::1"), (False, "::")):
            monkeypatch.setattr("socket.has_dualstack_ipv6", lambda has_ipv6=has_ipv6: has_ipv6)
            assert run("api", "--host", host, **given).exit_code == 0
        assert heard == ["::1", "::1", "0.0.0.0"]


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
        assert result.stderr.splitlines()[-1].startswith("The database does not answer: ")

    @pytest.mark.parametrize(
        "options", [("--to", "heads", "--down", "base"), ("--check", "--down", "-1"), ("--check", "--to", "nowhere")]
    )
    def test_migrate_does_one_thing(self, run: Run, options: tuple[str, ...], empty_database_url: str) -> None:
        result = run("migrate", *options, DATABASE_URL=empty_database_url)
        assert result.exit_code == 2
        assert result.stderr.splitlines()[-1] == "Error: --check, --to and --down exclude one another."

    @pytest.mark.parametrize("option", ["--to", "--down"])
    @pytest.mark.parametrize("revision", ["", "@", "plinth@"])
    def test_a_revision_that_is_none_is_refused(self, run: Run, option: str, revision: str) -> None:
        result = run("migrate", option, revision, DATABASE_URL=NO_DATABASE)
        assert result.exit_code == 2
        assert "expected a revision, such as heads, -1 or plinth@base" in result.stderr

    @pytest.mark.parametrize("command", ["migrate", "wait"])
    def test_another_database_than_postgresql_is_refused(self, run: Run, command: str) -> None:
        result = run(command, DATABASE_URL="sqlite+aiosqlite://")
        assert (result.exit_code, result.stderr) == (2, "DATABASE_URL: this command needs PostgreSQL.\n")


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
        assert (result.exit_code, result.output) == (2, "DATABASE_URL: this command needs PostgreSQL.\n")

    def test_every_job_state_is_a_choice_of_the_command_line(self) -> None:
        assert tuple(State) == STATES


def test_version_needs_no_settings(run: Run) -> None:
    assert run("version", ENVIRONMENT="production").stdout == f"{notes.__version__} (plinth {plinth.__version__})\n"


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


class TestDrain:
    """The command runs against the probe server of this process."""

    def test_drain_comes_back_when_the_process_has_drained(self, run: Run) -> None:
        drained: list[None] = []
        with second_port(drain=lambda: drained.append(None)) as port:
            result = run("drain", METRICS_PORT=port)
            assert (result.exit_code, result.output, len(drained)) == (0, "", 1)
            result = run("drain", "--port", port, METRICS_PORT="1")
            assert (result.exit_code, result.output, len(drained)) == (0, "", 2)

    def test_drain_with_a_port_needs_no_settings(self, run: Run) -> None:
        """A preStop hook is to work whatever has become of the settings."""
        with second_port(drain=lambda: None) as port:
            assert run("drain", "--port", port, ENVIRONMENT="moon").exit_code == 0

    def test_drain_of_a_worker_is_refused(self, run: Run) -> None:
        with second_port() as port:
            result = run("drain", METRICS_PORT=port)
        assert (result.exit_code, result.stdout) == (1, "")
        assert (
            result.stderr
            == f"The process on port {port} refuses: only an API drains: SIGTERM is all that a worker needs.\n"
        )

    def test_drain_without_a_process_is_an_error(self, run: Run) -> None:
        result = run("drain", METRICS_PORT="1")
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr == "No process answers on port 1 of this machine: ConnectionRefusedError.\n"

    def test_drain_without_a_known_port_is_an_error(self, run: Run) -> None:
        result = run("drain", METRICS_PORT="0")
        assert result.exit_code == 2
        assert "--port" in result.stderr

    def test_drain_waits_for_longer_than_any_drain_takes(self) -> None:
        (longest,) = (part.le for part in HealthSettings.model_fields["DRAIN_SECONDS"].metadata if hasattr(part, "le"))
        assert longest < TIMEOUT_SECONDS


def options(command: click.Command, *path: str) -> Iterator[tuple[list[str], click.Parameter]]:
    """Every option of a command and of those below it, with what is typed before it."""
    for parameter in command.params:
        yield [*path], parameter
    for name, below in getattr(command, "commands", {}).items():
        yield from options(below, *path, name)


NUMBERS = [(path, option.opts[0]) for path, option in options(main) if isinstance(option.type, FloatParamType)]


class TestNumbers:
    @pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e999"])
    @pytest.mark.parametrize(("command", "option"), NUMBERS, ids=lambda part: "-".join(part).strip("-"))
    def test_what_is_no_finite_number_is_refused(self, run: Run, command: list[str], option: str, value: str) -> None:
        done = run(*command, f"{option}={value}")
        assert done.exit_code == 2
        assert f"Invalid value for '{option}'" in done.stderr


@contextmanager
def second_port(drain: Callable[[], None] | None = None) -> Iterator[str]:
    server = ProbeServer("127.0.0.1", 0, alive=lambda: True, ready=lambda: True, drain=drain)
    yield str(server.start())
    server.stop()


class TestHelp:
    @pytest.mark.parametrize("group", [name for name, command in main.commands.items() if hasattr(command, "commands")])
    def test_lists_of_commands_are_not_cut_on_a_terminal_of_80_columns(self, run: Run, group: str) -> None:
        for arguments in ((group,), ()):
            lines = run(*arguments, "--help", COLUMNS="80").stdout.splitlines()
            assert [line for line in lines[1:] if line.endswith("...")] == []

    @pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
    def test_shells_get_a_script_that_completes(self, shell: str) -> None:
        done = subprocess.run(
            [Path(sys.executable).with_name("plinth")],
            env={**os.environ, "_PLINTH_COMPLETE": f"{shell}_source"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert "_PLINTH_COMPLETE" in done.stdout
