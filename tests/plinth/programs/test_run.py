"""`plinth run` from outside: what it prints, what it leaves behind."""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from plinth.testing.servers import scratch_folder
from tests.support.api import signed_in
from tests.support.notes import PACKAGES, settings_with
from tests.support.ports import free_port
from tests.support.processes import declare

PATIENCE = 60.0  # seconds, for what takes three on an idle machine
PLINTH = [sys.executable, "-m", "plinth.cli"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": PACKAGES}

# Python runs a module of this name at its start: a kind of job for every process of a run, and for none of its code.
KIND = """
import asyncio
from pydantic import BaseModel
from plinth.jobs import JobContext, job

class Nothing(BaseModel):
    pass

@job("endless", time_limit=10_000)
async def endless(ctx: JobContext, payload: Nothing) -> None:
    await asyncio.sleep(9_000)
"""


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """The working directory of the commands: no .env in it, and the data of all the runs of this module."""
    with scratch_folder() as folder:
        declare(folder)
        yield folder


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def endless(folder: Path) -> dict[str, str]:
    """An environment in which there is the kind endless."""
    place = folder / "endless"
    place.mkdir(exist_ok=True)
    (place / "sitecustomize.py").write_text(KIND)
    return {"PYTHONPATH": f"{place}:{PACKAGES}"}


class Run:
    """A `plinth run` that has said all it has to say, or has ended."""

    def __init__(self, folder: Path, *options: str, env: Mapping[str, str]) -> None:
        self.process = subprocess.Popen(
            [*PLINTH, "run", *options],
            cwd=folder,
            env={**ENVIRONMENT, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # a process group of its own, as in a terminal
        )
        assert self.process.stdout
        self.said = ""
        for line in self.process.stdout:
            self.said += line
            if line.startswith("  Stop "):
                break
        self.family = psutil.Process(self.process.pid).children(recursive=True) if self.running else []

    @property
    def running(self) -> bool:
        return "  Stop " in self.said

    def value(self, name: str) -> str:
        """What stands behind a name in the summary."""
        found = re.search(rf"^  {name} +(.*)$", self.said, re.MULTILINE)
        assert found, self.said
        return found[1]

    def query(self, sql: str) -> str:
        """What the client of the summary prints of a query."""
        return subprocess.check_output(f'{self.value("SQL")} -Atc "{sql}"', shell=True, text=True)

    def wait_for(self, expected: str, sql: str) -> None:
        """Wait until a query prints that."""
        deadline = time.monotonic() + PATIENCE
        while (found := self.query(sql)) != expected:
            assert time.monotonic() < deadline, found
            time.sleep(0.05)

    def press_ctrl_c(self) -> None:
        """As the terminal does it: the whole foreground group gets the signal."""
        os.killpg(self.process.pid, signal.SIGINT)

    def end(self) -> tuple[int, str]:
        """Wait for the end. Returns the exit code and the errors; fails if a process is left."""
        said, errors = self.process.communicate(timeout=PATIENCE)
        self.said += said
        _, left = psutil.wait_procs(self.family, timeout=PATIENCE)
        assert not left
        return self.process.returncode, errors


@contextmanager
def run(folder: Path, *options: str, **env: str) -> Iterator[Run]:
    run = Run(folder, *options, env=env)
    try:
        yield run
    finally:
        run.process.kill()
        run.process.communicate()
        for process in run.family:
            if process.is_running():
                process.kill()


def test_run_serves_and_works_until_ctrl_c(folder: Path, port: int, endless: dict[str, str]) -> None:
    """One run for all of this: each starts two servers and three programs. The second Ctrl-C releases what runs.

    `test_wheel_alone.py` presses it once, and follows a job to its end.
    """
    # The worker would wait for what runs longer than this test does.
    with run(folder, "--port", str(port), JOBS_SHUTDOWN_GRACE="1000", **endless) as first:
        assert first.running, first.process.communicate()[1]
        assert {"postgres", "valkey-server"} < {process.name() for process in first.family}

        # What it prints is true.
        with httpx.Client() as client:
            assert client.get(first.value("Docs")).is_success
            assert client.get(first.value("Health")).json()["status"] == "alive"
            of_api, of_worker = first.value("Metrics").split(", of the worker ")
            assert "http_server_request_duration_seconds_count{" in client.get(of_api).text
            # It starts beside the API, and may be a moment later.
            with httpx.Client(transport=httpx.HTTPTransport(retries=6)) as patient:
                deadline = time.monotonic() + PATIENCE
                while 'plinth_jobs_finished_total{kind="' not in patient.get(of_worker).text:
                    assert time.monotonic() < deadline
                    time.sleep(0.05)
            me = f"http://127.0.0.1:{port}/api/v1/me"
            headers = {"Authorization": f"Bearer {first.value('Token')}"}
            assert client.get(me, headers=headers).json()["subject"] == "alice"
            assert first.value("Try") == f"curl {me} -H 'Authorization: {headers['Authorization']}'"
            created = client.post(f"http://127.0.0.1:{port}/api/v1/notes", headers=headers, json={"text": "kept"})
            assert created.status_code == 201
        assert (first.value("Data"), first.value("Logs")) == (".plinth", ".plinth/logs")
        assert first.query("SELECT text FROM note") == "kept\n"

        # The key is its own, in a file that no other user can read, and the command `token` signs with it.
        key = folder / ".plinth" / "secret-key"
        assert key.stat().st_mode & 0o777 == 0o600
        assert key.read_text().strip() not in first.said + (folder / ".plinth" / "lock").read_text()
        signed = subprocess.check_output([*PLINTH, "token", "--sub", "bob"], cwd=folder, env=ENVIRONMENT, text=True)
        forged = signed_in(settings_with(), "mallory")
        with httpx.Client() as client:
            answer = client.get(me, headers={"Authorization": f"Bearer {signed.strip()}", "Host": "plinth.example"})
            assert answer.json()["subject"] == "bob"
            assert client.get(me, headers=forged).status_code == 401

        # A second copy is told about the first, whatever its port.
        with run(folder, "--port", str(port + 1)) as second:
            code, errors = second.end()
        assert code == 1
        assert errors == (
            f"Plinth runs on the data in .plinth already: process {first.process.pid}, http://127.0.0.1:{port}. "
            "Stop that one first, or keep other data: plinth run --data-dir FOLDER.\n"
        )

        # Other commands find its servers.
        enqueue = shlex.join([*PLINTH, "jobs", "enqueue", "endless", "{}"])
        beside = [
            *PLINTH,
            "with-servers",
            "--",
            "sh",
            "-c",
            f'echo "$DATABASE_URL $REDIS_URL $SECRET_KEY"; {enqueue}; exit 3',
        ]
        env = {**ENVIRONMENT, **endless}
        done = subprocess.run(beside, cwd=folder, env=env, stdout=subprocess.PIPE, text=True, check=False)
        assert done.returncode == 3
        database_url, redis_url, secret_key, job = done.stdout.split()
        assert secret_key == key.read_text().strip()
        assert database_url in first.value("SQL")
        assert redis_url.startswith("unix://")

        # What it prints about jobs is true.
        first.wait_for("running\n", f"SELECT state FROM job WHERE id = '{job}'")
        shown = subprocess.check_output(first.value("Jobs"), shell=True, cwd=folder, env=ENVIRONMENT, text=True)
        assert shown.splitlines()[1].split()[:4] == ["default", "no", "0", "1"]

        sockets = Path(database_url.partition("host=")[2])
        first.press_ctrl_c()
        first.wait_for("t\n", "SELECT stopping FROM worker_session")
        first.press_ctrl_c()
        code, errors = first.end()
        assert code == 0
        assert first.said.endswith("\nStopping (Ctrl-C again to hurry).\nStopped.\n")
        assert '"message":"released","count":1' in errors
        assert '"message":"worker stopped"' in errors
        assert not sockets.exists()


def test_death_of_the_worker_ends_the_run(folder: Path, port: int, fresh_database_url: str, redis_url: str) -> None:
    probes = free_port()
    given = {"DATABASE_URL": fresh_database_url, "REDIS_URL": redis_url, "METRICS_PORT": str(probes)}
    with run(folder, "--port", str(port), "--data-dir", "given", **given) as broken:
        assert broken.running, broken.process.communicate()[1]
        # METRICS_PORT is the worker's; the API takes another.
        with httpx.Client(transport=httpx.HTTPTransport(retries=6)) as patient:
            assert patient.get(f"http://127.0.0.1:{probes}/livez").status_code == 200
        assert broken.value("Metrics").endswith(f", of the worker http://127.0.0.1:{probes}/metrics")
        worker = next(process for process in broken.family if "worker" in process.cmdline())
        worker.kill()
        code, errors = broken.end()
    assert code == 1
    assert errors.endswith("The worker was ended by SIGKILL. What it said is above.\n")


def test_worker_that_was_killed_is_started_again_under_reload(
    folder: Path, port: int, fresh_database_url: str, redis_url: str
) -> None:
    """Whichever of its processes it is: the one that runs jobs, or the one that starts it anew."""
    given = {"DATABASE_URL": fresh_database_url, "REDIS_URL": redis_url}
    with run(folder, "--port", str(port), "--reload", "--data-dir", "given", **given) as first:
        assert first.running, first.process.communicate()[1]
        ready = first.value("Metrics").split(", of the worker ")[1].replace("/metrics", "/livez")
        main = psutil.Process(first.process.pid)

        def reloader() -> psutil.Process:
            return next(child for child in main.children() if "worker" in child.cmdline())

        def answers() -> bool:
            try:
                return httpx.get(ready).status_code == 200
            except httpx.TransportError:
                return False

        def wait_for(condition: Callable[[], bool]) -> None:
            deadline = time.monotonic() + PATIENCE
            while not condition():
                assert time.monotonic() < deadline
                time.sleep(0.05)

        for starts_anew in (False, True):
            wait_for(answers)
            process = reloader()
            working = max(process.children(recursive=True), key=lambda child: child.create_time())
            (process if starts_anew else working).kill()
            wait_for(lambda: not answers())
            wait_for(answers)
            assert (reloader() == process) is not starts_anew
            assert not working.is_running()
        first.family = main.children(recursive=True)
        first.press_ctrl_c()
        assert first.end()[0] == 0


def test_killed_supervisor_ends_its_children_and_a_killed_server_ends_the_run(folder: Path, port: int) -> None:
    with run(folder, "--port", str(port), "--reload") as killed:
        assert killed.running, killed.process.communicate()[1]
        killed.process.kill()
        # The next one starts at once, while the children of the first may still be on their way out.
        with run(folder, "--port", str(port)) as broken:
            assert broken.running, broken.process.communicate()[1]
            killed.end()
            next(process for process in broken.family if process.name() == "postgres").kill()
            code, errors = broken.end()
    assert code == 1
    assert "\nPostgreSQL 18 was ended by SIGKILL. The end of .plinth/logs/postgresql.log:\n" in errors


def test_failed_migration_is_reported_with_its_log(
    folder: Path, port: int, fresh_database_url: str, redis_url: str
) -> None:
    given = {"DATABASE_URL": fresh_database_url, "REDIS_URL": redis_url, "DB_TRANSACTION_POOLER": "true"}
    with run(folder, "--port", str(port), "--data-dir", "given", **given) as failed:
        code, errors = failed.end()
    assert code == 1
    assert errors.startswith("The migration ended with exit code 1. The end of given/logs/migrate.log:\n")
    assert "DB_TRANSACTION_POOLER is on" in errors
    # Nothing is started in the place of what is given.
    assert {path.name for path in (folder / "given").iterdir()} == {"lock", "logs", "secret-key"}


def test_busy_port_is_reported_before_anything_starts(folder: Path) -> None:
    """What an earlier run has left behind there is ended first, which the kernel does by itself on Linux only."""
    data = folder / "untouched"
    data.mkdir()
    orphan = psutil.Popen(["sleep", "60"])
    (data / "lock").write_text(json.dumps({"programs": {str(orphan.pid): orphan.create_time()}}))
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        with run(folder, "--port", str(port), "--data-dir", "untouched") as refused:
            code, errors = refused.end()
    assert code == 1
    assert errors.startswith(f"Port {port} on 127.0.0.1 is in use by another program. ")
    assert errors.count("\n") == 1
    assert not (data / "postgres").exists()
    assert orphan.wait(PATIENCE) == -signal.SIGTERM


def test_unwritable_data_folder_is_reported(folder: Path, port: int) -> None:
    (folder / "file").touch()
    with run(folder, "--port", str(port), "--data-dir", "file/data") as refused:
        assert refused.end() == (
            1,
            "The data folder file/data cannot be written: not a directory. Choose another with --data-dir.\n",
        )


def test_invalid_setting_is_reported_before_anything_starts(folder: Path, port: int) -> None:
    with run(folder, "--port", str(port), "--data-dir", "untouched", DB_POOL_SIZE="none") as refused:
        code, errors = refused.end()
    assert code == 2
    assert errors.startswith("The configuration cannot be used:\n  - DB_POOL_SIZE")


class TestWithServers:
    def test_the_servers_run_as_long_as_the_command(self, folder: Path) -> None:
        script = 'echo "$DATABASE_URL"; kill -0 "$(head -1 alone/postgres/postmaster.pid)" && exit 7'
        command = [*PLINTH, "with-servers", "--data-dir", "alone", "--", "sh", "-c", script]
        done = subprocess.run(
            command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=PATIENCE
        )
        assert (done.returncode, done.stderr) == (7, "")
        assert done.stdout.startswith("postgresql://plinth@/plinth?host=")
        assert not (folder / "alone" / "postgres" / "postmaster.pid").exists()

    def test_ctrl_c_ends_the_command_of_with_servers(
        self, folder: Path, fresh_database_url: str, redis_url: str
    ) -> None:
        env = {**ENVIRONMENT, "DATABASE_URL": fresh_database_url, "REDIS_URL": redis_url}
        command = [*PLINTH, "with-servers", "--data-dir", "alone", "--", "sh", "-c", "trap '' INT; echo; sleep 60"]
        with subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, start_new_session=True) as process:
            assert process.stdout
            process.stdout.readline()
            os.killpg(process.pid, signal.SIGINT)
            assert process.wait(PATIENCE) == 130

    def test_unknown_command_of_with_servers_is_reported(self, folder: Path) -> None:
        command = [*PLINTH, "with-servers", "--", "no-such-command"]
        done = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (1, "There is no command no-such-command.\n")
