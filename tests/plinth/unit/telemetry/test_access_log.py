"""Access lines: none is lost with a killed process, and those of failures are errors."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from plinth.http.request_context import RequestContextMiddleware
from tests.support.logs import Configure
from tests.support.notes import PACKAGES

SERVER = """
import sys
import uvicorn
from starlette.responses import Response
from notes.config import Settings
from plinth.http.request_context import RequestContextMiddleware
from plinth.telemetry.logging import configure_logging

configure_logging(Settings(LOG_FORMAT="json", DATABASE_URL="sqlite+aiosqlite://", SECRET_KEY=32 * "x"))

async def hello(scope, receive, send):
    await Response("hello")(scope, receive, send)

app = RequestContextMiddleware(hello, quiet_paths=frozenset({"/quiet"}))
uvicorn.run(app, fd=int(sys.argv[1]), lifespan="off", log_config=None, access_log=False)
"""


def test_a_process_killed_after_a_response_has_written_its_access_line(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": PACKAGES}
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(listening.fileno())],
            cwd=tmp_path,
            env=environment,
            pass_fds=[listening.fileno()],
            stderr=subprocess.PIPE,
        )
        with httpx.Client(base_url="http://127.0.0.1:{1}".format(*listening.getsockname()), timeout=60) as client:
            answer = client.get("/loud")
            client.get("/quiet")  # writes no line; its answer comes after the first request's end
            server.kill()
    _, log = server.communicate()
    (line,) = [line for line in map(json.loads, log.splitlines()) if line["message"] == "request"]
    assert (line["path"], line["status"], line["request_id"]) == ("/loud", 200, answer.headers["X-Request-ID"])


@pytest.mark.parametrize(
    ("status", "level"), [(200, "info"), (304, "info"), (404, "info"), (500, "error"), (503, "error")]
)
async def test_access_lines_of_failures_are_errors(configure: Configure, status: int, level: str) -> None:
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await Response(status_code=status)(scope, receive, send)

    stderr = configure(LOG_FORMAT="json")
    transport = httpx.ASGITransport(RequestContextMiddleware(answer))
    async with httpx.AsyncClient(transport=transport, base_url="http://service.test") as client:
        await client.get("/")
    (line,) = stderr.lines("request")
    assert (line["status"], line["level"]) == (status, level)
