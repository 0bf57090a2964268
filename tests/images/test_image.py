"""The image: what is in it, what is not, and that it runs confined."""

import json
import re
import secrets
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

import plinth
from app import __version__
from app.core.config import Settings
from tests.images.conftest import CODE, CONFINED, REVISION, ROOT, Docker, Note, close_to_others, inspect, run, until

LIMIT = 123e6  # bytes on top of the base; the files of /docs are 1.7 MB of them, Jinja2 and /ops 0.9
IDLE = 100 * 2**20  # bytes of memory of a process that has nothing to do
NO_DATABASE = "postgresql://plinth:plinth@127.0.0.1:1/plinth"
# Without settings of a deployment it runs where it is told so, and with a key of its own.
LOCAL = ("--env", "ENVIRONMENT=local", "--env", f"SECRET_KEY={secrets.token_hex(32)}")

Start = Callable[..., str]


@pytest.fixture
def python(docker: Docker, image: str) -> Callable[[str], str]:
    """Runs code in the image, by its Python; returns what it prints."""

    def python(code: str) -> str:
        options = [*CONFINED, *LOCAL, "--network", "none", "--entrypoint", "python"]
        return docker("run", "--rm", *options, image, "-c", code)

    return python


class TestWhatIsInIt:
    def test_its_user_is_a_number_and_not_root(self, docker: Docker, image: str) -> None:
        assert inspect(docker, image)["Config"]["User"] == "10001:10001"

    def test_its_labels_say_what_it_is(self, docker: Docker, image: str) -> None:
        labels = inspect(docker, image)["Config"]["Labels"]
        kept = {name.removeprefix("org.opencontainers.image."): value for name, value in labels.items()}
        assert kept["title"] == Settings.isolated().PROJECT_NAME
        assert kept["licenses"] == "MIT"
        assert (kept["version"], kept["revision"]) == (__version__, REVISION)
        assert kept["description"]

    def test_its_metrics_say_of_which_revision_it_is(self, python: Callable[[str], str]) -> None:
        shown = python(
            "from app.core.config import get_settings; from plinth.telemetry.metrics import exposition, tell_build;"
            "tell_build(get_settings()); print(exposition('')[1].decode())"
        )
        assert f'revision="{REVISION}"' in shown

    def test_nothing_in_it_installs_or_builds(self, docker: Docker, image: str) -> None:
        tools = "pip pip3 uv gcc cc g++ clang ld make git curl wget"
        script = f"for tool in {tools}; do command -v $tool; done; find / -xdev -name 'pip-*' -not -path '/proc/*'"
        found = run("docker", "run", "--rm", "--network", "none", "--entrypoint", "sh", image, "-c", script)
        assert found.stdout == ""

    @pytest.mark.parametrize(
        "module",
        [
            "pip",
            "ensurepip",
            "kubernetes",
            "pytest",
            "psutil",
            "setuptools",
            "tests",
            "plinth.embedded",
            "plinth.testing",
        ],
    )
    def test_it_lacks(self, python: Callable[[str], str], module: str) -> None:
        assert python(f"import importlib.util; print(importlib.util.find_spec({module!r}))") == "None"

    def test_what_needs_the_embedded_servers_is_told_in_a_sentence(self, docker: Docker, image: str) -> None:
        refused = run("docker", "run", "--rm", *CONFINED, "--network", "none", image, "run")
        assert refused.returncode == 2
        assert refused.stderr == "plinth.embedded is not installed. Install it with: pip install 'plinth[embedded]'\n"

    def test_it_has_no_tests(self, python: Callable[[str], str]) -> None:
        code = "import pathlib; print([p for top in ('/app', '/opt/venv') for p in pathlib.Path(top).rglob('tests')])"
        assert python(code) == "[]"

    def test_all_of_it_is_compiled_and_never_again(self, python: Callable[[str], str]) -> None:
        code = """
import importlib.util, pathlib
for top in ("/app", "/opt/venv/lib"):
    for source in pathlib.Path(top).rglob("*.py"):
        compiled = pathlib.Path(importlib.util.cache_from_source(source))
        # PEP 552: 1 is a hash that is not checked.
        if not compiled.exists() or compiled.read_bytes()[4] != 1:
            print(source)
"""
        assert python(code) == ""

    def test_no_import_of_a_process_needs_compiling(
        self, docker: Docker, build: Callable[..., str], tmp_path: Path
    ) -> None:
        """On a base whose standard library is not compiled, as the official one's is not."""
        strip = "import os, sysconfig; os.system('find ' + sysconfig.get_path('stdlib') + ' -name \"*.pyc\" -delete')"
        (tmp_path / "Dockerfile").write_text(
            f"FROM python:3.13-slim\nRUN {json.dumps(['python', '-B', '-c', strip])}\n"
        )
        base = f"plinth-test-base:{uuid4().hex[:12]}"
        docker("build", "--tag", base, str(tmp_path))
        image = build(ROOT, "--build-context", f"python:3.13-slim=docker-image://{base}")
        docker("image", "rm", base)
        code = """
import pathlib, sys
import app.main, plinth.cli, plinth.jobs.engine.worker, plinth.database.migrator, plinth.health.probe_server
import uvicorn.protocols.http.httptools_impl, uvloop
for module in list(sys.modules.values()):
    compiled = getattr(module, "__cached__", None)
    if compiled and (module.__file__ or "").endswith(".py") and not pathlib.Path(compiled).exists():
        print(module.__name__)
"""
        assert docker("run", "--rm", *CONFINED, "--entrypoint", "python", image, "-c", code) == ""

    def test_it_is_small(self, docker: Docker, image: str, note: Note) -> None:
        own = inspect(docker, image)["Size"] - inspect(docker, "python:3.13-slim")["Size"]
        note(f"The image adds {own / 1e6:.0f} MB to its base.")
        assert own <= LIMIT

    def test_other_code_is_one_other_layer(
        self, docker: Docker, image: str, build: Callable[..., str], context: Path
    ) -> None:
        with (context / "app/__init__.py").open("a") as file:
            file.write("# another line\n")
        layers, others = (inspect(docker, name)["RootFS"]["Layers"] for name in (image, build(context)))
        assert len(layers) == len(others)
        assert sum(layer != other for layer, other in zip(layers, others, strict=True)) == 1

    def test_nothing_stray_gets_in(self, docker: Docker, build: Callable[..., str], context: Path) -> None:
        shutil.copytree(ROOT / "tests/unit", context / "tests")
        for name in (".env", "app/.env", "secret.pem"):
            (context / name).write_text("SECRET_KEY=nobody-may-see-this")
        name = build(context)
        found = docker("run", "--rm", "--entrypoint", "find", name, "/app", "-maxdepth", "1", "-mindepth", "1")
        assert set(found.split()) == {f"/app/{name}" for name in CODE}
        hidden = docker("run", "--rm", "--entrypoint", "find", name, "/app", "-name", ".env")
        assert hidden == ""


