"""Log lines of structlog and logging: format, level, tracebacks and redaction."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
import structlog

from plinth.telemetry import log_records
from plinth.telemetry.log_records import attempt_var, job_id_var, render_json, request_id_var
from plinth.telemetry.logging import log_level, set_log_level
from tests.support.logs import Configure
from tests.support.notes import PACKAGES

HOSTILE = ["\nforged", "\x1b[2J", "\x9b31m", "a\rb", "\u2028", "\x08\x08", '"}\n{"message": "forged"}', "\0"]


def fail(password: str) -> None:
    raise RuntimeError(f"no: {len(password)}")


@pytest.mark.parametrize("form", ["json", "console"])
async def test_lines_of_httpx_have_no_query(configure: Configure, form: str) -> None:
    """Where keys and signatures of other services are, under names that are no secret's."""
    stderr = configure(LOG_FORMAT=form)
    moved = {"Location": "https://maps.example/there?code=hunter2"}
    transport = httpx.MockTransport(
        lambda request: httpx.Response(302 if "sig" in str(request.url) else 204, headers=moved)
    )
    async with httpx.AsyncClient(transport=transport, follow_redirects=True) as client:
        await client.get("https://maps.example/here?sig=hunter2&key=hunter2")
    first, second = stderr.getvalue().splitlines()
    assert "GET https://maps.example/here " in first
    assert "302 Found" in first
    assert "GET https://maps.example/there " in second
    assert "hunter2" not in stderr.getvalue()


class TestJson:
    def test_json_lines_of_structlog_and_logging_have_one_form(self, configure: Configure) -> None:
        stderr = configure(LOG_FORMAT="json")

        structlog.get_logger().info("hello", size=1)
        logging.getLogger("uvicorn.error").info("hello %s", "world", extra={"size": 1, "color_message": "hello"})

        ours, theirs = stderr.lines()
        assert ours.pop("timestamp").endswith("Z")
        assert theirs.pop("timestamp").endswith("Z")
        assert ours == {"message": "hello", "level": "info", "size": 1}
        assert theirs == {"message": "hello world", "level": "info", "size": 1, "logger": "uvicorn.error"}

    def test_json_timestamp_always_has_microseconds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        second = int(datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC).timestamp())
        monkeypatch.setattr(log_records, "time_ns", lambda: second * 10**9)
        line = json.loads(render_json(None, "info", {"event": "x"}))
        assert line["timestamp"] == "2026-01-02T03:04:05.000000Z"

    def test_json_line_has_the_request_id(self, configure: Configure) -> None:
        stderr = configure(LOG_FORMAT="json")

        token = request_id_var.set("a-request")
        structlog.get_logger().info("within")
        logging.getLogger("any").warning("within")
        request_id_var.reset(token)
        structlog.get_logger().info("outside")

        assert [line.get("request_id") for line in stderr.lines()] == ["a-request", "a-request", None]

    def test_json_line_has_the_job_id_and_attempt(self, configure: Configure) -> None:
        stderr = configure(LOG_FORMAT="json")

        tokens = job_id_var.set("a-job"), attempt_var.set(2)
        structlog.get_logger().info("within")
        structlog.get_logger().info("of another one", job_id="another", attempt=3)
        logging.getLogger("any").warning("within")
        job_id_var.reset(tokens[0])
        attempt_var.reset(tokens[1])
        structlog.get_logger().info("outside")

        lines = [(line.get("job_id"), line.get("attempt")) for line in stderr.lines()]
        assert lines == [("a-job", 2), ("another", 3), ("a-job", 2), (None, None)]

    @pytest.mark.parametrize("hostile", HOSTILE)
    def test_json_log_entry_stays_on_one_line(self, configure: Configure, hostile: str) -> None:
        stderr = configure(LOG_FORMAT="json")

        structlog.get_logger().info(hostile, path=hostile)
        logging.getLogger("any").warning(hostile)

        ours, theirs = stderr.getvalue().split("\n")[:-1]
        assert json.loads(ours)["message"] == json.loads(ours)["path"] == json.loads(theirs)["message"] == hostile

    @pytest.mark.parametrize(
        "value", ["\ud800", object(), {1: object()}, float("nan"), b"\xff", {"\ud800": 1}, 10**400, [{}]]
    )
    def test_json_log_line_accepts_any_value(self, configure: Configure, value: object) -> None:
        stderr = configure(LOG_FORMAT="json")

        structlog.get_logger().info("odd", value=value)
        logging.getLogger("any").warning("odd", extra={"value": value})

        assert [line["message"] for line in stderr.lines()] == ["odd", "odd"]
        for line in stderr.getvalue().splitlines():
            timestamp = json.loads(line, parse_constant=pytest.fail)["timestamp"]  # NaN and Infinity are no JSON
            assert datetime.fromisoformat(timestamp).tzinfo is not None


