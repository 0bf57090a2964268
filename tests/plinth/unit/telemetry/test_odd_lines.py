"""Whatever is logged, and wherever the lines go: the call returns, and writes one whole line if it can."""

import copy
import io
import json
import logging
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast
from unittest.mock import Mock, patch

import pytest
import structlog

from plinth.telemetry import redaction
from plinth.telemetry.log_lines import MAX_LINE, MAX_VALUE
from plinth.telemetry.logging import _Writer
from tests.support.logs import Configure
from tests.support.notes import PACKAGES

FORMS = [
    {"LOG_FORMAT": "console"},
    *({"LOG_FORMAT": "json", "LOG_PROFILE": profile} for profile in ("default", "gcp", "ecs", "datadog")),
]


@pytest.fixture(params=FORMS, ids=lambda form: "-".join(form.values()))
def form(request: pytest.FixtureRequest) -> dict[str, str]:
    found: dict[str, str] = request.param
    return found


class Silent:
    """Cannot be shown."""

    def __str__(self) -> str:
        raise RuntimeError

    __repr__ = __str__


class Talkative:
    """Logs while it is shown."""

    def __str__(self) -> str:
        structlog.get_logger().info("shown")
        logging.getLogger("any").warning("shown")
        return "talkative"

    __repr__ = __str__


class OddError(Exception):
    """An exception that cannot be shown either."""

    def __str__(self) -> str:
        raise RuntimeError

    __repr__ = __str__


def deep(levels: int) -> Any:
    found: Any = "the bottom"
    for _ in range(levels):
        found = {"a": [found]}
    return found


def round_about() -> Any:
    found: dict[str, Any] = {}
    found["self"] = [found]
    return found


def chain(length: int) -> Exception:
    """An exception with as many causes."""
    found = Exception("the first")
    for _ in range(length):
        effect = Exception("then")
        effect.__cause__ = found
        found = effect
    return found


VALUES: dict[str, Callable[[], Any]] = {
    "cannot be shown": Silent,
    "logs": Talkative,
    "a class": lambda: Silent,
    "bytes": lambda: b"\xff\x00" * 100,
    "a number of 5000 digits": lambda: 10**5000,
    "no number": lambda: [float("nan"), float("inf"), complex(1, 2)],
    "lone surrogates": lambda: {"\ud800": ["\udfff", b"\xed\xa0\x80"]},
    "deep": lambda: deep(5000),
    "round about": round_about,
    "many members": lambda: {f"name{n}": n for n in range(20_000)},
    "names that are no text": lambda: {1: 2, None: 3, (1, 2): 4, b"\xff": 5, Silent: 6},
    "a function": lambda: round_about,
    "a file": io.StringIO,
    "a lock": threading.Lock,
}


@pytest.mark.parametrize("name", VALUES)
def test_any_value_may_be_logged(configure: Configure, form: dict[str, str], name: str) -> None:
    stderr = configure(**form)
    value = VALUES[name]()
    structlog.get_logger().info("ours", value=value)
    structlog.get_logger().bind(value=value).info("ours")
    structlog.get_logger().info(value)
    structlog.get_logger().info("ours", exception=value, stack=value)
    logging.getLogger("any").warning("theirs", extra={"value": value, "exception": value, "stack": value})
    text = stderr.getvalue()
    assert text.count("ours") == 3
    assert text.count("theirs") == 1
    assert "could not be written" not in text
    if form["LOG_FORMAT"] == "json":
        assert all(len(line.encode()) <= MAX_LINE for line in text.splitlines())
        for line in text.splitlines():
            json.loads(line, parse_int=str, parse_constant=pytest.fail)


def test_whole_numbers_that_parsers_refuse_are_text(configure: Configure) -> None:
    stderr = configure(LOG_FORMAT="json")
    structlog.get_logger().info("ours", large=2**70, nested=[-(2**70)], kept=2**63)
    (line,) = stderr.lines()
    assert (line["large"], line["nested"], line["kept"]) == (hex(2**70), [hex(-(2**70))], 2**63)


ERRORS: dict[str, Callable[[], Exception]] = {
    "cannot be shown": OddError,
    "odd arguments": lambda: ValueError(Silent(), "\ud800", b"\xff"),
    "no place": lambda: SyntaxError("odd", ("file", 1, cast(Any, "no offset"), "text")),
    "many causes": lambda: chain(3000),
    "a group": lambda: ExceptionGroup("odd", [OddError(), ExceptionGroup("inner", [ValueError("\ud800")])]),
    "long": lambda: ValueError("x" * 1_000_000),
}


