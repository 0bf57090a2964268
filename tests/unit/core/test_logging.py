"""One form for every line, whoever wrote it, and nothing in it that its writer did not mean."""

import asyncio
import gc
import json
import logging
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from select import PIPE_BUF

import pytest
import structlog
from structlog.testing import capture_logs

from app.core import logging as app_logging
from app.core.logging import (
    MAX_WAITING,
    attempt_var,
    job_id_var,
    log_level,
    log_values,
    request_id_var,
    set_log_level,
    write_waiting,
)
from tests.logs import Stderr, logging_as

HOSTILE = ["\nforged", "\x1b[2J", "\x9b31m", "a\rb", "\u2028", "\x08\x08", '"}\n{"message": "forged"}', "\0"]


Configure = Callable[..., Stderr]


@pytest.fixture
def configure() -> Iterator[Configure]:
    """Configures the logging of this process, and puts it back afterwards. Returns where the lines go."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(logging_as(**options))


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

    def test_carries_the_job_s_id_and_attempt(self, configure: Configure) -> None:
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
        for line in stderr.getvalue().splitlines():
            timestamp = json.loads(line, parse_constant=pytest.fail)["timestamp"]  # NaN and Infinity are no JSON
            assert datetime.fromisoformat(timestamp).tzinfo is not None


class TestSoon:
    """Lines of what went well wait for one another, and nobody sees it of them."""

    @staticmethod
    def say(number: int, *more: object, soon: bool = True) -> None:
        log_values("said", ("number", "more"), (number, *more), app_logging._ids(), soon=soon)

    async def test_comes_by_itself(self, configure: Configure) -> None:
        stderr = configure(LOG_FORMAT="json")
        self.say(1)
        self.say(2, "x")
        assert stderr.written() == ""
        for _ in range(1000):
            await asyncio.sleep(0.01)
            if stderr.written():
                break
        first, second = [json.loads(line) for line in stderr.written().splitlines()]
        del first["timestamp"], second["timestamp"]
        assert first == {"message": "said", "level": "info", "number": 1}
        assert second == {"message": "said", "level": "info", "number": 2, "more": "x"}

    async def test_is_as_if_it_had_been_written_at_once(self, configure: Configure) -> None:
        lines = []
        for soon in (False, True):
            stderr = configure(LOG_FORMAT="json")
            token = request_id_var.set("a-request")
            before = datetime.now(UTC)
            self.say(1, "postgresql://user:hunter2@host/", soon=soon)
            after = datetime.now(UTC)
            request_id_var.reset(token)
            await asyncio.sleep(0.01)
            (line,) = stderr.lines()
            assert before <= datetime.fromisoformat(line.pop("timestamp")) <= after
            lines.append(line)
        assert lines[0] == lines[1]
        assert lines[0]["request_id"] == "a-request"
        assert "hunter2" not in lines[0]["more"]

    @pytest.mark.parametrize("other", ["ours", "theirs", "at once"])
    async def test_comes_before_what_is_said_later(self, configure: Configure, other: str) -> None:
        stderr = configure(LOG_FORMAT="json")
        self.say(1)
        if other == "ours":
            structlog.get_logger().warning("later")
        elif other == "theirs":
            logging.getLogger("any").warning("later")
        else:
            self.say(2, soon=False)
        self.say(3)
        numbers = [json.loads(line).get("number") for line in stderr.written().splitlines()]
        assert numbers == ([1, 2] if other == "at once" else [1, None])
        assert stderr.lines()[-1]["number"] == 3

    async def test_is_not_overtaken_by_another_thread_s(
        self, configure: Configure, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stderr = configure(LOG_FORMAT="json")
        other = threading.Thread(target=structlog.get_logger().info, args=("later",))
        write = app_logging._write_together

        def interrupted(lines: list[bytes]) -> None:
            if not other.ident:
                other.start()
                other.join(app_logging.SOON_SECONDS / 2)
            write(lines)

        monkeypatch.setattr(app_logging, "_write_together", interrupted)
        self.say(1)
        write_waiting()
        other.join()
        assert [line["message"] for line in stderr.lines()] == ["said", "later"]

    async def test_comes_though_another_thread_has_taken_long_to_write(self, configure: Configure) -> None:
        stderr = configure(LOG_FORMAT="json")
        holds, done = threading.Event(), threading.Event()

        def hold() -> None:
            with app_logging._writing:
                holds.set()
                done.wait(10)

        thread = threading.Thread(target=hold)
        thread.start()
        holds.wait(10)
        self.say(1)
        await asyncio.sleep(3 * app_logging.SOON_SECONDS)
        assert stderr.written() == ""
        done.set()
        thread.join()
        for _ in range(1000):
            await asyncio.sleep(0.01)
            if stderr.written():
                break
        assert json.loads(stderr.written())["number"] == 1

    async def test_is_written_in_pieces_that_no_other_process_tears(
        self, configure: Configure, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        configure(LOG_FORMAT="json")
        pieces: list[bytes] = []
        monkeypatch.setattr(app_logging, "_write", pieces.append)
        for number in range(150):
            self.say(number, "x" * (10_000 if number == 70 else number))
        write_waiting()
        assert [json.loads(line)["number"] for piece in pieces for line in piece.splitlines()] == [*range(150)]
        assert 2 < len(pieces) < 20
        # With the line break at the end.
        assert {len(piece.splitlines()) for piece in pieces if len(piece) + 1 > PIPE_BUF} == {1}

    def test_comes_by_itself_in_each_loop(self, configure: Configure) -> None:
        stderr = configure(LOG_FORMAT="json")

        async def say() -> None:
            self.say(1)

        async def say_and_wait() -> None:
            self.say(2)
            for _ in range(1000):
                await asyncio.sleep(0.01)
                if stderr.written():
                    break

        asyncio.run(say())
        asyncio.run(say_and_wait())
        assert len(stderr.written().splitlines()) == 2

    async def test_holds_nothing_of_the_request(self, configure: Configure) -> None:
        stderr = configure(LOG_FORMAT="json")

        class Large:
            pass

        async def request() -> weakref.ref[Large]:
            held.set(large := Large())
            request_id_var.set("a-request")
            self.say(1)
            return weakref.ref(large)

        held: ContextVar[Large] = ContextVar("held")
        alive = await asyncio.create_task(request())
        await asyncio.sleep(0)
        gc.collect()
        assert alive() is None
        assert stderr.lines()[0]["request_id"] == "a-request"

    async def test_can_be_captured(self, configure: Configure) -> None:
        configure(LOG_FORMAT="json")
        with capture_logs() as logs:
            self.say(1)
        assert logs == [{"event": "said", "log_level": "info", "number": 1}]

    async def test_does_not_pile_up(self, configure: Configure) -> None:
        stderr = configure(LOG_FORMAT="json")
        for number in range(MAX_WAITING + 5):
            self.say(number)
        assert len(stderr.written().splitlines()) == MAX_WAITING
        assert [line["number"] for line in stderr.lines()] == [*range(MAX_WAITING + 5)]

    async def test_is_whole_whoever_writes_it(self, configure: Configure) -> None:
        stderr = configure(LOG_FORMAT="json")
        stop = threading.Event()

        def write() -> None:
            while not stop.is_set():
                write_waiting()

        threads = [threading.Thread(target=write) for _ in range(2)]
        for thread in threads:
            thread.start()
        for number in range(3000):
            self.say(number)
        stop.set()
        for thread in threads:
            thread.join()
        assert sorted(line["number"] for line in stderr.lines()) == [*range(3000)]

    async def test_keeps_to_the_level(self, configure: Configure) -> None:
        stderr = configure(LOG_FORMAT="json")
        set_log_level("WARNING")
        self.say(1)
        set_log_level("INFO")
        self.say(2)
        assert [line["number"] for line in stderr.lines()] == [2]

    async def test_is_at_once_where_somebody_looks_on(self, configure: Configure) -> None:
        stderr = configure(LOG_FORMAT="console")
        self.say(1)
        assert "number=1" in stderr.written()

    def test_is_written_once_though_the_process_has_children_and_ends(self, tmp_path: Path) -> None:
        script = (
            "import asyncio, os, sys\n"
            "from app.core.config import Settings\n"
            "from app.core.logging import configure_logging, log_values\n"
            "configure_logging(Settings(LOG_FORMAT='json', DATABASE_URL='sqlite+aiosqlite://', SECRET_KEY=32 * 'x'))\n"
            "async def main():\n"
            "    log_values('said', ('number',), (1,), (None,) * 4, soon=True)\n"
            "    child = os.fork()\n"
            "    child and os.waitpid(child, 0)\n"
            "    sys.exit(3)\n"
            "asyncio.run(main())\n"
        )
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 3, done.stderr
        assert json.loads(done.stderr)["number"] == 1


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

    @pytest.mark.parametrize("hostile", ["\x1b[2J", "\x9b31m", "a\rb", "\x08\x08"])
    def test_have_lines_but_command_no_terminal(self, configure: Configure, hostile: str) -> None:
        stderr = configure(LOG_FORMAT="console")
        try:
            raise RuntimeError(f"first\n\t{hostile}")
        except RuntimeError:
            structlog.get_logger().exception("failed")

        lines = stderr.getvalue().split("\n")
        assert "RuntimeError: first" in lines
        assert all(line.replace("\t", "").isprintable() for line in lines)


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

    def test_changes_at_run_time_for_loggers_that_have_been_used(self, configure: Configure) -> None:
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

    @pytest.mark.parametrize("level", ["", "info", "LOUD", "10", "NOTSET"])
    def test_is_one_of_five(self, configure: Configure, level: str) -> None:
        configure(LOG_LEVEL="WARNING")

        with pytest.raises(ValueError, match="DEBUG, INFO"):
            set_log_level(level)
        assert log_level() == "WARNING"


def traceback_with(secret: str) -> None:
    raise RuntimeError(f"cannot connect to postgresql://plinth:{secret}@db/plinth with token={secret}")


class TestSecrets:
    SECRET = "hunter2-hunter2"

    @pytest.mark.parametrize("form", ["json", "console"])
    def test_do_not_get_through_in_any_part_of_a_line(self, configure: Configure, form: str) -> None:
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
