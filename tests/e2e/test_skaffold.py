"""skaffold.yaml: `run` deploys and `delete` takes away; `dev` brings an edit into the running pods."""

import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.e2e.cluster import ROOT, Cluster
from tests.e2e.release import Release, namespace, until
from tests.e2e.shell import Shell

# What an edit changes, and a request shows.
URL = "http://127.0.0.1:8081/api/v1/"
HANDLER, SHOWN = Path("app/api/v1/public/health.py"), '"alive"'
EDITS = 3
# On an idle machine it is a tenth of that. The figure is printed.
SERVED_WITHIN = 20
KEPT_OUT = shutil.ignore_patterns(".git", ".venv", ".plinth", ".*_cache", "__pycache__", "*.egg-info")


class TestRun:
    def test_deploys_and_delete_takes_it_away(self, cluster: Cluster, tmp_path: Path) -> None:
        """In the namespace that the profile names."""
        with namespace(cluster, "plinth-e2e") as release:
            shell = Shell(release, tmp_path)
            shell.run("skaffold run -p e2e")
            assert release.ready("api", 2)
            assert release.ready("worker", 1)
            assert release.ready("postgresql", 1)
            assert release.ready("redis", 1)
            assert release.restarts("api", "worker") == 0
            release.helm("test", "plinth")
            shell.run("skaffold delete -p e2e")
            assert release.helm("list", "--short") == ""
            until(lambda: not release.pods("api") + release.pods("worker"), "the pods go", within=60)


class TestDev:
    @pytest.fixture
    def tree(self, tmp_path: Path) -> Path:
        """Files that may be edited."""
        return Path(shutil.copytree(ROOT, tmp_path / "tree", ignore=KEPT_OUT))

    def test_an_edit_is_served_without_a_build_or_a_restart(self, cluster: Cluster, tree: Path, tmp_path: Path) -> None:
        with namespace(cluster, "plinth-skaffold") as release, dev(Shell(release, tmp_path), tree, release) as said:
            before = pods(release)
            took = [served_after(tree / HANDLER, f"edit {number}", said) for number in range(EDITS)]
            print(f"\nedits were served after {', '.join(f'{seconds:.2f}' for seconds in took)} s")  # noqa: T201 - to quote
            assert pods(release) == before
            assert release.restarts("api", "worker") == 0
            (worker,) = release.pods("worker")
            assert f"edit {EDITS - 1}" in release.execute(worker.metadata.name, "cat", f"/tmp/plinth/{HANDLER}")
            assert said.read_text().count("Building [plinth]") == 1


@contextmanager
def dev(shell: Shell, tree: Path, release: Release) -> Iterator[Path]:
    """`skaffold dev` in the background, and the file of what it says. Ctrl-C takes everything away again."""
    said = shell.folder / "said"
    with said.open("w") as output:
        process = subprocess.Popen(
            ["skaffold", "dev", "-i", "100", "--namespace", release.namespace],
            cwd=tree, env=shell.environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        watches = "Watching for changes"
        until(lambda: watches in said.read_text() or process.poll() is not None, "skaffold is ready", within=300)
        assert process.poll() is None, said.read_text()
        yield said
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0, said.read_text()
        assert release.helm("list", "--short") == ""
    finally:
        process.kill()
        process.wait()


def served_after(handler: Path, words: str, said: Path) -> float:
    """How many seconds pass between the edit of the handler and an answer from it."""
    original = (ROOT / HANDLER).read_text()
    assert SHOWN in original
    edited = time.monotonic()
    handler.write_text(original.replace(SHOWN, f'"{words}"'))
    while status() != words:
        assert time.monotonic() < edited + SERVED_WITHIN, said.read_text()
        time.sleep(0.05)
    return time.monotonic() - edited


def status() -> str | None:
    try:
        answer: str = httpx.get(f"{URL}public/health", timeout=SERVED_WITHIN).json()["status"]
    except httpx.HTTPError:
        return None
    return answer


def pods(release: Release) -> set[str]:
    return {pod.metadata.uid for component in ("api", "worker") for pod in release.pods(component)}
