"""`plinth worker` as a process: its port, its signals, its error messages."""

import os
import re
import signal
import socket
import time
from contextlib import AbstractContextManager
from pathlib import Path

import asyncpg
import httpx
import psutil
import pytest

import notes
from plinth.testing import NO_DATABASE
from plinth.testing.servers import Servers, scratch_folder
from tests.support.notes import copy_packages
from tests.support.processes import PATIENCE, Process, plinth


def worker(folder: Path, *options: str, **environment: str) -> AbstractContextManager[Process]:
    return plinth(folder, "worker", *options, **environment)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_worker_serves_its_port_until_a_signal(
    tmp_path: Path, database_url: str, redis_url: str, signum: signal.Signals
) -> None:
    with worker(tmp_path, "--queues", "mail, default", DATABASE_URL=database_url, REDIS_URL=redis_url) as running:
        address = running.heard("liveness and metrics")["address"]
        assert running.heard("worker started")["queues"] == ["mail", "default"]
        with httpx.Client(base_url=address) as client:
            assert client.get("/livez").text == "alive\n"
            assert client.post("/drain").status_code == 404, "SIGTERM is all that a worker needs"
            assert "plinth_jobs_started_total" in client.get("/metrics").text
        running.process.send_signal(signum)
        code, _ = running.end()
        assert code == 0
        assert running.said("worker stopped")


def test_worker_without_the_database_is_live_and_waits(tmp_path: Path) -> None:
    with worker(tmp_path, DATABASE_URL=NO_DATABASE) as waiting:
        waiting.heard("waiting for the database")
        address = waiting.heard("liveness and metrics")["address"]
        assert httpx.get(f"{address}/livez").status_code == 200
        assert httpx.get(f"{address}/readyz").status_code == 503
        waiting.process.terminate()
        assert waiting.end()[0] == 0


def test_worker_is_ready_while_it_has_a_session(tmp_path: Path, own_servers: Servers) -> None:
    def turns(status: int) -> None:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                if client.get(f"{address}/readyz").status_code == status:
                    return
            except httpx.TransportError:  # a busy machine may reset a connection; an ended worker would refuse it
                assert running.process.poll() is None, "".join(running.lines)
            assert time.monotonic() < deadline, "".join(running.lines)
            time.sleep(0.05)

    given = {"DATABASE_URL": own_servers.postgres.url(), "JOBS_SESSION_TIMEOUT": "2"}
    with worker(tmp_path, **given) as running, httpx.Client() as client:
        address = running.heard("liveness and metrics")["address"]
        turns(200)
        own_servers.postgres.stop()
        turns(503)
        assert client.get(f"{address}/livez").status_code == 200
        own_servers.postgres.start()
        turns(200)


def test_unmigrated_database_is_reported(tmp_path: Path, empty_database_url: str) -> None:
    with worker(tmp_path, DATABASE_URL=empty_database_url) as refused:
        code, lines = refused.end()
    assert code == 1
    assert lines[-1] == ("The database lacks tables or columns that this version needs: run `plinth migrate`.\n"), (
        "".join(lines)
    )


def test_taken_port_is_reported(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with worker(tmp_path, DATABASE_URL=NO_DATABASE, METRICS_PORT=str(port)) as refused:
            code, lines = refused.end()
    assert code == 1
    assert len(lines) == 1, "".join(lines)
    assert re.fullmatch(
        rf"Liveness and metrics cannot be served on 127\.0\.0\.1:{port}: .*[Aa]ddress already in use\n", lines[0]
    )


def test_worker_with_reload_restarts_on_new_code(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("COV"):  # the copy is not what is to be covered
            monkeypatch.delenv(name)
    with scratch_folder() as folder:
        # A copy: a change to the code of this tree would disturb other tests.
        copy_packages(folder)
        with worker(folder, "--reload", DATABASE_URL=database_url) as running:
            assert running.heard("worker started")["version"] == notes.__version__
            changed = folder / "notes" / "__init__.py"
            changed.write_text(changed.read_text().replace(notes.__version__, "9.9.9"))
            running.heard("worker stopped")
            assert running.heard("worker started", nth=2)["version"] == "9.9.9"
            family = psutil.Process(running.process.pid).children(recursive=True)
            running.process.terminate()
            assert running.end()[0] == 0
            assert running.said("worker stopped", nth=2)
            assert not psutil.wait_procs(family, timeout=PATIENCE)[1]


async def test_plain_functions_have_a_thread_for_each_slot(tmp_path: Path, fresh_database_url: str) -> None:
    """The interpreter's own pool has six threads on two cores."""
    copy_packages(tmp_path)
    with (tmp_path / "notes" / "jobs.py").open("a") as module:
        module.write(
            "import threading\n"
            "meeting = threading.Barrier(20)\n"
            '@job("notes.meet")\n'
            "def meet(ctx: JobContext, payload: Purge) -> None:\n"
            "    meeting.wait(60)\n"
        )
    connection = await asyncpg.connect(fresh_database_url)
    await connection.execute(
        "INSERT INTO job (kind, queue, priority, payload, max_attempts, run_at, state) "
        "SELECT 'notes.meet', 'default', 0, '{}', 1, now(), 'available' FROM generate_series(1, 20)"
    )
    await connection.close()
    with worker(tmp_path, DATABASE_URL=fresh_database_url, JOBS_CONCURRENCY="20") as running:
        for number in range(1, 21):
            assert running.heard("job", nth=number)["outcome"] == "succeeded"
