"""New versions under load, versions that do not come up, and the way back. The tests follow on one another."""

from pathlib import Path

import httpx
import pytest

from tests.e2e.cluster import CommandFailed
from tests.e2e.release import URL, Release
from tests.e2e.traffic import traffic

ROLLED_OUT_WITHIN = 120
ROLL_OUTS, MANY = 10, 20_000
# On each side, and requests a second of each. It may send ten.
CALLERS, RATE = 6, 8


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
        assert release.events("FailedPreStopHook") == []

    def test_a_failed_migration_leaves_the_old_version_serving_and_is_rolled_back(
        self, release: Release, tmp_path: Path
    ) -> None:
        before = {pod.metadata.name for pod in release.pods("api")}
        with traffic(release, tmp_path, rate=2) as seen, pytest.raises(CommandFailed, match="UPGRADE FAILED"):
            release.upgrade("broken", release.cluster.rollback_option(), timeout=40)
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

    def test_a_rollback_runs_the_previous_image_on_the_newer_schema(self, release: Release, tmp_path: Path) -> None:
        """And loses nothing either."""
        with traffic(release, tmp_path) as seen:
            release.helm("rollback", "plinth", "--wait", "--timeout", f"{ROLLED_OUT_WITHIN}s")
            release.settle("2")
        assert serving() == "e2e-2"
        seen.nothing_failed()
        seen.kept(release)
        assert schema(release) == "e2e_3"
        release.helm("test", "plinth")

    @pytest.mark.slow
    def test_ten_roll_outs_fail_none_of_twenty_thousand_requests(self, release: Release, tmp_path: Path) -> None:
        """To and fro between two images; each roll-out has callers of its own."""
        requests = 0
        for number in range(ROLL_OUTS):
            folder = tmp_path / f"{number}"
            folder.mkdir()
            version = "2" if serving() == "e2e-3" else "3"
            with traffic(release, folder, rate=RATE, callers=CALLERS) as seen:
                release.upgrade(version)
                release.settle(version)
            assert serving() == f"e2e-{version}"
            seen.nothing_failed()
            seen.kept(release)
            requests += seen.requests
        print(f"\n{requests} requests in {ROLL_OUTS} roll-outs")  # noqa: T201 - a figure to quote
        assert requests >= MANY


def serving() -> str:
    version: str = httpx.get(f"{URL}public/health").raise_for_status().json()["version"]
    return version


def schema(release: Release) -> str:
    """The newest revision of the service."""
    return release.sql("SELECT version_num FROM alembic_version WHERE version_num NOT LIKE 'plinth%'")
