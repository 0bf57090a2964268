"""Which code is watched, and what is said of an exception that keeps it from starting."""

import os
import signal
import socket
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import pytest

import plinth
from plinth.cli import _code_of
from plinth.cli.reload import _answering, _describe, _snapshot
from plinth.settings import PlatformSettings
from plinth.settings.service import Service
from tests.support.notes import PACKAGES


def raised(code: str) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - any
        exec(compile(code, str(Path.cwd() / "service.py"), "exec"), {})
    error: Exception = caught.value
    return error


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("\nno_such_name", "NameError: name 'no_such_name' is not defined"),
        ("from plinth.jobs import no_such_thing", "ImportError: cannot import name 'no_such_thing'"),
    ],
)
def test_error_of_a_wrong_name_in_the_code_is_shown_with_the_name(code: str, said: str) -> None:
    assert _describe(raised(code)).startswith(said)


@pytest.mark.parametrize("code", ["raise ValueError('hunter2')", "{}['hunter2']", "int('hunter2')"])
def test_error_of_a_value_is_shown_without_the_value(code: str) -> None:
    text = _describe(raised(code))

    assert "hunter2" not in text
    assert text.endswith(" (service.py, line 1)")


def test_syntax_error_is_shown_with_its_line_number_but_not_its_text() -> None:
    assert _describe(raised("\nSECRET = 'hunter2' +\n")) == "SyntaxError: invalid syntax (service.py, line 2)"


def test_the_frame_of_a_library_is_not_taken_for_the_code_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment is often a folder of the tree."""
    library = Path(sysconfig.get_path("purelib"))
    monkeypatch.chdir(library.parent)
    called = compile("def check(): raise TypeError", str(library / "library.py"), "exec")
    names: dict[str, object] = {}
    exec(called, names)

    with pytest.raises(TypeError) as caught:
        exec(compile("\ncheck()", str(Path.cwd() / "service.py"), "exec"), names)

    assert _describe(caught.value) == "TypeError (service.py, line 2)"


def test_line_of_the_service_that_the_platform_refuses_is_named() -> None:
    code = "\nfrom plinth.jobs import job\n\njob('a.b')(print)"
    assert _describe(raised(code)).endswith(", called from service.py, line 4)")


@pytest.mark.parametrize("watched", ["parcels/jobs.py", "parcels.py"], ids=["without __init__.py", "a single file"])
def test_the_code_and_the_migrations_of_the_service_are_watched_and_what_stands_beside_it_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, watched: str
) -> None:
    for name in (watched, "migrations/versions/1_first.py", "beside/library.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    service = ModuleType("parcels")
    if watched == "parcels.py":
        service.__file__ = str(tmp_path / watched)
    else:
        service.__path__ = [str(tmp_path / "parcels")]
    monkeypatch.setitem(sys.modules, "parcels", service)
    monkeypatch.chdir(tmp_path)

    class ParcelSettings(PlatformSettings):
        __module__ = "parcels.config"
        service: ClassVar[Service] = Service(
            "1", "parcels.main:app", "parcels.jobs", "parcels", tmp_path / "migrations"
        )

    places = _code_of(ParcelSettings.isolated())

    assert Path(str(plinth.__file__)).parent in places
    found = [Path(path) for path in _snapshot(places)]
    assert {str(path.relative_to(tmp_path)) for path in found if path.is_relative_to(tmp_path)} == {
        watched,
        "migrations/versions/1_first.py",
    }


STUBBORN = """
import signal, time
from plinth.cli import reload

def serve():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: print("asked to end", flush=True))
    print("serving", flush=True)
    time.sleep(60)

if __name__ == "__main__":
    reload.LIBRARIES = ()  # it needs none, and they take a second
    reload.run_reloaded(serve, places=[])
"""


def test_a_second_signal_ends_a_child_that_does_not_end_by_itself(tmp_path: Path) -> None:
    (tmp_path / "stubborn.py").write_text(STUBBORN)
    command = [sys.executable, "stubborn.py"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "serving\n"

        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "asked to end\n"
        assert process.poll() is None
        process.send_signal(signal.SIGINT)

        assert process.wait(timeout=30) == 0


KILLED = """
import os, time
from plinth.cli import reload

def serve():
    print(os.getpid(), flush=True)
    time.sleep(60)

if __name__ == "__main__":
    reload.LIBRARIES = ()  # it needs none, and they take a second
    reload.run_reloaded(serve, places=[])
"""


def test_a_child_that_was_killed_is_started_again_at_once(tmp_path: Path) -> None:
    (tmp_path / "killed.py").write_text(KILLED)
    command = [sys.executable, "killed.py"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first = int(process.stdout.readline())
        os.kill(first, signal.SIGKILL)
        assert "the process was killed" in process.stdout.readline()
        assert int(process.stdout.readline()) != first
        process.terminate()
        assert process.wait(timeout=30) == 0


ALREADY_IMPORTED = """
import importlib, sys
from plinth.cli.reload import LIBRARIES

def packages():
    return {name.partition(".")[0] for name in sys.modules}

for name in LIBRARIES:
    importlib.import_module(name)
before = packages()
assert "notes" not in before
import plinth.cli, plinth.cli.server, notes.main, notes.jobs, plinth.jobs.engine.worker
print(*sorted(packages() - before - {"notes"} - set(sys.stdlib_module_names)))
"""


def test_a_child_has_the_libraries_of_api_and_worker_already() -> None:
    """Each start would import them anew: they take most of its time."""
    command = [sys.executable, "-c", ALREADY_IMPORTED]
    environment = {**os.environ, "PYTHONPATH": PACKAGES}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_a_client_that_waits_to_send_its_body_is_answered() -> None:
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        _answering(listening, "it is broken"),
        socket.create_connection(listening.getsockname(), timeout=30) as client,
    ):
        client.sendall(head)
        assert client.recv(100).startswith(b"HTTP/1.1 100 ")
        client.sendall(b"{}")
        assert b"".join(iter(lambda: client.recv(4096), b"")).endswith(b"when the code changes.\n")
