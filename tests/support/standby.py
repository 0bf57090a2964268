"""A primary that streams and a standby of it, for tests of reads from a replica."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from notes.config import Settings
from plinth.embedded import postgres as embedded
from plinth.embedded.postgres import SUPERUSER, Postgres
from plinth.embedded.process import Sleep
from plinth.testing.servers import migrate, scratch_folder

__all__ = ["Standby", "primary_and_standby"]

STREAMING = {"wal_level": "replica", "max_wal_senders": "4"}


class Standby(Postgres):
    """A server that streams from `primary`."""

    name = "the standby"

    def __init__(self, primary: Postgres, folder: Path, *, log: Path) -> None:
        super().__init__(folder, log=log, durable=False)
        self._primary = primary

    def _initialise(self, home: Path, sleep: Sleep) -> None:
        home.mkdir(mode=0o700)
        if self._account:
            os.chown(home, self._account.uid, self._account.gid)
        source = self._primary.url("postgres", SUPERUSER)
        options = ["--write-recovery-conf", "--checkpoint=fast", "--no-sync", "--no-password"]
        self._complete("pg_basebackup", ["-D", home, "-d", source, *options], sleep)

    def pause_replay(self) -> None:
        """Receive, and show nothing of it."""
        self.execute("SELECT pg_wal_replay_pause()")

    def resume_replay(self) -> None:
        """Undo `pause_replay`."""
        self.execute("SELECT pg_wal_replay_resume()")

    def promote(self) -> None:
        """Make it a primary."""
        self.execute("SELECT pg_promote()")


@contextmanager
def primary_and_standby() -> Iterator[tuple[Postgres, Standby]]:
    """Both, with the migrations of `notes`; they may be stopped, frozen and started again."""
    with scratch_folder() as folder, pytest.MonkeyPatch.context() as patch:
        for name, value in STREAMING.items():
            patch.setitem(embedded.THROW_AWAY, name, value)
        primary = Postgres(folder / "primary", log=folder / "primary.log", durable=False)
        standby = Standby(primary, folder / "standby", log=folder / "standby.log")
        try:
            primary.start()
            migrate(Settings, primary.url())
            standby.start()
            yield primary, standby
        finally:
            for server in (standby, primary):
                if server.process:
                    server.stop()