class TestConsole:
    @pytest.mark.parametrize("hostile", HOSTILE)
    def test_console_log_entry_stays_on_one_line(self, configure: Configure, hostile: str) -> None:
        stderr = configure(LOG_FORMAT="console")

        structlog.get_logger().info("request", path=hostile)
        logging.getLogger("any").warning(hostile)

        ours, theirs = stderr.getvalue().split("\n")[:-1]
        assert ours.isprintable()
        assert theirs.isprintable()


class TestTracebacks:
    @pytest.mark.parametrize("form", ["json", "console"])
    def test_tracebacks_show_code_but_no_values_of_variables(self, configure: Configure, form: str) -> None:
        stderr = configure(LOG_FORMAT=form)
        for log in (structlog.get_logger(), logging.getLogger("any")):
            try:
                fail("hunter" + "2")
            except RuntimeError:
                log.exception("failed")

        assert stderr.getvalue().count("RuntimeError: no: 7") == 2
        assert stderr.getvalue().count("in fail") == 2
        assert "hunter2" not in stderr.getvalue()

    @pytest.mark.parametrize("hostile", ["\x1b[2J", "\x9b31m", "a\rb", "\x08\x08"])
    def test_console_traceback_contains_no_control_characters(self, configure: Configure, hostile: str) -> None:
        stderr = configure(LOG_FORMAT="console")
        try:
            raise RuntimeError(f"first\n\t{hostile}")
        except RuntimeError:
            structlog.get_logger().exception("failed")

        lines = stderr.getvalue().split("\n")
        assert "RuntimeError: first" in lines
        assert all(line.replace("\t", "").isprintable() for line in lines)


class TestFormat:
    @pytest.mark.parametrize("terminal", [True, False])
    def test_automatic_log_format_is_json_except_on_a_terminal(self, configure: Configure, terminal: bool) -> None:
        stderr = configure(LOG_FORMAT="auto", terminal=terminal)

        structlog.get_logger().info("hello")

        assert stderr.getvalue().startswith("{") is not terminal


class TestLevel:
    def test_log_level_applies_to_structlog_and_logging(self, configure: Configure) -> None:
        stderr = configure(LOG_LEVEL="warning", LOG_FORMAT="json")

        for log in (structlog.get_logger(), logging.getLogger("any")):
            log.info("quiet")
            log.warning("loud")

        assert [line["message"] for line in stderr.lines()] == ["loud", "loud"]

    def test_access_log_of_uvicorn_is_off(self, configure: Configure) -> None:
        stderr = configure()

        logging.getLogger("uvicorn.access").info("GET /")

        assert stderr.getvalue() == ""

    def test_log_level_change_reaches_loggers_already_in_use(self, configure: Configure) -> None:
        stderr = configure(LOG_LEVEL="INFO", LOG_FORMAT="json")
        structlog.configure(cache_logger_on_first_use=True)  # as outside of tests
        loggers = [structlog.get_logger(), structlog.get_logger().bind(a=1), logging.getLogger("any")]

        for level in ("INFO", "DEBUG", "ERROR", "INFO"):
            set_log_level(level)
            assert log_level() == level
            for log in loggers:
                for name in ("debug", "info", "error"):
                    getattr(log, name)(f"{name} at {level}")

        assert [line["message"] for line in stderr.lines()] == [
            message
            for messages in (
                ("info at INFO", "error at INFO"),
                ("debug at DEBUG", "info at DEBUG", "error at DEBUG"),
                ("error at ERROR",),
                ("info at INFO", "error at INFO"),
            )
            for _ in loggers
            for message in messages
        ]

    def test_plugins_of_alembic_are_not_told_when_a_command_imports_it(self, configure: Configure) -> None:
        stderr = configure(LOG_FORMAT="json")
        logging.getLogger("alembic.runtime.plugins").info("setup plugin alembic.autogenerate.schemas")
        assert stderr.getvalue() == ""

    @pytest.mark.parametrize("level", ["", "info", "LOUD", "10", "NOTSET"])
    def test_invalid_log_level_is_refused(self, configure: Configure, level: str) -> None:
        configure(LOG_LEVEL="WARNING")

        with pytest.raises(ValueError, match="DEBUG, INFO"):
            set_log_level(level)
        assert log_level() == "WARNING"


