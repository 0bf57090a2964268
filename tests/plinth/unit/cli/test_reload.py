"""Which code is watched, and what is said of an exception that keeps it from starting."""

import signal
import socket
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from types import ModuleType

import pytest

import plinth
from plinth.cli import _code_of
from plinth.cli.reload import _answering, _describe, _snapshot
from plinth.settings import PlatformSettings


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


@pytest.mark.parametrize("watched", ["parcels/jobs.py", "parcels.py"], ids=["without __init__.py", "a single file"])
def test_the_code_of_the_service_is_watched_and_what_stands_beside_it_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, watched: str
) -> None:
    for name in (watched, "beside/library.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
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

    places = _code_of(ParcelSettings.isolated())

    assert Path(str(plinth.__file__)).parent in places
    found = [Path(path) for path in _snapshot(places)]
    assert [str(path.relative_to(tmp_path)) for path in found if path.is_relative_to(tmp_path)] == [watched]


STUBBORN = """
import signal, time
from plinth.cli.reload import run_reloaded

def serve():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("serving", flush=True)
    time.sleep(60)

if __name__ == "__main__":
    run_reloaded(serve, places=[])
"""


def test_a_second_signal_ends_a_child_that_does_not_end_by_itself(tmp_path: Path) -> None:
    (tmp_path / "stubborn.py").write_text(STUBBORN)
    command = [sys.executable, "stubborn.py"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "serving\n"

        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)

        assert process.wait(timeout=10) == 0


def test_a_client_that_waits_to_send_its_body_is_answered() -> None:
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        _answering(listening, "it is broken"),
        socket.create_connection(listening.getsockname(), timeout=3) as client,
    ):
        client.sendall(head)
        assert client.recv(100).startswith(b"HTTP/1.1 100 ")
        client.sendall(b"{}")
        assert b"".join(iter(lambda: client.recv(4096), b"")).endswith(b"when the code changes.\n")
