"""Log lines on a terminal."""

import re
from typing import Any

import pytest
import structlog

from plinth.telemetry.console import console

ACCESS = {
    "timestamp": "10:02:33",
    "event": "request",
    "method": "POST",
    "path": "/api/v1/notes",
    "route": "/api/v1/notes",
    "status": 201,
    "duration_ms": 12.34,
    "request_id": "abc",
    "client": "127.0.0.1",
}


def rendered(event: dict[str, Any], process: str | None = "api", *, colours: bool = False) -> str:
    return str(console(process, colours=colours)(None, "info", dict(event)))


def test_access_line_is_short_and_in_a_fixed_order() -> None:
    assert rendered(ACCESS) == "api    | 10:02:33 POST   /api/v1/notes 201 12.3 ms"
    assert rendered(ACCESS, None) == "10:02:33 POST   /api/v1/notes 201 12.3 ms"


@pytest.mark.parametrize(("status", "colour"), [(200, 32), (304, 36), (404, 33), (499, 33), (500, 31)])
def test_status_has_a_colour(status: int, colour: int) -> None:
    assert f"\x1b[{colour}m{status}\x1b[0m" in rendered(ACCESS | {"status": status}, colours=True)


def test_access_line_of_an_error_leads_to_its_other_lines() -> None:
    assert rendered(ACCESS | {"status": 503}).endswith("503 12.3 ms request_id=abc")
    assert rendered(ACCESS | {"error": "OSError"}).endswith("201 12.3 ms error=OSError request_id=abc")


def test_each_line_of_an_entry_has_the_name_of_its_process() -> None:
    text = rendered({"event": "failed", "timestamp": "10:02:33", "exception": "Traceback\n  File\nOSError"}, "worker")

    lines = text.splitlines()
    assert all(line.startswith("worker | ") for line in lines)
    assert lines[0].startswith("worker | 10:02:33 failed")
    assert lines[-1] == "worker | OSError"


def test_line_of_other_code_with_the_message_of_an_access_line_is_whole() -> None:
    line = {"event": "request", "level": "info", "timestamp": "10:02:33"}
    assert "path=/x" in rendered(line | {"path": "/x"})
    assert "duration_ms=7" in rendered(line | {"duration_ms": 7})
    for name, value in (("status", "200"), ("duration_ms", "7"), ("method", None), ("path", 5)):
        assert f"{name}=" in rendered({**ACCESS, name: value})


def test_log_of_a_process_has_its_name_and_the_local_time(configure: Any) -> None:
    stderr = configure(LOG_FORMAT="console")
    structlog.get_logger().info(
        "request", **{name: ACCESS[name] for name in ("method", "path", "status", "duration_ms")}
    )

    assert re.fullmatch(r"\d\d:\d\d:\d\d POST   /api/v1/notes 201 12\.3 ms\n", stderr.getvalue())