def traceback_with(secret: str) -> None:
    raise RuntimeError(f"cannot connect to postgresql://plinth:{secret}@db/plinth with token={secret}")


class TestSecrets:
    SECRET = "hunter2-hunter2"

    @pytest.mark.parametrize("form", ["json", "console"])
    def test_secrets_are_redacted_in_every_part_of_a_log_line(self, configure: Configure, form: str) -> None:
        stderr = configure(LOG_FORMAT=form)
        secret = self.SECRET
        more = {"client_secret": secret, "headers": {"Authorization": f"Bearer {secret}", "ok": "fine"}}
        ours, theirs = structlog.get_logger(), logging.getLogger("any")
        ours.warning("password=" + secret, **more)
        theirs.warning("password=%s", secret, extra=more)
        try:
            traceback_with(secret)
        except RuntimeError as error:
            ours.exception("failed", error=error, cause=repr(error))
            theirs.exception("failed: %s", error, extra={"cause": error})

        said = stderr.getvalue()
        assert secret not in said
        assert said.count("password=********") == 2
        assert said.count("fine") == 2
        assert said.count("in traceback_with") == 2
        assert "postgresql://plinth:********@db/plinth" in said


PROCESS = """
import atexit, logging, sys, threading, warnings
import structlog
from notes.config import Settings
from plinth.telemetry.logging import configure_logging

configure_logging(Settings(_env_file=None, LOG_FORMAT=sys.argv[1]))
logging.getLogger("lib").warning("password=%s, attempt %d", "hunter2", "soon")
warnings.warn("password=hunter2")

def fail():
    raise ValueError("password=hunter2")

thread = threading.Thread(target=fail, name="helper")
thread.start()
thread.join()
logging.getLogger("lib").warning("odd", extra={1: "a b"})
structlog.get_logger().info(None)

class Mute:
    def __str__(self):
        fail()

    def __del__(self):
        fail()

logging.getLogger("lib").warning(Mute())
atexit.register(fail)
fail()
"""


class TestPythonOutput:
    """Warnings and uncaught exceptions that Python prints become log lines."""

    @pytest.fixture
    def run(self, tmp_path: Path) -> Callable[[str], str]:
        def run(form: str) -> str:
            (tmp_path / "process.py").write_text(PROCESS)
            command = [sys.executable, str(tmp_path / "process.py"), form]
            env = {**os.environ, "PYTHONPATH": PACKAGES}
            done = subprocess.run(command, cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True, check=False)
            assert done.returncode == 1
            assert "hunter2" not in done.stderr
            return done.stderr

        return run

    def test_warnings_and_uncaught_exceptions_are_logged_as_json(self, run: Callable[[str], str]) -> None:
        lines = [json.loads(line) for line in run("json").splitlines()]
        bad, warning, in_thread, odd, empty, mute, deleted, uncaught, at_exit = lines
        assert (bad["message"], bad["logger"], bad["level"]) == ("a line could not be written", "lib", "error")
        assert (bad["template"], bad["error"]) == ("password=********, attempt %d", "TypeError")
        assert bad["place"].endswith("process.py:8")
        assert (warning["logger"], warning["level"]) == ("py.warnings", "warning")
        assert (in_thread["message"], in_thread["thread"]) == ("uncaught exception", "helper")
        assert odd["1"] == "a b"
        assert empty["message"] is None
        assert (mute["template"], mute["error"]) == ("Mute", "ValueError")
        for unraisable in (deleted, at_exit):
            assert (unraisable["message"], unraisable["level"]) == ("uncaught exception", "error")
            assert "in fail" in unraisable["exception"]
        assert (uncaught["message"], uncaught["level"]) == ("uncaught exception", "critical")
        assert "in fail" in uncaught["exception"]

    def test_warnings_and_uncaught_exceptions_are_logged_on_the_console(self, run: Callable[[str], str]) -> None:
        text = run("console")
        assert text.count("uncaught exception") == 4
        assert text.count("a line could not be written") == 2
