"""The service `notes` (tests/service), which the platform's tests run."""

import shutil
from pathlib import Path
from typing import Any

import notes
import plinth
from notes.config import Settings
from plinth.testing import settings_for_tests

__all__ = ["FOLDER", "PACKAGES", "ROOT", "copy_packages", "note", "settings_with"]

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "tests" / "service"
PACKAGES = f"{ROOT}:{FOLDER}"
"""PYTHONPATH for a process that is to find the platform and this service."""


def settings_with(**values: Any) -> Settings:
    """Settings of the service under test, not of the environment."""
    return settings_for_tests(Settings, **values)


def note(**values: Any) -> dict[str, Any]:
    """A body for POST /notes."""
    return {"text": "a thing", **values}


def copy_packages(folder: Path) -> None:
    """Copy the code of the platform and of this service into `folder`, for a test that changes it."""
    for package in (notes, plinth):
        source = Path(str(package.__file__)).parent
        # With what Python has compiled, or each process there would compile it anew. A *.pyc.* is half written.
        shutil.copytree(source, folder / source.name, ignore=shutil.ignore_patterns("*.pyc.*"))