class TestCheckout:
    """Made under umask 077, so that files may be read by their owner alone."""

    @pytest.fixture
    def closed(self, context: Path) -> Path:
        close_to_others(context)
        return context

    def test_image_runs(self, docker: Docker, build: Callable[..., str], closed: Path) -> None:
        told = docker("run", "--rm", *CONFINED, "--network", "none", build(closed), "version")
        assert told == f"{__version__} (plinth {plinth.__version__})"

    def test_image_of_skaffold_dev_runs(self, docker: Docker, build: Callable[..., str], closed: Path) -> None:
        """And says that it is the image's code which runs, and not what was edited since."""
        name = build(closed, "--file", str(closed / "docker/Dockerfile.dev"))
        told = docker("run", "--rm", *CONFINED, "--network", "none", name, "version")
        assert told.splitlines()[-1] == f"{__version__} (plinth {plinth.__version__})"
        assert "a new pod, which runs the code of its image" in told


class TestHowItRuns:
    def test_it_tells_its_version(self, docker: Docker, image: str) -> None:
        told = docker("run", "--rm", *CONFINED, "--network", "none", image, "version")
        assert told == f"{__version__} (plinth {plinth.__version__})"

    def test_it_refuses_wrong_settings_with_exit_code_2(self, docker: Docker, image: str) -> None:
        done = run("docker", "run", "--rm", *CONFINED, *LOCAL, "-e", "DB_POOL_SIZE=many", image, "api")
        assert done.returncode == 2
        assert "DB_POOL_SIZE" in done.stderr

    def test_without_settings_it_names_what_is_missing(self, docker: Docker, image: str) -> None:
        done = run("docker", "run", "--rm", *CONFINED, image)
        assert done.returncode == 2
        for name in ("SECRET_KEY", "DATABASE_URL", "AUTH_PROVIDER"):
            assert f"  - {name} (not set): " in done.stderr

    def test_no_environment_listens_with_the_key_that_all_know(self, docker: Docker, image: str) -> None:
        done = run("docker", "run", "--rm", *CONFINED, "-e", "ENVIRONMENT=local", image)
        assert done.returncode == 2
        assert done.stderr.startswith("SECRET_KEY: expected a secret of your own ")

    @pytest.mark.parametrize("command", [("api", "--host", "::"), ("worker", "--host", "::")], ids=" ".join)
    def test_a_process_lives_without_a_database_and_ends_when_it_is_told_to(
        self, docker: Docker, start: Start, command: tuple[str, ...], note: Note
    ) -> None:
        began = time.monotonic()
        options = (*LOCAL, "--publish", "127.0.0.1::9090", "--env", f"DATABASE_URL={NO_DATABASE}")
        name = start(*command, options=options)
        address = f"http://{docker('port', name, '9090/tcp')}"

        def lives() -> bool:
            try:
                return httpx.get(f"{address}/livez").status_code == 200
            except httpx.TransportError:
                return False

        until(lives, "it answers")
        seconds = time.monotonic() - began
        assert httpx.get(f"{address}/readyz").status_code == 503
        memory = _bytes(docker("stats", "--no-stream", "--format", "{{.MemUsage}}", name).split(" / ")[0])
        note(f"{command[0]} answers {seconds:.1f} s after its start and takes {memory / 2**20:.0f} MiB.")
        assert memory < IDLE

        began = time.monotonic()
        docker("stop", "--time", "60", name)
        state = inspect(docker, name)["State"]
        assert (state["ExitCode"], state["OOMKilled"]) == (0, False), docker("logs", name)
        assert time.monotonic() - began < 30

    @pytest.mark.parametrize("command", [("wait",), ("migrate", "--wait", "600")], ids=" ".join)
    def test_so_does_one_that_waits(self, docker: Docker, start: Start, command: tuple[str, ...]) -> None:
        """As process 1, to which the kernel delivers no signal that it has no handler for."""
        name = start(*command, options=(*LOCAL, "--env", f"DATABASE_URL={NO_DATABASE}"))
        until(lambda: "waiting" in _logs(name), "it waits")
        began = time.monotonic()
        docker("stop", "--time", "60", name)
        assert inspect(docker, name)["State"]["ExitCode"] == 143
        assert time.monotonic() - began < 30

    def test_every_setting_of_its_environment_is_known(self, docker: Docker, image: str) -> None:
        given = {entry.partition("=")[0] for entry in inspect(docker, image)["Config"]["Env"]}
        assert {"PATH"} < given
        assert given & set(Settings.model_fields) == {"BUILD_REVISION", "ENVIRONMENT"}


def _logs(name: str) -> str:
    done = run("docker", "logs", name)
    return done.stdout + done.stderr


def _bytes(text: str) -> float:
    number, unit = re.fullmatch(r"([\d.]+)(\w+)", text).groups()  # type: ignore[union-attr]
    scale: dict[str, Any] = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
    return float(number) * float(scale[unit])
