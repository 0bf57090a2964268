"""A child process that its parent can wait for, stop, freeze and report on."""

import os
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

Sleep = Callable[[float], None]
"""Waits for some seconds. The supervisor's own raises when a signal asks it to stop."""

POLL = 0.01  # seconds between two looks at a child that starts or ends
GRACE = 10.0  # seconds that a process has to end, unless it is given others
LAUNCHER = Path(__file__).with_name("launch.py")


class EmbeddedError(Exception):
    """A server or the supervisor cannot go on. The message is for the person at the terminal."""


@dataclass(frozen=True, slots=True)
class Account:
    """The user that a child runs as when it must not be root."""

    uid: int
    gid: int

    def can_enter(self, folder: Path) -> bool:
        """Whether every folder on the way down to `folder`, itself included, lets this user through."""
        # Asked of the kernel, as that user: modes alone do not tell, there are access lists and mounts.
        test = ["/usr/bin/env", "test", "-x", str(folder.absolute())]
        become = {"user": self.uid, "group": self.gid, "extra_groups": []}
        return subprocess.run(test, cwd="/", check=False, **become).returncode == 0  # type: ignore[call-overload, no-any-return]


def unprivileged(data: Path) -> Account | None:
    """The account for a program that refuses root's rights; None where this process does not have them.

    It is the owner of `data`, so that one start as root does not lock a user out, or else the user `nobody`.
    """
    if os.geteuid() != 0:
        return None
    with suppress(FileNotFoundError):
        found = data.stat()
        if found.st_uid != 0:
            return Account(found.st_uid, found.st_gid)
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        raise EmbeddedError("PostgreSQL refuses to run as root, and there is no user `nobody` to run it as.") from None
    return Account(nobody.pw_uid, nobody.pw_gid)


def environment(**changes: str) -> dict[str, str]:
    """Our own environment with some changes, to hand on to a child: nothing in it is read here."""
    return os.environ | changes


class Process:
    """A child in a session of its own: no Ctrl-C of the terminal reaches it, only what its owner sends.

    `stop_signal` asks it to end in good order, `hurry_signal` to end at once without harm to its data. Should
    we die without having stopped it, the kernel sends `stop_signal` (on Linux). Start it from a thread that
    lives as long as the child shall: the kernel takes the end of that thread for the parent's death.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        log: Path | None = None,
        env: Mapping[str, str] | None = None,
        stdin: str = "",
        account: Account | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
        hurry_signal: signal.Signals = signal.SIGKILL,
        grace: float = GRACE,
    ) -> None:
        """Start it. `env` replaces ours; `grace` is in seconds.

        Without `log` it writes to our own output and, for a debugger, reads from our terminal, if there is one.
        """
        self.name = name
        self.log = log
        self.stop_signal = stop_signal
        self.hurry_signal = hurry_signal
        self.grace = grace
        owner = f"{account.uid}:{account.gid}" if account else "-"
        launch = [sys.executable, "-I", "-S", LAUNCHER, os.getpid(), int(stop_signal), owner]
        reads_terminal = log is None and sys.stdin is not None and sys.stdin.isatty()
        with log.open("ab") if log else nullcontext() as output:
            self._log_start = output.tell() if output else 0
            self._popen = subprocess.Popen(
                [str(part) for part in (*launch, *command)],
                stdin=subprocess.PIPE if stdin else None if reads_terminal else subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT if output else None,
                env=env,
                start_new_session=True,
            )
        if self._popen.stdin:
            with suppress(BrokenPipeError), self._popen.stdin as pipe:
                pipe.write(stdin.encode())

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; minus the signal's number when a signal ended it."""
        return self._popen.poll()

    @property
    def running(self) -> bool:
        return self.exit_code is None

    def send(self, signum: signal.Signals) -> None:
        """Send a signal to the child alone; nothing happens when it has ended."""
        self._popen.send_signal(signum)

    def wait(self, timeout: float, sleep: Sleep = time.sleep) -> bool:
        """Wait up to `timeout` seconds for its end; True if it came."""
        deadline = time.monotonic() + timeout
        while self.running:
            if time.monotonic() >= deadline:
                return False
            sleep(POLL)
        return True

    def stop(self, signum: signal.Signals | None = None) -> None:
        """Ask it to end, wait for its grace, then kill it and whatever it has left behind."""
        self.send(signum or self.stop_signal)
        self.wait(self.grace)
        self.kill()

    def kill(self) -> None:
        """End it and its process group at once, and collect it."""
        with suppress(ProcessLookupError, PermissionError):  # macOS: EPERM for a group of zombies
            os.killpg(self.pid, signal.SIGKILL)
        self._popen.wait()

    def pause(self) -> None:
        """Freeze it with all its descendants: connections stay open, nothing answers."""
        # Itself first, so that no child is born in between. A signal to the group would miss PostgreSQL's
        # children, each of which leads a group of its own.
        psutil.Process(self.pid).suspend()
        for member in _family(psutil.Process(self.pid)):
            with suppress(psutil.NoSuchProcess):
                member.suspend()

    def resume(self) -> None:
        """Undo `pause`."""
        for member in reversed(_family(psutil.Process(self.pid))):
            with suppress(psutil.NoSuchProcess):
                member.resume()

    def last_lines(self, count: int = 8) -> str:
        """The end of what it has written to its log since it was started; empty when it has none."""
        if self.log is None:
            return ""
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            lines = log.read().decode(errors="replace").splitlines()
        return "\n".join(lines[-count:])

    def failure(self) -> EmbeddedError:
        """An error that says how it ended and quotes its last words."""
        code = self.exit_code
        if code is None:
            how = "does not answer"
        elif code < 0:
            how = f"was ended by {signal.Signals(-code).name}"
        else:
            how = f"ended with exit code {code}"
        if self.log is None:
            return EmbeddedError(f"{self.name} {how}. What it said is above.")
        return EmbeddedError(f"{self.name} {how}. The end of {self.log}:\n{self.last_lines()}")


def end_families(heads: Sequence[psutil.Process]) -> None:
    """Ask processes that are not our children to end, then kill what is left of them and their descendants."""
    families = [member for head in heads for member in _family(head)]
    for head in heads:
        with suppress(psutil.NoSuchProcess):
            head.terminate()
    deadline = time.monotonic() + GRACE
    while alive := [member for member in families if _alive(member)]:
        if time.monotonic() > deadline:
            for member in alive:
                with suppress(psutil.NoSuchProcess):
                    member.kill()
        time.sleep(POLL)


def _alive(process: psutil.Process) -> bool:
    # The process that adopts orphans may collect them late, and in a container it may never do so.
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _family(process: psutil.Process) -> list[psutil.Process]:
    """The process itself and its descendants."""
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
