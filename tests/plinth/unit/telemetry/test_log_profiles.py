"""Lines as log stores document them: Cloud Logging, Elastic, Datadog."""

import logging
import re
from collections.abc import Callable
from typing import Any

import pytest
import structlog
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext

from plinth.telemetry.log_records import request_id_var
from tests.support.logs import Configure

TRACE, SPAN = 0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331
ACCESS: dict[str, Any] = {
    "method": "GET",
    "route": "/items/{item_id}",
    "path": "/items/1",
    "status": 503,
    "duration_ms": 1.5,
    "request_bytes": 0,
    "response_bytes": 10,
    "client": "203.0.113.7",
    "error": "RuntimeError",
    "principal": "00ff",
}
RFC_3339 = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"

Log = Callable[[str], list[dict[str, Any]]]


@pytest.fixture
def log(configure: Configure) -> Log:
    """An access line, a line of the standard library with a traceback, and one whose names the store knows."""

    def log(profile: str) -> list[dict[str, Any]]:
        stderr = configure(LOG_FORMAT="json", LOG_PROFILE=profile)
        token = request_id_var.set("a-request")
        with trace.use_span(NonRecordingSpan(SpanContext(TRACE, SPAN, is_remote=False))):
            structlog.get_logger().error("request", **ACCESS)
            try:
                raise RuntimeError("no")
            except RuntimeError:
                logging.getLogger("lib").critical("failed", exc_info=True)
            forged = {"severity": 1, "time": 2, "status": 3, "host": 4, "service": 5, "trace.id": 6, "user": 7}
            more = {"logging.googleapis.com/trace": 8, "dd.trace_id": 9, "log": 10, "@timestamp": 11, "level": 12}
            structlog.get_logger().warning("forged", **forged, **more)
        request_id_var.reset(token)
        return stderr.lines()

    return log


def test_cloud_logging(log: Log) -> None:
    access, failed, forged = log("gcp")
    assert [line["severity"] for line in (access, failed, forged)] == ["ERROR", "CRITICAL", "WARNING"]
    for line in (access, failed, forged):
        assert re.fullmatch(RFC_3339, line["time"])
        assert line["logging.googleapis.com/trace"] == f"{TRACE:032x}"
        assert line["logging.googleapis.com/spanId"] == f"{SPAN:016x}"
        assert not {"level", "timestamp", "trace_id", "span_id"} & line.keys()
    assert access["message"] == "request"
    assert access["status"] == 503
    assert "RuntimeError: no" in failed["exception"]
    assert (forged["severity_"], forged["time_"], forged["logging.googleapis.com/trace_"]) == (1, 2, 8)
    assert (forged["status"], forged["host"], forged["level_"]) == (3, 4, 12)


@pytest.mark.parametrize(
    ("level", "severity"),
    [("debug", "DEBUG"), ("info", "INFO"), ("warning", "WARNING"), ("error", "ERROR"), ("critical", "CRITICAL")],
)
def test_severities_of_cloud_logging(configure: Configure, level: str, severity: str) -> None:
    stderr = configure(LOG_FORMAT="json", LOG_PROFILE="gcp", LOG_LEVEL="DEBUG")
    getattr(structlog.get_logger(), level)("x")
    getattr(logging.getLogger("any"), level)("x")
    assert [line["severity"] for line in stderr.lines()] == [severity, severity]


