"""Test a service on real servers: its endpoints, its jobs, its schedules.

`pytest_plugins = ["plinth.testing.plugin"]` in the service's `tests/conftest.py` brings the fixtures, which
`plinth.testing.plugin` lists; this package has what tests import beside them. `docs/testing.md` shows both.
"""

from plinth.testing.client import Client, open_client
from plinth.testing.jobs import Jobs
from plinth.testing.problem import problem
from plinth.testing.servers import Servers, scratch_folder
from plinth.testing.serving import serving
from plinth.testing.settings import NO_DATABASE, settings_for_tests
from plinth.testing.until import until

__all__ = [
    "NO_DATABASE",
    "Client",
    "Jobs",
    "Servers",
    "open_client",
    "problem",
    "scratch_folder",
    "serving",
    "settings_for_tests",
    "until",
]
