"""What tests of the pytest plugin may ask for."""

import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.support import own_pytest

Pytest = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run_pytest(tmp_path: Path) -> Pytest:
    """A function that writes files into an empty folder and runs pytest there."""
    return partial(own_pytest.run_pytest, tmp_path)