def test_elastic(log: Log) -> None:
    access, failed, forged = log("ecs")
    for line in (access, failed, forged):
        # The specification of ECS logging has these three first.
        assert list(line)[:3] == ["@timestamp", "log.level", "message"]
        assert re.fullmatch(RFC_3339, line["@timestamp"])
        assert re.fullmatch(r"\d+\.\d+\.\d+", line["ecs.version"])
        assert (line["trace.id"], line["span.id"]) == (f"{TRACE:032x}", f"{SPAN:016x}")
        assert line["http.request.id"] == "a-request"
        # A number or a text where the index has an object is an error of the whole line.
        sets = {"client", "error", "event", "host", "http", "log", "process", "service", "trace", "url", "user"}
        assert not sets & line.keys()
    assert access["log.level"] == "error"
    assert access["http.request.method"] == "GET"
    assert access["http.response.status_code"] == 503
    assert access["url.path"] == "/items/1"
    assert access["client.address"] == "203.0.113.7"
    assert access["error.type"] == "RuntimeError"
    assert access["user.hash"] == "00ff"
    assert failed["log.logger"] == "lib"
    assert "RuntimeError: no" in failed["error.stack_trace"]
    assert {forged[name] for name in ("host_", "service_", "trace.id_", "user_", "log_", "@timestamp_")} == {
        *(4, 5, 6, 7, 10, 11)
    }


def test_elastics_objects_stay(configure: Configure) -> None:
    stderr = configure(LOG_FORMAT="json", LOG_PROFILE="ecs")
    structlog.get_logger().info("x", user={"id": "1"}, labels={"a": "b"}, error={"code": "7"}, trace={"id": "forged"})
    (line,) = stderr.lines()
    assert (line["user"], line["labels"], line["error"]) == ({"id": "1"}, {"a": "b"}, {"code": "7"})
    assert line["trace_"] == {"id": "forged"}


def test_datadog(log: Log) -> None:
    access, failed, forged = log("datadog")
    assert [line["status"] for line in (access, failed, forged)] == ["error", "critical", "warning"]
    for line in (access, failed, forged):
        assert re.fullmatch(RFC_3339, line["timestamp"])
        # The lower 64 bits as decimals, which its traces have.
        assert line["dd.trace_id"] == str(TRACE % 2**64)
        assert line["dd.span_id"] == str(SPAN)
        assert line["trace_id"] == f"{TRACE:032x}"
        # Read before `status`, or instead of the agent's own.
        assert not {"level", "severity", "host", "service", "source"} & line.keys()
    assert (access["http.method"], access["http.status_code"]) == ("GET", 503)
    assert access["http.request_id"] == "a-request"
    assert access["network.client.ip"] == "203.0.113.7"
    assert access["error.kind"] == "RuntimeError"
    assert failed["logger.name"] == "lib"
    assert "RuntimeError: no" in failed["error.stack"]
    moved = ("severity_", "status_", "host_", "service_", "dd.trace_id_", "@timestamp_", "level_")
    assert [forged[name] for name in moved] == [1, 3, 4, 5, 9, 11, 12]


@pytest.mark.parametrize("profile", ["gcp", "ecs", "datadog"])
def test_no_member_is_lost(configure: Configure, log: Log, profile: str) -> None:
    values = {name: f"value of {name}" for name in (*ACCESS, "job_id", "attempt", "a.b", "kind")}
    stderr = configure(LOG_FORMAT="json", LOG_PROFILE=profile)
    structlog.get_logger().info("not the access line", **values)
    (line,) = stderr.lines()
    assert set(values.values()) <= set(line.values())


# What each says of a reserved name, in parts, or would make an object of what is a text there.
_WITHIN_ELASTIC: list[tuple[str, Any]] = [
    ("http", {"request": {"id": "forged"}}),
    ("http", {"request.id": "forged"}),
    ("http", {"request": "forged"}),
    ("http.request", {"id": "forged"}),
    ("http.request", "forged"),
    ("error", {"stack_trace": "forged"}),
    ("error.stack_trace", {"a": 1}),
    ("message.text", "forged"),
    ("@timestamp.seconds", 1),
]
_WITHIN_DATADOG: list[tuple[str, Any]] = [
    ("http", {"request_id": "forged"}),
    ("error", {"stack": {"a": "forged"}}),
    ("logger", {"name": "forged"}),
    ("dd.trace_id.high", 1),
    ("status.code", 1),
]


