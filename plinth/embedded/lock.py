"""A lock on a data folder: one supervisor at a time, and its record for other processes."""

import fcntl
import json
import os
import signal
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self, TypedDict

import psutil

from plinth.embedded.process import EmbeddedError, end_families

ORPHAN_GRACE = 5.0  # seconds
CLOCK_CHANGE = 2.0  # seconds by which the start of one and the same process may seem to move


class Record(TypedDict, total=False):
    pid: int
    url: str  # of the API
    environment: dict[str, str]  # the servers' addresses, once they answer
    programs: dict[str, float]  # pid: start, of the programs that use the servers


class Lock:
    """A context manager that holds the folder while this process lives. A killed holder's record stays."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path = folder / "lock"
        self._descriptor = -1

    def __enter__(self) -> Self:
        """Make the folder if need be, and take it.

        Raises EmbeddedError when nothing can be written there, Taken when another process holds it.
        """
        try:
            if not self.folder.is_dir():
                self.folder.mkdir(parents=True)
                # Whatever the umask: a server that refuses to be root has to get through.
                self.folder.chmod(0o755)
            # Python closes it in children: none of them keeps the lock.
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            reason = "not a directory" if isinstance(error, FileExistsError) else str(error.strerror).lower()
            raise EmbeddedError(
                f"The data folder {self.folder} cannot be written: {reason}. Choose another with --data-dir."
            ) from None
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._descriptor)
            raise Taken(self) from None
        return self

    def record(self) -> Record:
        """What the holder has written; empty if there is nothing."""
        try:
            record: Record = json.loads(self._path.read_bytes())
        except (OSError, ValueError):  # it may be writing at this moment
            return {}
        return record

    def write(self, record: Record) -> None:
        content = json.dumps(record).encode()
        os.pwrite(self._descriptor, content, 0)
        os.ftruncate(self._descriptor, len(content))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.ftruncate(self._descriptor, 0)
        os.close(self._descriptor)

    def end_orphans(self) -> None:
        """End the programs that a killed holder left behind; the servers are found by their own pid files."""
        orphans = []
        for pid, started in self.record().get("programs", {}).items():
            with suppress(psutil.NoSuchProcess):
                process = psutil.Process(int(pid))
                if abs(process.create_time() - started) < CLOCK_CHANGE:
                    orphans.append(process)
        end_families(orphans, signal.SIGTERM, ORPHAN_GRACE)


class Taken(EmbeddedError):
    """Another process holds the folder."""

    def __init__(self, lock: Lock) -> None:
        self.lock = lock
        record = lock.record()
        holder = f"process {record['pid']}" if "pid" in record else "another process"
        where = f", {record['url']}" if "url" in record else ""
        super().__init__(
            f"Plinth runs on the data in {lock.folder} already: {holder}{where}. "
            "Stop that one first, or keep other data with --data-dir."
        )
