"""`make start`: a fresh clone becomes a service without the sample, whose checks pass and which serves."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator

import httpx
import pytest

from plinth.testing.servers import scratch_folder
from tests.adoption.fork import INSTALLED, OWN, ROOT, Fork, git
from tests.support.ports import free_port

PATIENCE = 120.0  # seconds, for what takes ten on an idle machine
# Words of the sample that a service must not meet in what is its own.
SAMPLE = re.compile(r"(?<!\.)\bitems?\b|\bexports\b|\bPlinth\b")


@pytest.fixture(scope="module")
def fork() -> Iterator[Fork]:
    with scratch_folder() as folder:
        yield Fork(folder / "fork", "HEAD")


@pytest.fixture(scope="module")
def started(fork: Fork) -> str:
    """What `make start` prints in that fork."""
    return fork.made("start", "NAME=orders-api")


def refusal(fork: Fork, *variables: str) -> str:
    done = fork.make("start", *variables)
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("make: ***")]
    assert git(fork.folder, "status", "--porcelain", "--untracked-files=no") == ""
    return line


@pytest.mark.parametrize("name", ["", "Orders", "1st", "a", "a--b", "a-", "o" * 41, "plinth", "a b", "a/b"])
def test_a_name_that_is_none_is_refused(fork: Fork, name: str) -> None:
    assert refusal(fork, f"NAME={name}").startswith("Say what the service is called: make start NAME=orders-api.")


def test_a_tree_with_changes_is_refused(fork: Fork) -> None:
    (fork.folder / "mine.txt").touch()
    try:
        assert refusal(fork, "NAME=orders-api").startswith("There are changes that are not committed")
    finally:
        (fork.folder / "mine.txt").unlink()


def test_files_with_odd_names_and_line_ends_lose_the_sample_too() -> None:
    names = ["two words.txt", "näme.txt", 'a "quote".txt']
    with scratch_folder() as folder:
        fork = Fork(folder / "fork", "HEAD")
        for name in names:
            fork.write(name, "stays\ngoes # sample\n")
        (fork.folder / "windows.txt").write_bytes(b"stays\r\ngoes # sample\r\n")
        fork.commit("Odd files")

        fork.made("start", "NAME=orders-api")

        assert [fork.read(name) for name in (*names, "windows.txt")] == ["stays\n"] * 4


def test_a_name_reaches_no_shell(fork: Fork) -> None:
    assert refusal(fork, 'NAME="; touch run; "').startswith("Say what the service is called")
    assert not (fork.folder / "run").exists()


class TestStarted:
    @pytest.fixture(autouse=True)
    def _started(self, started: str) -> None:
        """Each test of this class comes after the start."""

    def test_the_next_steps_are_told(self, started: str) -> None:
        assert "make lint test" in started
        assert "make run" in started
        assert len(started.splitlines()) < 10

    def test_a_second_start_is_refused(self, fork: Fork) -> None:
        done = fork.make("start", "NAME=invoices")
        assert "This tree is the service orders-api already." in done.stderr

    def test_nothing_of_the_service_tells_of_the_sample(self, fork: Fork) -> None:
        own = ("app", "migrations", "tests/unit", "tests/integration")
        files = git(fork.folder, "ls-files", "--cached", "--others", "--exclude-standard", *own).splitlines()
        found = [
            f"{file}: {line}"
            for file in files
            if (path := fork.folder / file).is_file()
            for line in path.read_text().splitlines()
            if SAMPLE.search(line)
        ]
        assert found == []
        assert "EXPORTS_KEEP_DAYS" not in (fork.folder / ".env.example").read_text()

    def test_no_marker_is_left(self, fork: Fork) -> None:
        done = subprocess.run(
            ["git", "grep", "-nE", "# sample(: begin|: end)?$|<!-- sample -->$", "--", ":!scripts/start.py"],
            cwd=fork.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout == ""

    def test_image_release_and_documentation_have_its_name(self, fork: Fork) -> None:
        assert fork.made("service-name") == "orders-api\n"
        assert 'image.title="orders-api"' in (fork.folder / "docker/Dockerfile").read_text()
        assert "name: orders-api\n" in (fork.folder / "docker/docker-compose.yml").read_text()
        assert "repository: orders-api\n" in (fork.folder / "k8s/values.yaml").read_text()
        assert "IMAGE_REPO_orders_api" in (fork.folder / "skaffold.yaml").read_text()
        assert "orders-api" in (fork.folder / "app/core/config.py").read_text()

    def test_the_platform_is_as_it_was(self, fork: Fork) -> None:
        changed = git(fork.folder, "diff", "HEAD", "--name-only", "--", "plinth", "charts/plinth/templates")
        assert changed == ""

    def test_help_lists_no_target_that_the_sample_had(self, fork: Fork) -> None:
        shown = fork.made("help")
        assert "make test-app" in shown
        assert "make e2e" not in shown

    def test_lint_passes(self, fork: Fork) -> None:
        if (cache := ROOT / ".mypy_cache").is_dir():  # what `make lint` has found of the files that are the same
            subprocess.run(["cp", "-a", str(cache), str(fork.folder)], check=True)
        fork.made("lint")

    def test_its_own_tests_pass(self, fork: Fork) -> None:
        assert re.search(r"\d{2} passed", fork.made("test-app"))

    def test_tests_of_the_platform_need_nothing_of_the_sample(self, fork: Fork) -> None:
        """All are collected, which imports what they import; those of units run. `make test` runs the rest."""
        fork.made("test", "ARGS=--collect-only --quiet")
        command = [".venv/bin/python", "-m", "pytest", "-q", "-n", "2", "tests/plinth/unit"]
        done = subprocess.run(
            command,
            cwd=fork.folder,
            env=OWN | {"PYTHONPATH": str(fork.folder)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-8000:]

    def test_it_runs(self, fork: Fork) -> None:
        port = free_port()
        url = f"http://127.0.0.1:{port}/api/v1"
        command = ["make", *INSTALLED, "run", f"PORT={port}"]
        environment = OWN | {"PYTHONPATH": str(fork.folder)}
        with subprocess.Popen(command, cwd=fork.folder, env=environment, start_new_session=True) as running:
            try:
                until_ready(f"{url}/public/health/ready")
                assert httpx.get(f"{url}/openapi.json").json()["info"]["title"] == "orders-api"
                assert httpx.get(f"{url}/items").status_code == 404
            finally:
                os.killpg(running.pid, signal.SIGINT)
                running.wait(PATIENCE)


def until_ready(url: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            if httpx.get(url).status_code == 200:
                return
        except httpx.TransportError:
            pass
        assert time.monotonic() < deadline, "the service does not become ready"
        time.sleep(0.2)
