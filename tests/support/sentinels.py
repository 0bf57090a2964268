"""Redis with a replica and three Sentinels, which fail over within a second or two."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import monotonic, sleep

import redis

from plinth.embedded.redis import Redis as Embedded
from plinth.testing.servers import scratch_folder
from tests.support.ports import free_port

__all__ = ["SERVICE", "Sentinels", "watched_redis"]

SERVICE = "main"
SENTINELS = 3
PATIENCE = 60.0  # seconds, for what takes two on an idle machine


class Node:
    """A server, or a Sentinel, on a port of loopback."""

    def __init__(self, folder: Path, *lines: str, sentinel: bool = False) -> None:
        self.port = free_port()
        binary = Embedded(folder, log=folder / "log", durable=False)._binary()
        # Sentinels write what they find into it, and servers which one they follow.
        self._file = folder / f"{self.port}.conf"
        own = [f"port {self.port}", "bind 127.0.0.1", f"dir {folder}", 'save ""', "repl-diskless-sync-delay 0"]
        self._file.write_text("\n".join([*(own[:3] if sentinel else own), "protected-mode no", *lines]) + "\n")
        self._command = [str(binary), str(self._file), *(["--sentinel"] if sentinel else [])]
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self.process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        wait_until(self._answers)

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()
        self.process.wait()

    def client(self) -> "redis.Redis":
        return redis.Redis(port=self.port, decode_responses=True, socket_timeout=20)

    def _answers(self) -> bool:
        assert self.process.poll() is None
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.RedisError:
            return False


class Sentinels:
    """The servers and those that watch them."""

    def __init__(self, folder: Path, closing: ExitStack) -> None:
        self.servers = [Node(folder)]
        closing.callback(self.servers[0].kill)
        self.servers.append(Node(folder, f"replicaof 127.0.0.1 {self.servers[0].port}"))
        closing.callback(self.servers[1].kill)
        watch = [
            f"sentinel monitor {SERVICE} 127.0.0.1 {self.servers[0].port} 2",
            f"sentinel down-after-milliseconds {SERVICE} 500",
            f"sentinel failover-timeout {SERVICE} 3000",
        ]
        self.sentinels: list[Node] = []
        for _ in range(SENTINELS):
            self.sentinels.append(Node(folder, *watch, sentinel=True))
            closing.callback(self.sentinels[-1].kill)
        wait_until(self.settled)

    @property
    def url(self) -> str:
        """The address for REDIS_URL."""
        return f"redis+sentinel://{','.join(f'127.0.0.1:{node.port}' for node in self.sentinels)}/{SERVICE}/0"

    def primary(self) -> Node:
        """The server that the Sentinels name."""
        (port,) = {self._state(node)["port"] for node in self.sentinels}
        (found,) = [node for node in self.servers if str(node.port) == str(port)]
        return found

    def settled(self) -> bool:
        """Whether the Sentinels know each other and agree on a primary that has its replica."""
        try:
            states = [self._state(node) for node in self.sentinels]
        except redis.RedisError:
            return False
        if len({state["port"] for state in states}) != 1:
            return False
        knows = all(
            state["flags"] == "master"
            and int(state["num-other-sentinels"]) == SENTINELS - 1
            and int(state["num-slaves"]) >= 1
            for state in states
        )
        if not knows:
            return False
        with self.primary().client() as client:
            return int(client.info("replication")["connected_slaves"]) == 1

    def _state(self, node: Node) -> dict[str, str]:
        with node.client() as client:
            answer = client.execute_command("SENTINEL MASTER", SERVICE)
        if isinstance(answer, dict):
            return {str(name): str(value) for name, value in answer.items()}
        return dict(zip(answer[::2], answer[1::2], strict=True))


@contextmanager
def watched_redis() -> Iterator[Sentinels]:
    """A primary, a replica and three Sentinels."""
    with scratch_folder() as folder, ExitStack() as closing:
        yield Sentinels(folder, closing)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = monotonic() + PATIENCE
    while not condition():
        assert monotonic() < deadline, condition
        sleep(0.02)
