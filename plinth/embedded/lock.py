"""A lock on a data folder: one supervisor at a time, and its record for other processes."""

import fcntl
import json
import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self, TypedDict, Unpack

import psutil

from plinth.embedded.process import EmbeddedError, end_families

CLOCK_CHANGE = 2.0  # seconds by which the start of one and the same process may seem to move


class Record(TypedDict, total=False):
    pid: int
    url: str  # of the API
    environment: dict[str, str]  # the servers' addresses, once they answer
    programs: dict[str, float]  # pid: start, of the servers and of the programs that use them


class Lock:
    """A context manager that holds the folder while this process lives. A killed holder's record stays."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path = folder / "lock"
        self._descriptor = -1
        self._record: Record = {"pid": os.getpid(), "programs": {}}

    def __enter__(self) -> Self:
        """Take the folder, made if need be, and end the programs that a killed holder left behind.

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
        self._end_orphans()
        self.note()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.ftruncate(self._descriptor, 0)
        os.close(self._descriptor)

    def record(self) -> Record:
        """What the holder has written; empty if there is nothing."""
        try:
            record: Record = json.loads(self._path.read_bytes())
        except (OSError, ValueError):  # it may be writing at this moment
            return {}
        return record

    def note(self, **changes: Unpack[Record]) -> None:
        """Write something into the record."""
        self._record.update(changes)
        content = json.dumps(self._record).encode()
        os.pwrite(self._descriptor, content, 0)
        os.ftruncate(self._descriptor, len(content))

    def add(self, pid: int) -> None:
        """Note a program, for the next holder to end should this one be killed."""
        with suppress(psutil.NoSuchProcess):
            self._record["programs"][str(pid)] = psutil.Process(pid).create_time()
            self.note()

    def _end_orphans(self) -> None:
        # On Linux the kernel has told them to end. They may still be about it.
        orphans = []
        for pid, started in self.record().get("programs", {}).items():
            with suppress(psutil.NoSuchProcess):
                process = psutil.Process(int(pid))
                if abs(process.create_time() - started) < CLOCK_CHANGE:
                    orphans.append(process)
        end_families(orphans)


class Taken(EmbeddedError):
    """Another process holds the folder."""

    def __init__(self, lock: Lock) -> None:
        self.lock = lock
        record = lock.record()
        where = f", {record['url']}" if "url" in record else ""
        super().__init__(
            f"Plinth runs on the data in {lock.folder} already: process {record.get('pid')}{where}. "
            "Stop that one first, or keep other data: plinth run --data-dir FOLDER."
        )
