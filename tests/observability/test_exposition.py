"""What pods expose, as promtool judges it."""

import re
import subprocess
import sys

from tests.chart.tools import ROOT, tool

# Everything that a process can show, once.
SHOWN = """
import pkgutil, importlib, sys
import notes.jobs
import plinth
for found in pkgutil.walk_packages(plinth.__path__, "plinth."):
    if found.name.split(".")[1] not in ("cli", "embedded", "migrations", "testing"):
        importlib.import_module(found.name)
from plinth.database.pool import _Counts
from plinth.jobs.metrics import of_kind
from plinth.telemetry.http_metrics import HTTP
from prometheus_client import REGISTRY
from plinth.telemetry.metrics import Observed, db_operation, exposition
for found in list(REGISTRY._collector_to_names):
    if isinstance(found, Observed):
        found.add(lambda labels=found.labels: [(("x",) * len(labels), 1)])
db_operation("postgresql", "SELECT 1").observe(0.001)
_Counts("main").wait_time.observe(0)
of_kind("notes.digest")
HTTP.expect(["/api/v1/notes"])
HTTP.end(HTTP.begin("GET"), "/api/v1/notes", 200, 0.001, 0, 0, None)
sys.stdout.write(exposition("")[1].decode())
"""


# Of OpenTelemetry's name for a gauge, as docs/metrics.md says.
EXCEPTION = 'db_client_connection_count non-histogram and non-summary metrics should not have "_count" suffix'


def test_promtool_complains_of_one_name_alone() -> None:
    env = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'service'}"}
    shown = subprocess.run([sys.executable, "-c", SHOWN], env=env, capture_output=True, text=True, check=True)
    types = set(re.findall("^# TYPE ([a-z_]+)", shown.stdout, re.MULTILINE))
    samples = set(re.findall("^([a-z_]+)", shown.stdout, re.MULTILINE))
    assert len(types) > 40
    empty = {name for name in types if not samples & {name, f"{name}_total", f"{name}_count"}}
    assert empty <= {
        "plinth_build_info",
        "plinth_job_housekeeping_seconds",
        *filter(re.compile(".*_jwks_").match, types),
    }
    done = subprocess.run(
        [tool("PROMTOOL"), "check", "metrics"], input=shown.stdout, capture_output=True, text=True, check=False
    )
    assert done.stdout + done.stderr.strip() == EXCEPTION
    about = (ROOT / "docs" / "metrics.md").read_text().partition("promtool check metrics")[2].partition(".")[0]
    assert EXCEPTION.partition(" ")[0] in about
