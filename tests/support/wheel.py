"""The wheel of the platform, built of a copy of this tree."""

import shutil
import subprocess
import sys
from pathlib import Path

from tests.support.notes import ROOT

__all__ = ["build_wheel"]


def build_wheel(folder: Path) -> Path:
    """Build it in `folder`, with what is installed. The copy of the tree is `source` there."""
    source = folder / "source"
    for name in ("app", "migrations", "plinth", "tests"):
        if (ROOT / name).exists():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("LICENSE", "README.md", "pyproject.toml"):
        shutil.copy(ROOT / name, source)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(folder)]
    command = [sys.executable, "-m", "pip", "wheel", *options, str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel
