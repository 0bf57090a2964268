from pathlib import Path

import pytest

from notes.config import Settings
from plinth.settings.env_file import misspelt, scan, unknown

KNOWN = ("DATABASE_URL", "DEBUG", "SECRET_KEY")


def slips(name: str) -> set[str]:
    """Every name that one slip of the finger makes of `name`."""
    at = range(len(name))
    return {
        *(name[:i] + name[i + 1 :] for i in at),
        *(name[:i] + "X" + name[i:] for i in at),
        *(name[:i] + "X" + name[i + 1 :] for i in at),
        *(name[: i - 1] + name[i] + name[i - 1] + name[i + 1 :] for i in at if i),
    } - {name}


class TestScan:
    def test_keys_and_problems(self, tmp_path: Path) -> None:
        path = tmp_path / ".env"
        path.write_text(
            "# A comment with SECRET=x\n\nexport DEBUG=true\nDATABASE_URL='a\nb'\nSECRET_KYE=x\n"
            "COMPOSE_FILE=x\nSECRET_KEY\nMIIEvQIBADANBgkq==\n"
        )
        keys, problems = scan(path, KNOWN)
        assert keys == {"DEBUG", "DATABASE_URL", "SECRET_KYE", "COMPOSE_FILE"}
        assert problems == [
            f"SECRET_KYE ({path}): not a setting; did you mean SECRET_KEY?",
            f"{path}, line 8: expected NAME=value",
            f"{path}, line 9: expected NAME=value",
        ]

    def test_no_file_is_no_problem(self, tmp_path: Path) -> None:
        assert scan(tmp_path / ".env", KNOWN) == (set(), [])
        assert scan(tmp_path, KNOWN) == (set(), [])


class TestUnknown:
    def test_names_the_nearest(self) -> None:
        assert unknown("database_uri", KNOWN) == "not a setting; did you mean DATABASE_URL?"
        assert unknown("POSTGRES_HOST", KNOWN) == "not a setting"


class TestMisspelt:
    @pytest.mark.parametrize("name", ["DATABASE_URL", "SECRET_KEY"])
    def test_finds_every_single_slip(self, name: str) -> None:
        assert set(misspelt(slips(name), KNOWN)) == {(slip, name) for slip in slips(name)}

    @pytest.mark.parametrize(
        "name", ["DATABASE_URL", "SECRET_KEY", "DEBUG", "EDBUG", "NDEBUG", "DATABASE", "SECRET_KEYS_A"]
    )
    def test_leaves_settings_and_strangers_alone(self, name: str) -> None:
        assert list(misspelt([name], KNOWN)) == []

    def test_no_setting_looks_like_another(self) -> None:
        for name in Settings.model_fields:
            assert list(misspelt(Settings.model_fields, set(Settings.model_fields) - {name})) == []
