"""A service that has nothing of this tree but the wheel: the tiny one, in an environment of its own."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from plinth.testing.servers import scratch_folder
from tests.support.notes import FOLDER, ROOT
from tests.support.ports import free_port
from tests.support.wheel import build_wheel

PATIENCE = 60.0  # seconds, for what takes three on an idle machine
(LOCK,) = [*ROOT.glob("requirements-run.txt"), *ROOT.glob("requirements/run.txt")]


class Installed:
    """A copy of the service, and the programs of its environment."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "service"
        self.programs = folder / "environment" / "bin"
        # Nothing of this process: neither its modules nor a developer's settings.
        kept = ("HOME", "LANG", "PATH", "TMPDIR", "USER")
        self.environment = {name: os.environ[name] for name in kept if name in os.environ}

    def run(self, program: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.programs / program, *arguments],
            cwd=self.folder,
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )


@pytest.fixture(scope="module")
def installed() -> Iterator[Installed]:
    with scratch_folder() as folder:
        wheel = build_wheel(folder)
        shutil.copytree(FOLDER, folder / "service", ignore=shutil.ignore_patterns("__pycache__"))
        environment = str(folder / "environment")
        uv = [sys.executable, "-m", "uv"]
        install = [*uv, "pip", "install", "--quiet", "--no-config", "--no-deps", "--python", environment]
        subprocess.run([*uv, "venv", "--quiet", "--no-config", environment], check=True)
        subprocess.run([*install, "--require-hashes", "-r", str(LOCK)], check=True)
        subprocess.run([*install, str(wheel)], check=True)
        yield Installed(folder)


def test_wheel_does_not_contain_the_sample_service(installed: Installed) -> None:
    done = installed.run("python", "-c", "import plinth; print(plinth.__file__); import app")
    assert done.stdout.startswith(str(installed.programs.parent))
    assert "No module named 'app'" in done.stderr


def test_config_check_of_an_installed_service_shows_its_own_setting(installed: Installed) -> None:
    done = installed.run("plinth", "config", "check", NOTES_KEEP_DAYS="7")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^NOTES_KEEP_DAYS +set +7", done.stdout, re.MULTILINE), done.stdout


def test_installed_service_migrates_and_serves_a_request_and_a_job(installed: Installed) -> None:
    port = free_port()
    with subprocess.Popen(
        [installed.programs / "plinth", "run", "--port", str(port)],
        cwd=installed.folder,
        env=installed.environment,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a process group of its own, as in a terminal
    ) as process:
        try:
            assert process.stdout
            said = ""
            for line in process.stdout:
                said += line
                if line.startswith("  Stop "):
                    break
            token = re.search(r"^  Token +(.*)$", said, re.MULTILINE)
            assert token, said
            family = psutil.Process(process.pid).children(recursive=True)
            follow_a_note_to_its_digest(port, token[1])
            os.killpg(process.pid, signal.SIGINT)  # Ctrl-C
            rest, _ = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    assert process.returncode == 0
    assert rest.endswith("\nStopping (Ctrl-C again to hurry).\nStopped.\n")
    assert not psutil.wait_procs(family, timeout=PATIENCE)[1]


def follow_a_note_to_its_digest(port: int, token: str) -> None:
    """Write a note, ask for a digest, wait for the job, read what it has written."""
    headers = {"Authorization": f"Bearer {token}"}
    with httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1", headers=headers) as client:
        assert client.post("/notes", json={"text": "buy milk\nand bread"}).status_code == 201
        job = client.post("/digests").json()["job_id"]
        deadline = time.monotonic() + PATIENCE
        while (state := client.get(f"/jobs/{job}").json()["state"]) != "succeeded":
            assert time.monotonic() < deadline, state
            time.sleep(0.05)
        newest = client.get("/notes").json()["items"][0]
    assert (newest["text"], newest["tags"]) == ("1 notes\nbuy milk", ["digest"])
