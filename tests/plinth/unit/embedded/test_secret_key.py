import os
from pathlib import Path

import pytest

from notes.config import Settings
from plinth.embedded.process import EmbeddedError
from plinth.embedded.secret_key import found_key, make_key
from plinth.settings.secret_strength import weakness

SETTINGS = Settings.isolated()
OWN = Settings.isolated(SECRET_KEY="given")


def test_key_is_made_once_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        made = make_key(SETTINGS, tmp_path)
    finally:
        os.umask(before)
    assert weakness(made["SECRET_KEY"]) is None
    assert make_key(SETTINGS, tmp_path) == found_key(SETTINGS, tmp_path) == made
    (file,) = tmp_path.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600


def test_no_key_is_made_or_found_where_the_settings_give_one(tmp_path: Path) -> None:
    assert make_key(OWN, tmp_path) == {}
    assert not list(tmp_path.iterdir())
    make_key(SETTINGS, tmp_path)
    assert found_key(OWN, tmp_path) == {}


def test_folder_without_a_key_has_none(tmp_path: Path) -> None:
    assert found_key(SETTINGS, tmp_path) == found_key(SETTINGS, tmp_path / "nowhere") == {}


def test_unfinished_key_of_a_killed_run_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "secret-key.new").write_text("5b0f")
    assert len(make_key(SETTINGS, tmp_path)["SECRET_KEY"]) == 64


@pytest.mark.parametrize("damage", [lambda file: file.chmod(0o640), lambda file: file.write_text("")])
def test_key_that_others_could_know_is_refused(tmp_path: Path, damage: object) -> None:
    assert callable(damage)
    key = make_key(SETTINGS, tmp_path)["SECRET_KEY"]
    damage(tmp_path / "secret-key")
    for find in (make_key, found_key):
        with pytest.raises(EmbeddedError, match="Remove it: the next `plinth run` makes another") as refused:
            find(SETTINGS, tmp_path)
        assert key not in str(refused.value)


def test_key_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_key(SETTINGS, tmp_path)
    monkeypatch.setattr("os.geteuid", lambda: 4711)
    with pytest.raises(EmbeddedError, match="not a key of this user's own"):
        found_key(SETTINGS, tmp_path)
