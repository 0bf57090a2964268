"""The programs and pages around a release: `helm test`'s script, and k8s/operations."""

import http.server
import os
import re
import threading
from collections.abc import Iterator

import pytest

from tests.chart.tools import CHART, ROOT, run


class _Ready(http.server.BaseHTTPRequestHandler):
    """An API that is ready, and refuses requests without a token."""

    def do_GET(self) -> None:
        self.send_response(401 if self.path.endswith("/me") else 200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def api() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Ready) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/api/v1"
        server.shutdown()


def test_helm_test_asks_no_proxy(api: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The way out of the cluster leads to no Service."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setitem(os.environ, name, "http://127.0.0.1:1")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AUTH_PROVIDER", "custom")
    done = run("python3", str(CHART / "files/helm_test.py"), api)
    assert done.returncode == 0, done.stderr
    assert "GET public/health/ready: 200" in done.stdout


def test_keda_is_paused_while_a_backup_is_restored() -> None:
    page = (ROOT / "k8s/operations/README.md").read_text()
    (restore,) = re.findall(r"# Back to the newest backup.*?```", page, re.DOTALL)
    commands = [line for line in restore.splitlines() if line.startswith(("kubectl", "JOB"))]
    pauses = [number for number, line in enumerate(commands) if "autoscaling.keda.sh/paused-replicas=0" in line]
    resumes = [number for number, line in enumerate(commands) if "autoscaling.keda.sh/paused-replicas-" in line]
    (restores,) = [number for number, line in enumerate(commands) if "restore.yaml" in line]
    (down,) = [number for number, line in enumerate(commands) if "--replicas=0" in line]
    assert len(pauses) == len(resumes) == 1
    assert pauses[0] < down < restores < resumes[0]
