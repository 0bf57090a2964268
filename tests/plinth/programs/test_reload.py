"""`--reload` while code is being written: broken, mended, added, stopped at a breakpoint."""

import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import httpx
import psutil
import pytest

from plinth.testing import NO_DATABASE
from plinth.testing.servers import scratch_folder
from tests.support.notes import FOLDER, copy_packages
from tests.support.ports import free_port
from tests.support.processes import PATIENCE, Process, declare, plinth

HEALTH = "notes/health.py"
AT_ONCE = 1.0  # seconds for an answer of the reloader, once the code has ended


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def tree() -> Iterator[Path]:
    """A copy of the code: a change of this tree would disturb other tests."""
    with scratch_folder() as folder:
        copy_packages(folder)
        shutil.copytree(FOLDER / "migrations", folder / "migrations")
        declare(folder)
        yield folder


@pytest.fixture(scope="module")
def environment() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ:
            if name.startswith("COV"):  # the copy is not what is to be covered
                patch.delenv(name)
        yield


@pytest.fixture(scope="module")
def process(tree: Path, port: int, environment: None) -> Iterator[Process]:
    given = {"ENVIRONMENT": "test", "DATABASE_URL": NO_DATABASE, "DB_CONNECT_TIMEOUT": "1"}
    with plinth(tree, "api", "--reload", "--port", str(port), **given) as process:
        process.heard("Uvicorn running on")
        yield process


@pytest.fixture
def ask(process: Process, port: int) -> Callable[..., httpx.Response]:
    """Asks for the health; fails if no answer comes, which is what a hanging request does."""

    def ask(method: str = "GET", timeout: float = PATIENCE, **options: object) -> httpx.Response:
        url = f"http://127.0.0.1:{port}/api/v1/public/health"
        return httpx.request(method, url, timeout=timeout, **options)  # type: ignore[arg-type]

    return ask


@pytest.fixture
def broken(process: Process, tree: Path) -> Iterator[Callable[[str, str], None]]:
    """Appends to a file, waits until the code has ended of it, and takes that back afterwards."""
    kept: dict[Path, str | None] = {}

    def append(name: str, text: str) -> None:
        file = tree / name
        kept[file] = file.read_text() if file.exists() else None
        count = sum("the code does not run" in line for line in process.lines)
        with file.open("a") as opened:
            opened.write(text)
        process.heard("the code does not run", nth=count + 1)

    yield append
    for file, text in kept.items():
        if text is None:
            file.unlink()
        else:
            file.write_text(text)


class TestBrokenCode:
    def test_syntax_error_is_served_as_503_until_the_code_is_fixed(
        self, ask: Callable[..., httpx.Response], broken: Callable[[str, str], None], tree: Path, process: Process
    ) -> None:
        assert ask().status_code == 200
        good = (tree / HEALTH).read_text()

        broken(HEALTH, "\ndef half(:\n")

        lines = good.count("\n") + 2
        for response in (ask(timeout=AT_ONCE), ask("POST", timeout=AT_ONCE, content=b"x" * 300_000)):
            assert response.status_code == 503
            assert response.headers["content-type"] == "text/plain; charset=utf-8"
            assert f"SyntaxError: invalid syntax ({HEALTH}, line {lines})" in response.text
        assert ask("HEAD", timeout=AT_ONCE).content == b""

        (tree / HEALTH).write_text(good)
        assert ask_until(ask, 200).json()["status"] == "alive"

    @pytest.mark.parametrize(
        ("line", "reason"),
        [
            ("raise ValueError('hunter2')", "ValueError (notes/health.py, line "),
            ("raise SystemExit(7)", "exit code 7"),
        ],
    )
    def test_error_at_import_is_served_without_its_values(
        self, ask: Callable[..., httpx.Response], broken: Callable[[str, str], None], line: str, reason: str
    ) -> None:
        broken(HEALTH, f"\n{line}\n")

        answer = ask(timeout=AT_ONCE)

        assert answer.status_code == 503
        assert reason in answer.text
        assert "hunter2" not in answer.text

    def test_invalid_env_file_is_served_as_503_with_the_setting(
        self, ask: Callable[..., httpx.Response], broken: Callable[[str, str], None]
    ) -> None:
        ask_until(ask, 200)

        broken(".env", "DB_POOL_SIZE=many\nSECRET_KEY=hunter2\n")

        answer = ask(timeout=AT_ONCE)
        assert answer.status_code == 503
        assert "DB_POOL_SIZE" in answer.text
        assert "hunter2" not in answer.text


def test_new_file_restarts_the_server(
    ask: Callable[..., httpx.Response], broken: Callable[[str, str], None], tree: Path, process: Process
) -> None:
    ask_until(ask, 200)
    count = sum("the code has changed" in line for line in process.lines)

    (tree / "notes" / "new.py").write_text("")

    assert "notes/new.py" in process.heard("the code has changed", nth=count + 1)["files"]
    ask_until(ask, 200)


