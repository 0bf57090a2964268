"""What the tests of migrations share."""

from pathlib import Path

import pytest

from tests.support.shop import Shop


@pytest.fixture
def shop(tmp_path: Path, empty_database_url: str) -> Shop:
    """A service without revisions, and an empty database for it."""
    return Shop(tmp_path, empty_database_url)
