"""docs/openapi.md: the typed client is generated, checked and used as the page says."""

import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.core.config import Settings
from app.main import create_app
from plinth.identity import sign_local_token
from plinth.testing import serving
from tests.support.pages import blocks

ADDRESS = "http://127.0.0.1:8000"
HEADING = "## A typed client of the document"


@pytest.fixture(scope="module")
def settings(make_settings: Callable[..., Settings]) -> Settings:
    return make_settings()


@pytest.fixture(scope="module")
def url(settings: Settings) -> Iterator[str]:
    with serving(create_app(settings)) as url:
        yield url


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, url: str) -> Path:
    """A folder with the client, and with the page's code that calls it."""
    folder = tmp_path_factory.mktemp("client")
    ((command,), (code,)) = (blocks("docs/openapi.md", HEADING, language) for language in ("sh", "python"))
    tool, *arguments = shlex.split(command.replace("\\\n", " ").replace(ADDRESS, url))
    (folder / "no-hooks.yml").write_text("post_hooks: []\n")  # it would look for ruff on the PATH, to format the code
    run(folder, tool.replace("-", "_"), *arguments, "--fail-on-warning", "--config", "no-hooks.yml")
    (folder / "use.py").write_text(code)
    return folder


def run(folder: Path, module: str, *arguments: str) -> str:
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_client_has_a_function_for_each_operation(folder: Path) -> None:
    made = {path.stem for path in (folder / "shop_client" / "api").glob("*/*.py")} - {"__init__"}
    named = {
        operation["operationId"]
        for path in create_app(Settings.isolated()).openapi()["paths"].values()
        for operation in path.values()
    }
    assert made == named


def test_the_client_and_its_use_are_typed(folder: Path) -> None:
    (folder / "empty.toml").touch()
    run(folder, "mypy", "--config-file", "empty.toml", "--strict", "use.py")


def test_the_client_calls_the_service(folder: Path, url: str, settings: Settings) -> None:
    token = sign_local_token(settings, subject="alice", ttl=600)
    (folder / "call.py").write_text(f"from use import call\n\ncall({url!r}, {token!r})\n")

    assert run(folder, "call").splitlines() == ["alice", "0", "not_found"]
