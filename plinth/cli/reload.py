"""`--reload`: a process that is started anew when the code changes.

Its parent holds the listening socket, so that requests wait for new code instead of being refused. They would wait for
ever while the code cannot start; the parent answers them then, with the reason.

Each process is a fork of one that has imported the libraries and nothing of the code: they take four fifths of a start.
"""

import gc
import multiprocessing
import os
import signal
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from socket import socket
from time import monotonic
from traceback import extract_tb

import structlog

from plinth.cli.service import ServiceError
from plinth.settings import SettingsError
from plinth.telemetry.logging import error_text

__all__ = ["run_reloaded"]

log = structlog.get_logger("plinth.cli.reload")

ENV_FILE = Path(".env")
PLATFORM = Path(__file__).parents[1]
LOOK_SECONDS = 0.1  # a look at 300 files takes 1 ms
# uvicorn gives requests 20 s to end, a worker its jobs less. A process at a breakpoint does not end by itself.
STOP_SECONDS = 25.0
JOIN_SECONDS = 0.1

# What API and worker import beside the code. A process whose code imports more has the rest to import itself.
LIBRARIES = (
    "plinth",  # without its modules, and first: it hides the variables that can stop FastAPI's import
    "asyncpg",
    "cronsim",
    "cryptography.hazmat.primitives.asymmetric.ec",
    "fastapi",
    "httpx",
    "jwt",
    "limits",
    "prometheus_client",
    "pydantic_settings",
    "redis.asyncio",
    "sqlalchemy.dialects.postgresql.asyncpg",
    "sqlalchemy.ext.asyncio",
    "sqlmodel.ext.asyncio.session",
    "structlog",
    "uvicorn.protocols.http.httptools_impl",
    "uvloop",
)

# Their messages hold names out of the code; those of other exceptions may hold values.
_NAMING = (ImportError, NameError, AttributeError)

Snapshot = dict[str, tuple[int, int]]


def run_reloaded(target: Callable[[], None], *, places: Sequence[Path], listening: socket | None = None) -> None:
    """Run `target` in a child process until SIGINT or SIGTERM, a new one whenever the code or `.env` has changed.

    `places`: the folders and files of the code. `target` must survive pickling. While it cannot run, requests on
    `listening` are answered with 503 and the reason. A child that was killed is started again at once. A second signal
    ends a child that does not end by itself.
    """
    stop, hurry = threading.Event(), threading.Event()
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, lambda *_: (hurry if stop.is_set() else stop).set())
    seen = _snapshot(places)
    while not stop.is_set():
        child = _Child(target)
        try:
            while child.running and _snapshot(places) == seen:
                stop.wait(LOOK_SECONDS)
                if stop.is_set():
                    return
            if child.killed:
                log.warning("the process was killed: it is started again")
                continue
            if not child.running:
                reason = child.reason()
                log.error("the code does not run: it is started again when it changes", reason=reason)
                with _answering(listening, reason):
                    while _snapshot(places) == seen and not stop.is_set():
                        stop.wait(LOOK_SECONDS)
        finally:
            child.stop(hurry)
        now = _snapshot(places)
        changed = {path for path, _ in seen.items() ^ now.items()}
        if changed:
            log.warning("the code has changed: it is started again", files=sorted(map(os.path.relpath, changed))[:10])
        seen = now


def _snapshot(places: Sequence[Path]) -> Snapshot:
    """What tells one version of the code from another: for each file its time and size."""
    found: Snapshot = {}
    for path in (str(ENV_FILE), *_files(places)):
        with suppress(OSError):  # an editor may replace it at this moment
            status = os.stat(path)  # noqa: PTH116 - pathlib takes four times as long
            found[path] = (status.st_mtime_ns, status.st_size)
    return found


def _files(places: Sequence[Path]) -> Iterator[str]:
    """The Python files in `places`."""
    for place in places:
        if place.is_file():
            yield str(place)
        for folder, below, files in os.walk(place):
            below[:] = [name for name in below if name != "__pycache__"]
            yield from (f"{folder}/{name}" for name in files if name.endswith(".py"))


