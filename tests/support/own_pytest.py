"""A pytest of its own, in a folder of its own, for tests of the pytest plugin."""

import os
import subprocess
import sys
from pathlib import Path

from tests.support.notes import PACKAGES

__all__ = ["run_pytest"]


def run_pytest(folder: Path, files: dict[str, str], *options: str) -> subprocess.CompletedProcess[str]:
    """Write files into an empty folder and run pytest there, with no plugin but the one for asyncio."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    # The settings must not reach the tests.
    given = {"DATABASE_URL": "postgresql://production.example.com/plinth", "RATE_LIMIT": "no limit"}
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": PACKAGES, **given}
    command = [sys.executable, "-m", "pytest", "-p", "pytest_asyncio.plugin", "-p", "no:cacheprovider", *options]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
