from pathlib import Path

import pytest

from plinth.settings.env_file import misspelt, scan, unknown

KNOWN = ("DATABASE_URL", "DEBUG", "SECRET_KEY")


def typing_errors(name: str) -> set[str]:
    """Return every name that one typing error makes of `name`."""
    at = range(len(name))
    return {
        *(name[:i] + name[i + 1 :] for i in at),
        *(name[:i] + "X" + name[i:] for i in at),
        *(name[:i] + "X" + name[i + 1 :] for i in at),
        *(name[: i - 1] + name[i] + name[i - 1] + name[i + 1 :] for i in at if i),
    } - {name}


class TestScan:
    def test_scan_of_an_env_file_returns_keys_and_problems(self, tmp_path: Path) -> None:
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

    def test_env_file_that_does_not_exist_is_no_problem(self, tmp_path: Path) -> None:
        assert scan(tmp_path / ".env", KNOWN) == (set(), [])
        assert scan(tmp_path, KNOWN) == (set(), [])


class TestUnknown:
    def test_unknown_key_is_reported_with_the_most_similar_setting(self) -> None:
        assert unknown("database_uri", KNOWN) == "not a setting; did you mean DATABASE_URL?"
        assert unknown("POSTGRES_HOST", KNOWN) == "not a setting"


class TestMisspelt:
    @pytest.mark.parametrize("name", ["DATABASE_URL", "SECRET_KEY"])
    def test_every_single_typing_error_in_a_setting_name_is_found(self, name: str) -> None:
        assert set(misspelt(typing_errors(name), KNOWN)) == {(error, name) for error in typing_errors(name)}

    @pytest.mark.parametrize(
        "name", ["DATABASE_URL", "SECRET_KEY", "DEBUG", "EDBUG", "NDEBUG", "DATABASE", "SECRET_KEYS_A"]
    )
    def test_setting_names_and_unrelated_variables_are_no_misspellings(self, name: str) -> None:
        assert list(misspelt([name], KNOWN)) == []
