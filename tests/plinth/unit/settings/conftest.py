from pathlib import Path

import pytest

from tests.support.settings import clear_environment


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable is set, and the working directory has no `.env`."""
    clear_environment(monkeypatch, tmp_path)
