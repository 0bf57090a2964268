import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from plinth.embedded.lock import Lock, Taken
from plinth.embedded.process import EmbeddedError, Process


def test_locked_data_folder_refuses_a_second_process(tmp_path: Path) -> None:
    with Lock(tmp_path / "data") as lock:
        lock.write({"pid": 4711, "url": "http://127.0.0.1:8000"})
        with pytest.raises(Taken) as taken, Lock(tmp_path / "data"):
            pass
    assert str(taken.value) == (
        f"Plinth runs on the data in {tmp_path}/data already: process 4711, http://127.0.0.1:8000. "
        "Stop that one first, or keep other data with --data-dir."
    )
    with Lock(tmp_path / "data") as lock:
        assert lock.record() == {}


def test_lock_of_an_unknown_holder_is_refused(tmp_path: Path) -> None:
    with Lock(tmp_path), pytest.raises(Taken, match="already: another process"), Lock(tmp_path):
        pass


def test_shorter_lock_record_replaces_a_longer_one(tmp_path: Path) -> None:
    with Lock(tmp_path) as lock:
        lock.write({"pid": 4711, "url": "http://127.0.0.1:8000"})
        lock.write({"pid": 1})
        assert lock.record() == {"pid": 1}


def test_child_processes_do_not_inherit_the_lock(tmp_path: Path) -> None:
    code = "import sys; print(flush=True); sys.stdin.read()"
    pipe = subprocess.PIPE
    with Lock(tmp_path):
        child = subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, close_fds=False)
        assert child.stdout
        child.stdout.readline()
    try:
        with Lock(tmp_path):
            pass
    finally:
        child.communicate()


@pytest.mark.parametrize(
    ("folder", "reason"),
    [("file", "not a directory"), ("file/data", "not a directory"), ("x" * 300, "file name too long")],
)
def test_data_folder_that_cannot_be_written_is_an_error(tmp_path: Path, folder: str, reason: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EmbeddedError) as refused, Lock(tmp_path / folder):
        pass
    assert str(refused.value) == (
        f"The data folder {tmp_path / folder} cannot be written: {reason}. Choose another with --data-dir."
    )


def test_programs_that_a_killed_lock_holder_left_running_are_ended(tmp_path: Path) -> None:
    log = tmp_path / "log"
    script = "trap 'kill $!; echo asked; exit 0' TERM; sleep 60 & echo ready; wait"
    orphan = Process("An orphan", ["/bin/sh", "-c", script], log=log)
    while not orphan.last_lines():
        assert orphan.running
    (tmp_path / "lock").write_text(f'{{"programs": {{"{orphan.pid}": {started(orphan.pid)}}}}}')
    with Lock(tmp_path) as lock:
        lock.end_orphans()
    assert orphan.exit_code == 0
    assert orphan.last_lines() == "ready\nasked"


def test_process_that_reuses_the_pid_of_an_orphan_is_not_ended(tmp_path: Path) -> None:
    other = Process("Another", ["/bin/sh", "-c", "sleep 60"])
    try:
        before = started(other.pid) - 3600
        (tmp_path / "lock").write_text(f'{{"programs": {{"{other.pid}": {before}, "99999999": {before}}}}}')
        with Lock(tmp_path) as lock:
            lock.end_orphans()
        assert other.running
    finally:
        other.kill()


def started(pid: int) -> float:
    return float(psutil.Process(pid).create_time())
