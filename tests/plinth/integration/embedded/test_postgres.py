import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pytest

from plinth.embedded import folders
from plinth.embedded.postgres import PACKAGE, Postgres
from plinth.embedded.process import Account, EmbeddedError
from plinth.testing.servers import scratch_folder


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with scratch_folder() as folder:
        yield folder


@pytest.fixture(scope="module")
def postgres(folder: Path) -> Iterator[Postgres]:
    """A durable server, as `plinth run` has it; the tests of this module stop and start it."""
    postgres = Postgres(folder / "postgres", log=folder / "log")
    postgres.start()
    yield postgres
    postgres.stop()


async def fetch(url: str, query: str) -> Any:
    connection = await asyncpg.connect(url, timeout=20)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


async def test_a_new_server_has_a_role_and_a_database_for_the_service(postgres: Postgres) -> None:
    assert await fetch(postgres.url(), "SELECT current_user || current_database()") == "plinthplinth"
    assert await fetch(postgres.url(), "SELECT rolsuper FROM pg_roles WHERE rolname = current_user") is False
    assert await fetch(postgres.url(), "SHOW server_version_num") >= "180000"


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("server_encoding", "UTF8"),
        ("data_checksums", "on"),
        ("fsync", "on"),
        ("synchronous_commit", "on"),
        ("full_page_writes", "on"),
        ("listen_addresses", ""),
        ("TimeZone", "UTC"),
    ],
)
async def test_server_settings_are_durable_and_the_same_everywhere(
    postgres: Postgres, setting: str, value: str
) -> None:
    assert await fetch(postgres.url(), f"SHOW {setting}") == value


async def test_the_order_of_strings_does_not_depend_on_the_machine(postgres: Postgres) -> None:
    sort = "SELECT string_agg(s, '' ORDER BY s) FROM unnest('{b,A,a,B,é}'::text[]) s"
    assert await fetch(postgres.url(), sort) == "ABabé"
    assert await fetch(postgres.url(), "SELECT upper('é')") == "É"


def test_only_its_owner_reaches_postgres(postgres: Postgres) -> None:
    assert postgres.process
    sockets = Path(postgres.url().partition("host=")[2])
    assert sockets.stat().st_mode & 0o777 == 0o700
    assert psutil.Process(postgres.process.pid).net_connections("tcp") == []


def test_postgres_does_not_run_as_root(postgres: Postgres) -> None:
    assert postgres.process
    assert psutil.Process(postgres.process.pid).uids().effective != 0


def test_environment_of_the_caller_does_not_reach_postgres(monkeypatch: pytest.MonkeyPatch, postgres: Postgres) -> None:
    monkeypatch.setenv("PGPORT", "6543")
    monkeypatch.setenv("PGOPTIONS", "-c no_such_setting=1")
    postgres.stop()
    postgres.start()
    assert postgres.execute("SHOW port") == "5432"


@pytest.mark.parametrize("signum", [None, signal.SIGQUIT], ids=["fast", "immediate"])
def test_restart_keeps_the_data(postgres: Postgres, signum: signal.Signals | None) -> None:
    postgres.execute("CREATE TABLE kept (x int); INSERT INTO kept VALUES (1);", "plinth")
    postgres.stop(signum)
    postgres.start()
    assert postgres.execute("SELECT x FROM kept", "plinth") == "1"
    postgres.execute("DROP TABLE kept", "plinth")


async def test_a_paused_server_does_not_answer(postgres: Postgres) -> None:
    connection = await asyncpg.connect(postgres.url())
    postgres.pause()
    try:
        with pytest.raises(TimeoutError):
            await connection.fetchval("SELECT 1", timeout=0.2)
        with pytest.raises(TimeoutError):
            await asyncpg.connect(postgres.url(), timeout=0.2)
    finally:
        postgres.resume()
    assert await fetch(postgres.url(), "SELECT 1") == 1
    await connection.close()


def test_a_refused_statement_is_an_error(postgres: Postgres) -> None:
    with pytest.raises(EmbeddedError, match=r'PostgreSQL refused: .*syntax error at or near "SELEC"'):
        postgres.execute("SELEC 1")


def test_shown_psql_command_opens_the_database(postgres: Postgres) -> None:
    shown = f"{postgres.psql()} -Atc 'SELECT current_user'"
    done = subprocess.run(shown, shell=True, capture_output=True, text=True, check=True)
    assert done.stdout == "plinth\n"


def test_data_of_another_version_are_refused_and_kept(folder: Path, postgres: Postgres) -> None:
    data = folder / "old"
    data.mkdir(mode=0o755)
    (data / "PG_VERSION").write_text("16\n")
    with pytest.raises(EmbeddedError) as refused:
        Postgres(data, log=folder / "log").start()
    assert str(refused.value) == (
        f"The data in {data} are PostgreSQL 16's, and this is PostgreSQL 18. "
        "Move that folder away to start afresh; pg_dump and pg_upgrade carry data over."
    )


def test_failed_start_quotes_the_log(folder: Path, postgres: Postgres) -> None:
    postgres.stop()
    config = folder / "postgres" / "postgresql.conf"
    before = config.read_text()
    config.write_text("no_such_setting = 1\n")
    try:
        with pytest.raises(EmbeddedError, match=r"PostgreSQL 18 ended with exit code 1[^$]*no_such_setting"):
            postgres.start()
    finally:
        config.write_text(before)
        postgres.start()


def test_interrupted_initdb_is_started_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a relative path is taken for what it is."""
    monkeypatch.chdir(folder)
    data = Path("data/second")
    data.parent.mkdir()
    data.with_name("second.new").mkdir()
    data.with_name("second.new").joinpath("PG_VERSION").write_text("18\n")

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    postgres = Postgres(data, log=Path("log"), durable=False)
    with pytest.raises(KeyboardInterrupt):
        postgres.start(interrupt)
    assert not data.exists()
    postgres.start()
    try:
        assert postgres.execute("SHOW fsync") == "off"
        assert not data.is_symlink()
    finally:
        postgres.stop()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's server runs as another user")
def test_unreachable_folders_are_moved_where_the_server_s_user_can_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """pytest's own folder is closed to others, and so may be the one with the binaries."""
    state = folder / "state"
    monkeypatch.setattr(folders, "STATE", state)
    can_enter = Account.can_enter
    monkeypatch.setattr(Account, "can_enter", lambda self, path: path.name != PACKAGE and can_enter(self, path))
    postgres = Postgres(tmp_path / "postgres", log=tmp_path / "log", durable=False)
    postgres.start()
    try:
        assert postgres.execute("SELECT 1") == "1"
        assert (tmp_path / "postgres").resolve().is_relative_to(state)
        assert postgres.process
        assert Path(psutil.Process(postgres.process.pid).exe()).is_relative_to(state)
    finally:
        postgres.stop()
