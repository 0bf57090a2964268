"""Images and containers for the tests. Without Docker every one of them fails, and says why."""

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from app import __version__
from plinth.testing.servers import scratch_folder

ROOT = Path(__file__).parents[2]
PATIENCE = 120.0  # seconds, for what takes a few on an idle machine
REVISION = "0123456789abcdef"

# As a pod of the restricted kind with a read-only root has it.
CONFINED = ["--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]

# What an image is made of.
CODE = ("app", "plinth", "migrations", "alembic.ini", "pyproject.toml")
CONTEXT = [*CODE, "docker", "requirements", ".dockerignore", "Makefile"]

Docker = Callable[..., str]
Note = Callable[[str], None]

_FIGURES = pytest.StashKey[list[str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_FIGURES] = []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if figures := config.stash[_FIGURES]:
        terminalreporter.section("what was measured")
        for figure in figures:
            terminalreporter.write_line(figure)


@pytest.fixture
def note(pytestconfig: pytest.Config) -> Note:
    """Takes a figure to show at the end of the run."""
    return pytestconfig.stash[_FIGURES].append


def run(*command: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def until(holds: Callable[[], Any], what: str, within: float = PATIENCE) -> Any:
    """What `holds` returns once it is true."""
    deadline = time.monotonic() + within
    while not (found := holds()):
        assert time.monotonic() < deadline, f"not within {within:g} s: {what}"
        time.sleep(0.1)
    return found


@pytest.fixture(scope="session")
def docker() -> Docker:
    """Runs a command of Docker's; returns what it prints, and fails with what it says if it fails."""
    if shutil.which("docker") is None:
        pytest.fail("These tests need Docker, and it is not installed.", pytrace=False)
    if (info := run("docker", "version")).returncode:
        pytest.fail(f"These tests need Docker, and its engine does not answer: {info.stderr.strip()}", pytrace=False)

    def docker(*arguments: str) -> str:
        done = run("docker", *arguments)
        assert done.returncode == 0, f"docker {' '.join(arguments)}\n{done.stdout[-5000:]}{done.stderr[-5000:]}"
        return done.stdout.strip()

    return docker


@pytest.fixture
def context() -> Iterator[Path]:
    """A copy of what images are made of, for a test that changes it."""
    with scratch_folder() as folder:
        for name in CONTEXT:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(source, folder / name)
        yield folder


@pytest.fixture(scope="session")
def build(docker: Docker) -> Iterator[Callable[..., str]]:
    """Builds the image of a tree, with more options of Docker; returns its name. All are removed in the end."""
    names = []

    def build(tree: Path, *options: str) -> str:
        name = f"plinth-test:{uuid4().hex[:12]}"
        arguments = ["--build-arg", f"VERSION={__version__}", "--build-arg", f"REVISION={REVISION}"]
        docker("build", "--file", str(tree / "docker/Dockerfile"), "--tag", name, *arguments, *options, str(tree))
        names.append(name)
        return name

    yield build
    if names:
        docker("image", "rm", *names)


@pytest.fixture(scope="session")
def image(build: Callable[..., str]) -> str:
    """The image of this tree."""
    return build(ROOT)


@pytest.fixture
def start(docker: Docker, image: str) -> Iterator[Callable[..., str]]:
    """Starts a container of the image, confined; takes the command, and options of `docker run`. Returns its id."""
    ids = []

    def start(*command: str, options: tuple[str, ...] = ()) -> str:
        ids.append(docker("run", "--detach", *CONFINED, *options, image, *command))
        return ids[-1]

    yield start
    for name in ids:
        docker("rm", "--force", "--volumes", name)


def close_to_others(tree: Path) -> None:
    """Give files the modes of a checkout under umask 077."""
    for path in (tree, *tree.rglob("*")):
        path.chmod(path.stat().st_mode & 0o700)


def inspect(docker: Docker, name: str) -> Any:
    return json.loads(docker("inspect", name))[0]