@pytest.mark.parametrize(
    ("profile", "name", "value"),
    [
        *(("ecs", *member) for member in _WITHIN_ELASTIC),
        *(("datadog", *member) for member in _WITHIN_DATADOG),
    ],
)
def test_reserved_names_cannot_be_set_in_parts(configure: Configure, profile: str, name: str, value: Any) -> None:
    stderr = configure(LOG_FORMAT="json", LOG_PROFILE=profile)
    structlog.get_logger().info("x", **{name: value})
    logging.getLogger("any").warning("x", extra={name: value})
    for line in stderr.lines():
        assert name not in line
        assert line[f"{name}_"] == value


@pytest.mark.parametrize(
    ("profile", "names"),
    [
        ("ecs", ("url.path", "http.response.status_code", "client.address", "user.hash")),
        ("datadog", ("http.url_details.path", "http.status_code", "network.client.ip", "usr.id")),
    ],
)
def test_lines_of_websockets_have_the_names_of_access_lines(
    configure: Configure, profile: str, names: tuple[str, ...]
) -> None:
    stderr = configure(LOG_FORMAT="json", LOG_PROFILE=profile)
    members = {"route": "/live", "path": "/live", "status": 101, "client": "203.0.113.7", "principal": "00ff"}
    structlog.get_logger().info("websocket", close_code=1000, **members)
    (line,) = stderr.lines()
    assert [line[name] for name in names] == ["/live", 101, "203.0.113.7", "00ff"]
    assert (line["route"], line["close_code"]) == ("/live", 1000)
    assert not {"client_", "status_"} & line.keys()


@pytest.mark.parametrize("profile", ["ecs", "datadog"])
@pytest.mark.parametrize("value", [[{"loc": ["a"], "msg": "no"}], [[{"a": 1}]]])
@pytest.mark.parametrize("name", ["error", "logger", "exception"])
def test_a_list_of_objects_is_no_text(configure: Configure, profile: str, name: str, value: Any) -> None:
    """Such as the errors of pydantic: Elastic refuses the whole line where it expects a text."""
    stderr = configure(LOG_FORMAT="json", LOG_PROFILE=profile)
    structlog.get_logger().info("x", **{name: value})
    (line,) = stderr.lines()
    assert [key for key, logged in line.items() if logged == value] in ([name], [f"{name}_"])


def test_tags_of_elastic_are_words(configure: Configure) -> None:
    stderr = configure(LOG_FORMAT="json", LOG_PROFILE="ecs")
    for tags in ({"a": "b"}, [{"a": "b"}], ["a", "b"], "a"):
        structlog.get_logger().info("x", tags=tags)
    assert [line.get("tags") for line in stderr.lines()] == [None, None, ["a", "b"], "a"]
    assert [line.get("tags_") for line in stderr.lines()] == [{"a": "b"}, [{"a": "b"}], None, None]


def test_names_beside_those_that_are_reserved_stay(configure: Configure) -> None:
    theirs: dict[str, Any] = {
        "http": {"request": {"method": "GET"}, "response": {"status_code": 200}},
        "log.origin": {"file": {"name": "a.py"}},
        "error": {"code": "7"},
        "url.path": "/",
        "payload": {"http": {"request": {"id": "mine"}}},
        "transaction.id": "t",
    }
    stderr = configure(LOG_FORMAT="json", LOG_PROFILE="ecs")
    structlog.get_logger().info("x", **theirs)
    (line,) = stderr.lines()
    assert theirs.items() <= line.items()
    stderr = configure(LOG_FORMAT="json", LOG_PROFILE="gcp")  # which takes a dot for a part of the name
    structlog.get_logger().info("x", logging={"googleapis": "mine"}, **{"message.text": "mine"})
    (line,) = stderr.lines()
    assert (line["logging"], line["message.text"]) == ({"googleapis": "mine"}, "mine")


@pytest.mark.parametrize("profile", ["gcp", "ecs", "datadog"])
def test_a_message_is_a_text(configure: Configure, profile: str) -> None:
    stderr = configure(LOG_FORMAT="json", LOG_PROFILE=profile)
    structlog.get_logger().info({"a": ["b"]})
    assert [line["message"] for line in stderr.lines()] == ['{"a": ["b"]}']
