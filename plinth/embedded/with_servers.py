"""Run a command, a migration or psql for instance, beside the embedded servers."""

import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from plinth.embedded.lock import Lock, Taken
from plinth.embedded.process import EmbeddedError, environment
from plinth.embedded.report import say
from plinth.embedded.secret_key import found_key, make_key
from plinth.embedded.servers import Servers
from plinth.embedded.supervisor import StopRequested, Supervisor
from plinth.settings import PlatformSettings

HOLDER_TIMEOUT = 60.0  # seconds for a `plinth run` that is starting to have its servers ready
INTERRUPTED = 130  # what shells say of a command that Ctrl-C ended


def with_servers(command: Sequence[str], settings: PlatformSettings, *, data_dir: Path) -> int:
    """Run a command that finds the servers in DATABASE_URL and REDIS_URL, and their SECRET_KEY; returns its exit code.

    They are those of a `plinth run` on the same data, or else they run as long as the command does.
    """
    try:
        if shutil.which(command[0]) is None:
            raise EmbeddedError(f"There is no command {command[0]}.")
        try:
            with Lock(data_dir) as lock, Supervisor(lock) as supervisor:
                servers = Servers(data_dir, settings)
                key = make_key(settings, data_dir)
                servers.start(supervisor)
                lock.note(environment=servers.addresses)
                return _attend(command, servers.addresses | key, supervisor)
        except Taken as taken:
            # The holder has made the key before it notes the addresses.
            found = _addresses(taken) | found_key(settings, data_dir)
            return subprocess.call(command, env=environment(**found))
    except StopRequested:
        return INTERRUPTED
    except EmbeddedError as error:
        say(error, error=True)
        return 1


def _attend(command: Sequence[str], found: dict[str, str], supervisor: Supervisor) -> int:
    # In our session: it has the terminal, and hears of a Ctrl-C by itself.
    with subprocess.Popen(command, env=environment(**found)) as process:
        try:
            while process.poll() is None:
                supervisor.sleep()
        finally:
            process.terminate()
    return process.returncode


def _addresses(taken: Taken) -> dict[str, str]:
    """The addresses that the holder of the lock gives, once its servers answer."""
    deadline = time.monotonic() + HOLDER_TIMEOUT
    while "environment" not in (record := taken.lock.record()):
        if time.monotonic() > deadline:
            raise taken
        time.sleep(0.1)
    return record["environment"]
