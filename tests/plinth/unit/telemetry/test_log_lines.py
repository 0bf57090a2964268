"""What stands in a line whatever is logged: the platform's own members, valid JSON, a size that stores take."""

import json
import logging
from typing import Any

import pytest
import structlog
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext

from plinth.telemetry.log_lines import MAX_LINE, MAX_VALUE, to_line
from plinth.telemetry.log_records import request_id_var
from tests.support.logs import Configure
from tests.support.settings import run

TRACE, SPAN = 0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331
RESERVED = ("timestamp", "level", "message", "trace_id", "span_id", "request_id")
FORGED: dict[str, Any] = dict.fromkeys(RESERVED, "forged")


@pytest.fixture(params=["json", "console"])
def form(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class TestReserved:
    def test_reserved_members_win_and_the_values_move(self, configure: Configure) -> None:
        stderr = configure(LOG_FORMAT="json")
        token = request_id_var.set("a-request")
        with trace.use_span(NonRecordingSpan(SpanContext(TRACE, SPAN, is_remote=False))):
            structlog.get_logger().error("ours", **FORGED)
            structlog.get_logger().bind(**FORGED).error("ours")
            extra = {name: value for name, value in FORGED.items() if name != "message"}  # which logging refuses
            logging.getLogger("any").error("ours", extra=extra | {"event": "forged", "logger": "forged"})
        request_id_var.reset(token)
        *lines, theirs = stderr.lines()
        for line in (*lines, theirs):
            assert (line["level"], line["message"], line["request_id"]) == ("error", "ours", "a-request")
            assert (line["trace_id"], line["span_id"]) == (f"{TRACE:032x}", f"{SPAN:016x}")
            assert line["timestamp"].endswith("Z")
        assert all(line[f"{name}_"] == "forged" for line in lines for name in RESERVED)
        assert (theirs["logger"], theirs["logger_"], theirs["event_"], theirs["level_"]) == ("any", *["forged"] * 3)

    def test_reserved_members_win_on_the_console(self, configure: Configure) -> None:
        stderr = configure(LOG_FORMAT="console")
        structlog.get_logger().error("ours", **FORGED)
        logging.getLogger("any").error("ours", extra={"event": "forged", "level": "forged"})
        ours, theirs = stderr.getvalue().splitlines()
        assert "[error" in ours
        assert all(f"{name}_=forged" in ours for name in RESERVED)
        assert "[error" in theirs
        assert "ours" in theirs
        assert "event_=forged" in theirs

    def test_reserved_members_are_reserved_outside_of_traces_and_requests(self, configure: Configure) -> None:
        stderr = configure(LOG_FORMAT="json")
        structlog.get_logger().info("x", trace_id="forged", request_id="forged")
        (line,) = stderr.lines()
        assert "trace_id" not in line
        assert (line["trace_id_"], line["request_id_"]) == ("forged", "forged")

    def test_a_second_name_is_found_where_the_first_is_taken(self, configure: Configure) -> None:
        stderr = configure(LOG_FORMAT="json")
        structlog.get_logger().info("x", level=1, level_=2, level__=3)
        (line,) = stderr.lines()
        assert (line["level"], line["level_"], line["level__"], line["level___"]) == ("info", 2, 3, 1)

    def test_a_traceback_wins_over_a_value_of_its_name(self, configure: Configure, form: str) -> None:
        stderr = configure(LOG_FORMAT=form)
        try:
            raise RuntimeError("no")
        except RuntimeError:
            structlog.get_logger().exception("x", exception="mine")
            logging.getLogger("any").exception("x", extra={"exception": "mine"})
        text = stderr.getvalue()
        assert text.count("RuntimeError: no") == 2
        assert text.count("mine") == 2

    @pytest.mark.parametrize("name", [b"level", 1, None, ("level",)])
    def test_names_that_are_no_text_make_no_member_twice(self, configure: Configure, name: Any) -> None:
        stderr = configure(LOG_FORMAT="json")
        logging.getLogger("any").error("x", extra={name: "odd"})
        pairs = json.loads(stderr.getvalue(), object_pairs_hook=list)
        names = [name for name, _ in pairs]
        assert len(names) == len(set(names))
        assert dict(pairs)["level"] == "error"


class TestFallback:
    @pytest.mark.parametrize(
        "values",
        [
            {"text": "\ud800"},
            {"text": "\ud800", "number": float("nan"), "other": float("-inf")},
            {"nested": {"\udfff": ["\ud800", float("nan")]}},
            {"\ud800": 1},
        ],
    )
    def test_line_has_the_same_form_and_is_valid(self, configure: Configure, values: dict[str, Any]) -> None:
        stderr = configure(LOG_FORMAT="json")
        structlog.get_logger().info("odd", **values)
        text = stderr.getvalue()
        assert text.startswith('{"timestamp":"')
        assert '"level":"info","message":"odd",' in text
        json.loads(text, parse_constant=pytest.fail)
        json.dumps(json.loads(text), ensure_ascii=False).encode("utf-8")  # no lone surrogate


class TestSize:
    def test_long_values_are_cut_with_a_mark(self, configure: Configure) -> None:
        stderr = configure(LOG_FORMAT="json")
        structlog.get_logger().info("x", text="a" * 2_000_000 + "end", nested=["b" * 1_000_000], short="kept")
        logging.getLogger("any").warning("c" * 300_000)
        for line in stderr.getvalue().splitlines():
            assert len(line.encode()) <= MAX_LINE
        first, second = stderr.lines()
        assert first["short"] == "kept"
        assert f"[cut: {2_000_003 - MAX_VALUE} characters]" in first["text"]
        assert first["text"].endswith("end")
        assert "[cut: " in str(first["nested"])
        assert "[cut: " in second["message"]

    def test_members_that_do_not_fit_are_counted(self) -> None:
        line = {"timestamp": "t", "level": "info", "message": "m", **{f"name{n}": "\x00" * 20_000 for n in range(99)}}
        data = to_line(line)
        found = json.loads(data)
        assert len(data) <= MAX_LINE
        assert (found["level"], found["message"]) == ("info", "m")
        assert found["members_cut"] == len(line) - len(found) + 1

    @pytest.mark.parametrize("odd", ["\ud800" * 1_000_000, {"a": "\ud800" * 1_000_000}, "😀" * 200_000, [1] * 200_000])
    def test_odd_values_are_cut_too(self, odd: Any) -> None:
        data = to_line({"message": "m", "odd": odd})
        assert len(data) <= MAX_LINE
        assert "[cut: " in json.loads(data)["odd"]

    def test_a_long_name_does_not_make_a_line_long(self) -> None:
        assert len(to_line({"message": "m", "n" * 1_000_000: 1})) < 1000

    def test_a_traceback_keeps_what_was_raised(self, configure: Configure) -> None:
        stderr = configure(LOG_FORMAT="json")
        try:
            raise RuntimeError("a" * 500_000 + " the end")
        except RuntimeError:
            structlog.get_logger().exception("x")
        (line,) = stderr.lines()
        assert line["exception"].startswith("Traceback")
        assert line["exception"].endswith(" the end")


PROGRAM = "import sys; sys.argv = ['plinth', 'config', 'check']; from plinth.cli import main; main()"


class TestConfigurationErrors:
    @pytest.mark.parametrize("profile", ["default", "gcp", "nonsense"])
    def test_configuration_errors_are_a_line_of_json(self, profile: str) -> None:
        done = run(PROGRAM, LOG_FORMAT="json", LOG_PROFILE=profile, DB_POOL_SIZE="many")
        assert done.returncode == 2
        line = json.loads(done.stderr)
        assert line["message"] == "the configuration cannot be used"
        assert "DB_POOL_SIZE (environment): expected a valid integer" in str(line["problems"])
        assert (line.get("level"), line.get("severity")) == (
            (None, "CRITICAL") if profile == "gcp" else ("critical", None)
        )

    def test_a_key_that_others_can_know_is_such_a_line_too(self) -> None:
        done = run(PROGRAM.replace("'config', 'check'", "'api', '--host', '::'"), LOG_FORMAT="json")
        assert done.returncode == 2
        (problem,) = json.loads(done.stderr)["problems"]
        assert problem.startswith("SECRET_KEY: ")

    @pytest.mark.parametrize("form", ["auto", "console", "nonsense"])
    def test_they_are_plain_text_otherwise(self, form: str) -> None:
        done = run(PROGRAM, LOG_FORMAT=form, DB_POOL_SIZE="many")
        assert done.stderr.startswith("The configuration cannot be used:\n")
