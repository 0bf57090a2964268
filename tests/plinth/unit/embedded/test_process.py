import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from plinth.embedded.process import Process, environment

PATIENCE = 20.0  # seconds, for what takes milliseconds on an idle machine

Starter = Callable[..., Process]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Starter]:
    """Starts a Python program as a child that says `ready` before it goes on."""
    started: list[Process] = []

    def start(code: str, **options: object) -> Process:
        code = f"import signal, subprocess, sys, time\n{code}"
        log = tmp_path / f"{len(started)}.log"
        process = Process("A child", [sys.executable, "-c", code], log=log, **options)  # type: ignore[arg-type]
        started.append(process)
        until(lambda: "ready" in process.last_lines() or not process.running)
        return process

    yield start
    for process in started:
        process.kill()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


SLEEP = "print('ready', flush=True); time.sleep(60)"
IGNORE = f"signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEP}"
PARENT = f"child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\nprint(child.pid); {SLEEP}"


def test_stop_sends_sigterm_first(start: Starter) -> None:
    process = start(f"signal.signal(signal.SIGTERM, lambda *_: sys.exit(7)); {SLEEP}")
    process.stop()
    assert process.exit_code == 7


def test_child_that_ignores_sigterm_is_killed(start: Starter) -> None:
    process = start(IGNORE, grace=0.1)
    process.stop()
    assert process.exit_code == -signal.SIGKILL


def test_grandchild_that_outlives_its_parent_is_killed(start: Starter) -> None:
    process = start(PARENT)
    grandchild = psutil.Process(int(process.last_lines().split()[0]))
    process.stop()
    until(lambda: not grandchild.is_running() or grandchild.status() == psutil.STATUS_ZOMBIE)


def test_child_has_a_session_of_its_own_without_the_terminal(start: Starter) -> None:
    process = start(SLEEP)
    assert os.getsid(process.pid) == process.pid != os.getsid(0)


def test_child_gets_the_given_environment(start: Starter) -> None:
    process = start("import os; print(sorted(os.environ))", env={"LC_ALL": "C"})
    process.wait(PATIENCE)
    assert process.last_lines().startswith("['LC_ALL'")
    assert environment(PLINTH_TEST="1") == {**os.environ, "PLINTH_TEST": "1"}


def test_child_gets_its_input_on_stdin(start: Starter) -> None:
    process = start("print(sys.stdin.read())", stdin="told")
    process.wait(PATIENCE)
    assert process.last_lines().strip() == "told"


def test_last_log_lines_are_from_the_current_start(start: Starter, tmp_path: Path) -> None:
    (tmp_path / "0.log").write_text("of an earlier start\n")
    process = start("print('one\\ntwo\\nthree')")
    process.wait(PATIENCE)
    assert process.last_lines(2) == "two\nthree"
    assert "earlier" not in process.last_lines()


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("print('no room', flush=True); sys.exit(3)", "A child ended with exit code 3. The end of {log}:\nno room"),
        ("import os; os.kill(os.getpid(), signal.SIGSEGV)", "A child was ended by SIGSEGV. The end of {log}:\n"),
        (SLEEP, "A child does not answer. The end of {log}:\nready"),
    ],
)
def test_failure_has_the_exit_code_or_signal_and_the_end_of_the_log(start: Starter, code: str, said: str) -> None:
    process = start(code)
    assert str(process.failure()) == said.format(log=process.log)


def test_failure_without_a_log_points_to_the_terminal() -> None:
    process = Process("A child", ["/bin/sh", "-c", "exit 4"])
    process.wait(PATIENCE)
    assert str(process.failure()) == "A child ended with exit code 4. What it said is above."


def test_pause_stops_a_process_and_its_descendants(start: Starter) -> None:
    process = start(PARENT)
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children()]
    assert len(family) == 2
    process.pause()
    until(lambda: all(member.status() == psutil.STATUS_STOPPED for member in family))
    process.resume()
    until(lambda: all(member.status() != psutil.STATUS_STOPPED for member in family))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's death")
class TestDeathOfTheParent:
    def test_death_of_the_parent_ends_the_child(self, tmp_path: Path) -> None:
        log = tmp_path / "log"
        code = f"""
import signal
from pathlib import Path
from plinth.embedded.process import Process
process = Process("A child", ["/bin/sh", "-c", "echo ready; sleep 60"], log=Path({str(log)!r}))
while not process.last_lines():
    pass
print(process.pid, flush=True)
signal.raise_signal(signal.SIGKILL)
"""
        parent = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=False)
        assert parent.returncode == -signal.SIGKILL
        until(lambda: not psutil.pid_exists(int(parent.stdout)))

    def test_child_started_after_the_death_of_its_parent_does_not_run(
        self, start: Starter, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(os, "getpid", lambda: 1)  # an orphan's new parent has another pid
        process = start(SLEEP)
        assert process.wait(PATIENCE)
        assert process.last_lines() == ""