@pytest.mark.parametrize("name", ERRORS)
def test_any_exception_may_be_logged(configure: Configure, form: dict[str, str], name: str) -> None:
    stderr = configure(**form)
    error = ERRORS[name]()
    try:
        raise error
    except Exception:
        structlog.get_logger().exception("ours")
        logging.getLogger("any").exception("theirs")
    structlog.get_logger().error("ours", exc_info=error, error=error)
    text = stderr.getvalue()
    assert (text.count("ours"), text.count("theirs")) == (2, 1)
    if form["LOG_FORMAT"] == "json":
        assert [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("odd", [(), (1,), (None, None, None), (1, 2, 3), "yes", 0, object()])
def test_any_exc_info_may_be_given(configure: Configure, form: dict[str, str], odd: Any) -> None:
    stderr = configure(**form)
    structlog.get_logger().info("ours", exc_info=odd)
    assert stderr.getvalue().count("ours") == 1


@pytest.mark.parametrize("nested", [False, True])
def test_of_a_long_text_what_is_kept_alone_is_searched_for_secrets(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, nested: bool
) -> None:
    searched: list[int] = []

    def counted(text: str) -> str:
        searched.append(len(text))
        return text

    monkeypatch.setattr(redaction, "redact_text", counted)
    stderr = configure(LOG_FORMAT="json")
    text = "token key: " * 1_000_000
    structlog.get_logger().info("ours", text=[text] if nested else text)
    logging.getLogger("any").warning(text)
    assert sum(searched) < 400_000
    first, second = stderr.lines()
    mark = f"[cut: {len(text) - MAX_VALUE} characters]"
    assert mark in str(first["text"])
    assert mark in second["message"]


@pytest.mark.parametrize("before", [12_000, 12_288, 12_300, 1_000_000])
def test_secret_that_is_cut_is_masked_as_a_whole(configure: Configure, before: int) -> None:
    stderr = configure(LOG_FORMAT="json")
    key = "-----BEGIN PRIVATE KEY-----\n" + "SECRET" * 600 + "\n-----END PRIVATE KEY-----"
    for text in (" " * before + key + " " * 1_000_000, " " * 1_000_000 + key + " " * (before - 8192)):
        structlog.get_logger().info("ours", text=text)
    assert "CRETSE" not in stderr.getvalue()


@pytest.mark.parametrize("level", [1, 5, 15, 25, 35, 45, 60])
def test_levels_of_libraries_are_those_that_alerts_know(configure: Configure, form: dict[str, str], level: int) -> None:
    stderr = configure(**form, LOG_LEVEL="DEBUG")
    logging.addLevelName(25, "NOTICE")
    library = logging.getLogger("a library")
    library.setLevel(1)
    library.log(level, "x")
    expected = {1: "debug", 5: "debug", 15: "debug", 25: "info", 35: "warning", 45: "error", 60: "critical"}[level]
    if form["LOG_FORMAT"] == "console":
        assert f"[{expected}" in stderr.getvalue()
        return
    (line,) = stderr.lines()
    names = {"default": "level", "gcp": "severity", "ecs": "log.level", "datadog": "status"}
    assert line[names[form["LOG_PROFILE"]]].lower() == expected
    assert line["level_name"] == logging.getLevelName(level)


def test_name_of_a_member_forges_no_line_on_a_terminal(configure: Configure) -> None:
    stderr = configure(LOG_FORMAT="console")
    structlog.get_logger().info("ours", **{"a\n10:02:33 [info] forged": 1, "\x1b[2J": 2})
    (line,) = stderr.getvalue().splitlines()
    assert line.isprintable()


FULL = """
import logging, sys, warnings
import structlog
from notes.config import Settings
from plinth.telemetry.logging import configure_logging

configure_logging(Settings(_env_file=None, LOG_FORMAT=sys.argv[1]))
for number in range(1000):
    structlog.get_logger().info("a line", number=number)
    logging.getLogger("any").warning("a line")
print("still here", flush=True)
if sys.argv[2] == "closed":
    sys.stderr.close()
    structlog.get_logger().info("a line")
print("and here", flush=True)
"""


@pytest.mark.parametrize("where", ["full", "gone", "closed", "never open"])
@pytest.mark.parametrize("form", ["json", "console"])
def test_stream_that_fails_costs_lines_and_nothing_else(form: str, where: str, tmp_path: Path) -> None:
    if where == "full":
        stream = os.open("/dev/full", os.O_WRONLY)
    elif where == "gone":
        reading, stream = os.pipe()
        os.close(reading)
    else:
        stream = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    without = ["sh", "-c", 'exec "$0" "$@" 2>&-'] if where == "never open" else []
    done = subprocess.run(
        [*without, sys.executable, "-c", FULL, form, where],
        env={**os.environ, "PYTHONPATH": PACKAGES},
        stdout=subprocess.PIPE,
        stderr=stream,
        text=True,
        check=False,
    )
    os.close(stream)
    assert done.stdout == "still here\nand here\n"


def test_logger_can_be_copied_and_sent_to_another_process(configure: Configure) -> None:
    stderr = configure(LOG_FORMAT="json")
    writer = structlog.get_config()["logger_factory"]()
    with patch.object(sys, "stderr", stderr):
        for other in (copy.deepcopy(writer), pickle.loads(pickle.dumps(writer))):
            other.info(b"a line")
    assert stderr.getvalue() == "a line\na line\n"


def test_writer_has_the_methods_of_structlogs() -> None:
    theirs = {name for name, own in vars(structlog.BytesLogger).items() if own is structlog.BytesLogger.msg}
    assert "warning" in theirs
    assert theirs <= vars(_Writer).keys()


def test_code_that_logs_while_a_line_is_written_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the garbage collector may call it, and a handler of signals."""

    class Interrupted(io.BytesIO):
        def write(self, line: Any) -> int:
            if not line.startswith(b"inner"):
                writer.info(b"inner")
            return super().write(line)

    stream = Interrupted()
    monkeypatch.setattr(sys, "stderr", Mock(buffer=stream))
    writer = _Writer(as_bytes=True)
    thread = threading.Thread(target=writer.info, args=(b"outer",), daemon=True)
    thread.start()
    thread.join(20)
    assert stream.getvalue() == b"inner\nouter\n"
