"""New versions under load, and one that does not come up. The tests follow on one another."""

from pathlib import Path

import httpx
import pytest

from tests.e2e.cluster import CommandFailed
from tests.e2e.release import URL, Release
from tests.e2e.traffic import traffic


class TestUpgrade:
    def test_loses_nothing(self, release: Release, tmp_path: Path) -> None:
        """Another image with another migration, while callers read and write from outside and inside."""
        with traffic(release, tmp_path) as seen:
            release.upgrade("2")
            release.settle("2")
        assert serving() == "e2e-2"
        seen.nothing_failed()
        seen.kept(release)
        assert schema(release) == "e2e_2"

    def test_a_failed_migration_leaves_the_old_version_serving_and_is_rolled_back(
        self, release: Release, tmp_path: Path
    ) -> None:
        before = {pod.metadata.name for pod in release.pods("api")}
        with traffic(release, tmp_path, rate=2) as seen, pytest.raises(CommandFailed, match="UPGRADE FAILED"):
            release.upgrade("broken", "--atomic", timeout=40)
        seen.nothing_failed()
        seen.kept(release)
        assert {pod.metadata.name for pod in release.pods("api")} == before
        assert schema(release) == "e2e_2"
        newest = release.revision()
        assert (newest["status"], newest["description"]) == ("deployed", "Rollback to 2")

    def test_the_next_good_upgrade_goes_through(self, release: Release) -> None:
        release.upgrade("3")
        release.settle("3")
        assert serving() == "e2e-3"
        assert schema(release) == "e2e_3"


def serving() -> str:
    version: str = httpx.get(f"{URL}public/health").raise_for_status().json()["version"]
    return version


def schema(release: Release) -> str:
    return release.sql("SELECT version_num FROM alembic_version")
