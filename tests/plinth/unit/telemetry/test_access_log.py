"""An access line is written before the next request is answered: a killed process loses none."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import httpx

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
