"""One form for every line, whoever wrote it, and nothing in it that its writer did not mean."""

import io
import json
import logging
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog

from app.core.logging import configure_logging, request_id_var
from tests.api import settings_with

HOSTILE = ["\nforged", "\x1b[2J", "\x9b31m", "a\rb", "\u2028", "\x08\x08", '"}\n{"message": "forged"}', "\0"]


class Stderr(io.StringIO):
    def __init__(self, *, terminal: bool) -> None:
        super().__init__()
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.getvalue().splitlines()]


Configure = Callable[..., Stderr]


@pytest.fixture
def configure(monkeypatch: pytest.MonkeyPatch) -> Iterator[Configure]:
    """Configures the logging of this process, and puts it back afterwards. Returns where the lines go."""
    root, access, config = logging.getLogger(), logging.getLogger("uvicorn.access"), structlog.get_config()
    kept = root.handlers, root.level, access.disabled
    root.handlers = []

    def configured(*, terminal: bool = False, **settings: Any) -> Stderr:
        stderr = Stderr(terminal=terminal)
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stderr", stderr)
            configure_logging(settings_with(**settings))
        return stderr

    yield configured
    root.handlers, root.level, access.disabled = kept
    structlog.configure(**config)


def fail(password: str) -> None:
    raise RuntimeError(f"no: {len(password)}")


class TestJson:
    def test_is_the_same_for_our_lines_and_for_others(self, configure: Configure) -> None:
        stderr = configure(LOG_FORMAT="json")

        structlog.get_logger().info("hello", size=1)
        logging.getLogger("uvicorn.error").info("hello %s", "world", extra={"size": 1, "color_message": "hello"})

        ours, theirs = stderr.lines()
        assert ours.pop("timestamp").endswith("Z")
        assert theirs.pop("timestamp").endswith("Z")
        assert ours == {"message": "hello", "level": "info", "size": 1}
        assert theirs == {"message": "hello world", "level": "info", "size": 1, "logger": "uvicorn.error"}

    def test_carries_the_request_s_id(self, configure: Configure) -> None:
        stderr = configure(LOG_FORMAT="json")

        token = request_id_var.set("a-request")
        structlog.get_logger().info("within")
        logging.getLogger("any").warning("within")
        request_id_var.reset(token)
        structlog.get_logger().info("outside")

        assert [line.get("request_id") for line in stderr.lines()] == ["a-request", "a-request", None]

    @pytest.mark.parametrize("hostile", HOSTILE)
    def test_keeps_a_line_a_line(self, configure: Configure, hostile: str) -> None:
        stderr = configure(LOG_FORMAT="json")

        structlog.get_logger().info(hostile, path=hostile)
        logging.getLogger("any").warning(hostile)

        ours, theirs = stderr.getvalue().split("\n")[:-1]
        assert json.loads(ours)["message"] == json.loads(ours)["path"] == json.loads(theirs)["message"] == hostile

    @pytest.mark.parametrize(
        "value", ["\ud800", object(), {1: object()}, float("nan"), b"\xff", {"\ud800": 1}, 10**400, [{}]]
    )
    def test_takes_any_value(self, configure: Configure, value: object) -> None:
        stderr = configure(LOG_FORMAT="json")

        structlog.get_logger().info("odd", value=value)
        logging.getLogger("any").warning("odd", extra={"value": value})

        assert [line["message"] for line in stderr.lines()] == ["odd", "odd"]


class TestConsole:
    @pytest.mark.parametrize("hostile", HOSTILE)
    def test_keeps_a_line_a_line(self, configure: Configure, hostile: str) -> None:
        stderr = configure(LOG_FORMAT="console")

        structlog.get_logger().info("request", path=hostile)
        logging.getLogger("any").warning(hostile)

        ours, theirs = stderr.getvalue().split("\n")[:-1]
        assert ours.isprintable()
        assert theirs.isprintable()


class TestTracebacks:
    @pytest.mark.parametrize("form", ["json", "console"])
    def test_show_the_code_and_not_the_values_of_variables(self, configure: Configure, form: str) -> None:
        stderr = configure(LOG_FORMAT=form)
        for log in (structlog.get_logger(), logging.getLogger("any")):
            try:
                fail("hunter" + "2")
            except RuntimeError:
                log.exception("failed")

        assert stderr.getvalue().count("RuntimeError: no: 7") == 2
        assert stderr.getvalue().count("in fail") == 2
        assert "hunter2" not in stderr.getvalue()


class TestForm:
    @pytest.mark.parametrize("terminal", [True, False])
    def test_is_json_unless_somebody_looks_on(self, configure: Configure, terminal: bool) -> None:
        stderr = configure(LOG_FORMAT="auto", terminal=terminal)

        structlog.get_logger().info("hello")

        assert stderr.getvalue().startswith("{") is not terminal


class TestLevel:
    def test_holds_for_everybody(self, configure: Configure) -> None:
        stderr = configure(LOG_LEVEL="warning", LOG_FORMAT="json")

        for log in (structlog.get_logger(), logging.getLogger("any")):
            log.info("quiet")
            log.warning("loud")

        assert [line["message"] for line in stderr.lines()] == ["loud", "loud"]

    def test_of_uvicorn_s_access_lines_is_silence(self, configure: Configure) -> None:
        stderr = configure()

        logging.getLogger("uvicorn.access").info("GET /")

        assert stderr.getvalue() == ""