@pytest.mark.parametrize("name", ["notes/gone.py", "migrations/versions/9_new.py"])
def test_file_that_comes_and_goes_restarts_the_server(
    ask: Callable[..., httpx.Response], tree: Path, process: Process, name: str
) -> None:
    ask_until(ask, 200)
    for change in ((tree / name).touch, (tree / name).unlink):
        count = sum("the code has changed" in line for line in process.lines)
        change()
        assert name in process.heard("the code has changed", nth=count + 1)["files"]
        ask_until(ask, 200)


def test_env_file_that_comes_and_goes_restarts_the_server(
    ask: Callable[..., httpx.Response], tree: Path, process: Process
) -> None:
    ask_until(ask, 200)
    for change in (lambda: (tree / ".env").write_text("ROOT_PATH=/under\n"), (tree / ".env").unlink):
        count = sum("the code has changed" in line for line in process.lines)
        change()
        assert process.heard("the code has changed", nth=count + 1)["files"] == [".env"]
        ask_until(ask, 200)


def test_server_that_was_killed_is_started_again(ask: Callable[..., httpx.Response], process: Process) -> None:
    ask_until(ask, 200)
    count = sum("the process was killed" in line for line in process.lines)
    for child in psutil.Process(process.process.pid).children(recursive=True):
        if child.net_connections():
            child.kill()
    process.heard("the process was killed", nth=count + 1)
    ask_until(ask, 200)


def test_request_that_goes_on_has_a_second_to_end(
    ask: Callable[..., httpx.Response], tree: Path, process: Process
) -> None:
    ask_until(ask, 200)
    good = (tree / HEALTH).read_text()
    line = '    return json_response({"status": "alive"'
    slow = good.replace(line, f"    import asyncio\n    await asyncio.sleep(3600)\n{line}")
    assert slow != good
    count = sum("Application startup complete" in line for line in process.lines)
    (tree / HEALTH).write_text(slow)
    process.heard("Application startup complete", nth=count + 1)
    count = sum("Shutting down" in line for line in process.lines)
    with ThreadPoolExecutor() as pool:
        held = pool.submit(ask)
        time.sleep(0.5)
        (tree / HEALTH).write_text(good)
        told = process.heard("Shutting down", nth=count + 1)
        cut = process.heard("Cancel ")
        with suppress(httpx.TransportError):
            held.result()
    waited = datetime.fromisoformat(cut["timestamp"]) - datetime.fromisoformat(told["timestamp"])
    assert 1 <= waited.total_seconds() < 15  # of 20 that uvicorn gives elsewhere
    ask_until(ask, 200)


def ask_until(ask: Callable[..., httpx.Response], status: int) -> httpx.Response:
    deadline = time.monotonic() + PATIENCE
    while (response := ask()).status_code != status:
        assert time.monotonic() < deadline, response.text
        time.sleep(0.05)
    return response


@pytest.mark.usefixtures("environment")
def test_breakpoint_reads_the_terminal_under_reload(
    tree: Path, fresh_database_url: str, redis_url: str, tmp_path: Path
) -> None:
    """Under `plinth run --reload`, as `make dev` starts it, in a terminal."""
    copied = tmp_path / "tree"
    shutil.copytree(tree, copied, ignore=shutil.ignore_patterns("*.pyc.*", ".env"))
    health = copied / HEALTH
    line = '    return json_response({"status": "alive"'
    stopped = health.read_text().replace(line, f"    secret = 6 * 7\n    breakpoint()\n{line}")
    assert "breakpoint()" in stopped
    health.write_text(stopped)
    another = free_port()
    command = [sys.executable, "-m", "plinth.cli", "run", "--reload", "--port", str(another)]
    given = {"DATABASE_URL": fresh_database_url, "REDIS_URL": redis_url, "TERM": "dumb", "PYTHONPATH": str(copied)}
    terminal, end = pty.openpty()
    process = subprocess.Popen(
        command, cwd=copied, env={**os.environ, **given}, stdin=end, stdout=end, stderr=end, start_new_session=True
    )
    os.close(end)
    said = ""

    def hear(text: str, since: int = 0) -> None:
        nonlocal said
        deadline = time.monotonic() + PATIENCE
        while text not in said[since:]:
            assert time.monotonic() < deadline, said
            if select.select([terminal], [], [], 0.1)[0]:
                try:
                    said += os.read(terminal, 65_536).decode(errors="replace")
                except OSError:  # how Linux tells that nothing has the terminal open any more
                    pytest.fail(said)

    try:
        # The first request is the look whether the API answers: it stops too.
        hear("(Pdb) ")
        os.write(terminal, b"p secret\n")
        hear("42", said.index("(Pdb) "))
        os.write(terminal, b"continue\n")
        assert "BdbQuit" not in said
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        os.close(terminal)
