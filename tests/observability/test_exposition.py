"""What pods expose, as promtool judges it."""

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
from plinth.telemetry.metrics import db_operation, exposition
db_operation("postgresql", "SELECT 1").observe(0.001)
_Counts("main").wait_time.observe(0)
of_kind("notes.digest")
HTTP.expect(["/api/v1/notes"])
HTTP.end(HTTP.begin("GET"), "/api/v1/notes", 200, 0.001, 0, 0, None)
sys.stdout.write(exposition("")[1].decode())
"""


def test_promtool_finds_nothing_to_complain_of() -> None:
    env = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'service'}"}
    shown = subprocess.run([sys.executable, "-c", SHOWN], env=env, capture_output=True, text=True, check=True)
    assert shown.stdout.count("# TYPE ") > 40
    done = subprocess.run(
        [tool("PROMTOOL"), "check", "metrics"], input=shown.stdout, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
