"""Ports for the programs that tests start."""

import random
import socket

__all__ = ["free_port"]

# Below those that Linux gives to connections, 32768 and above: one of these could be taken by another test's
# connection before the program has it. Random: the processes of one run of tests choose beside each other.
CANDIDATES = range(20_000, 32_768)


_random = random.SystemRandom()  # seeds of plugins do not reach it


def free_port() -> int:
    """A port of loopback that nothing listens on."""
    while True:
        candidate = _random.choice(CANDIDATES)
        try:
            with socket.create_server(("127.0.0.1", candidate)):
                return candidate
        except OSError:  # taken
            continue
