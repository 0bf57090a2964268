"""A pytest of its own for tests of the pytest plugin."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Pytest = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run_pytest(tmp_path: Path) -> Pytest:
    """A function that writes files into an empty folder and runs pytest there, with no plugin but these."""

    def run(files: dict[str, str], *options: str) -> subprocess.CompletedProcess[str]:
        for name, content in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(content)
        environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        # They must not reach the tests.
        environment |= {"DATABASE_URL": "postgresql://production.example.com/plinth", "RATE_LIMIT": "no limit"}
        command = [sys.executable, "-m", "pytest", "-p", "pytest_asyncio.plugin", "-p", "no:cacheprovider", *options]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    return run