class _Child:
    """One process that runs `target`."""

    def __init__(self, target: Callable[[], None]) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([*LIBRARIES])  # nothing of the code: old code would get into new processes
        self._reason, report = context.Pipe(duplex=False)
        self._process: ForkServerProcess = context.Process(target=_run, args=(target, report))
        self._process.start()
        report.close()

    @property
    def running(self) -> bool:
        return self._process.is_alive()

    @property
    def killed(self) -> bool:
        """Whether it was ended from outside, by a person or for want of memory."""
        return self._process.exitcode == -signal.SIGKILL

    def reason(self) -> str:
        """Say why it has ended; to be called once."""
        with suppress(EOFError):
            if self._reason.poll():
                return str(self._reason.recv())
        return f"It ended with exit code {self._process.exitcode}; the terminal shows more."

    def stop(self, hurry: threading.Event) -> None:
        """Ask it to end, and kill it after some time, or once `hurry` is set."""
        self._process.terminate()
        deadline = monotonic() + STOP_SECONDS
        while self.running and not hurry.is_set() and monotonic() < deadline:
            self._process.join(JOIN_SECONDS)
        self._process.kill()
        self._process.join()
        self._reason.close()


def _run(target: Callable[[], None], report: Connection) -> None:
    """The child: runs `target`, and reports what it raises."""
    gc.freeze()  # to look at the libraries' objects, again and again, takes a sixth of the import of the code
    with suppress(OSError):
        # multiprocessing has put /dev/null in the terminal's place, where a debugger reads.
        sys.stdin = open(0, closefd=False)  # noqa: SIM115 - it is a descriptor, and stays open
    try:
        target()
    except KeyboardInterrupt:
        pass
    except (ServiceError, SettingsError) as error:
        report.send(str(error))
        sys.stderr.write(f"{error_text(error) if isinstance(error, SettingsError) else error}\n")
        sys.exit(2)
    except Exception as error:
        report.send(_describe(error))
        raise


def _describe(error: Exception) -> str:
    """Say in a line what is wrong and where, without values: they may be secret."""
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error.msg} ({_relative(error.filename or '?')}, line {error.lineno})"
    words = f": {error}" if isinstance(error, _NAMING) else ""
    trace = extract_tb(error.__traceback__)
    frames = [frame for frame in trace if _is_here(frame.filename)] or trace
    places = [f"{_relative(frame.filename)}, line {frame.lineno}" for frame in frames]
    callers = [n for n, frame in enumerate(frames) if not Path(frame.filename).is_relative_to(PLATFORM)]
    called = f", called from {places[callers[-1]]}" if callers and callers[-1] != len(frames) - 1 else ""
    return f"{type(error).__name__}{words} ({places[-1]}{called})"


def _is_here(file: str) -> bool:
    """Whether it is code of this tree, and not of a library whose environment is in it."""
    path = Path(file)
    return path.is_relative_to(Path.cwd()) and not path.is_relative_to(sysconfig.get_path("purelib"))


def _relative(path: str) -> str:
    return os.path.relpath(path) if Path(path).is_relative_to(Path.cwd()) else path


@contextmanager
def _answering(listening: socket | None, reason: str) -> Iterator[None]:
    """Answer the requests on `listening` with 503 and the reason while the block runs."""
    if listening is None:
        yield
        return
    text = f"The service does not run: {reason}\n\nIt is started again when the code changes.\n"

    class Handler(BaseHTTPRequestHandler):
        timeout = 5.0  # seconds
        protocol_version = "HTTP/1.1"  # with it clients that ask whether to send their body are told so
        error_content_type = "text/plain; charset=utf-8"
        error_message_format = text.replace("%", "%%")

        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", "0")))
            self.send_error(503)

        do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = answer  # noqa: N815

        def log_message(self, *arguments: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, *arguments: object) -> None:
            pass  # a client has hung up

    server = Server(("", 0), Handler, bind_and_activate=False)
    server.socket.close()
    server.socket = listening  # never closed here: the next child serves on it
    thread = threading.Thread(target=server.serve_forever, args=(0.1,))
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
