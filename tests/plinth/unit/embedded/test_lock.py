import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from plinth.embedded import process
from plinth.embedded.lock import Lock, Taken
from plinth.embedded.process import EmbeddedError, Process


def test_locked_data_folder_refuses_a_second_process(tmp_path: Path) -> None:
    with Lock(tmp_path / "data") as lock:
        lock.note(url="http://127.0.0.1:8000")
        with pytest.raises(Taken) as taken, Lock(tmp_path / "data"):
            pass
    assert str(taken.value) == (
        f"Plinth runs on the data in {tmp_path}/data already: process {os.getpid()}, http://127.0.0.1:8000. "
        "Stop that one first, or keep other data: plinth run --data-dir FOLDER."
    )
    with Lock(tmp_path / "data") as lock:
        assert "url" not in lock.record()


def test_shorter_lock_record_replaces_a_longer_one(tmp_path: Path) -> None:
    with Lock(tmp_path) as lock:
        lock.note(url="http://127.0.0.1:8000")
        lock.note(url="")
        assert lock.record()["url"] == ""


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


@pytest.mark.parametrize(("heeds", "ends_with"), [(True, 0), (False, -signal.SIGKILL)])
def test_programs_that_a_killed_lock_holder_left_running_are_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, heeds: bool, ends_with: int
) -> None:
    monkeypatch.setattr(process, "GRACE", 20.0 if heeds else 0.1)
    log = tmp_path / "log"
    script = f"trap '{'kill $!; echo asked; exit 0' if heeds else ''}' TERM; sleep 60 & echo ready; wait"
    orphan = Process("An orphan", ["/bin/sh", "-c", script], log=log)
    while not orphan.last_lines():
        assert orphan.running
    lock = Lock(tmp_path)
    with lock:
        lock.add(orphan.pid)
        left = (tmp_path / "lock").read_text()
    (tmp_path / "lock").write_text(left)
    with Lock(tmp_path):
        pass
    assert orphan.exit_code == ends_with
    assert orphan.last_lines().splitlines() == ["ready", *(["asked"] if heeds else [])]


def test_process_that_reuses_the_pid_of_an_orphan_is_not_ended(tmp_path: Path) -> None:
    other = Process("Another", ["/bin/sh", "-c", "sleep 60"])
    try:
        before = started(other.pid) - 3600
        (tmp_path / "lock").write_text(f'{{"programs": {{"{other.pid}": {before}, "99999999": {before}}}}}')
        with Lock(tmp_path):
            pass
        assert other.running
    finally:
        other.kill()


def started(pid: int) -> float:
    return float(psutil.Process(pid).create_time())
