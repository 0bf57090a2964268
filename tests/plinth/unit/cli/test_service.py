"""How the command line finds a service, and what it says of a declaration that is wrong."""

import gc
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from plinth.cli.service import ServiceError, declared_settings, load

TABLE = '[tool.plinth]\nsettings = "{}"\n'


@pytest.fixture(autouse=True)
def _forget(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "parcels"]:
        del sys.modules[name]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A service without settings: the package `parcels`."""
    (tmp_path / "parcels").mkdir()
    (tmp_path / "parcels/__init__.py").touch()
    (tmp_path / "parcels/config.py").write_text("import os\n")
    (tmp_path / "pyproject.toml").write_text(TABLE.format("parcels.config:Settings"))
    return tmp_path


@pytest.mark.parametrize("name", ["", ":Settings", ".config:Settings", "parcels.config", "parcels/config.py:Settings"])
def test_a_declaration_that_names_no_class_is_told_in_a_sentence(folder: Path, name: str) -> None:
    (folder / "pyproject.toml").write_text(TABLE.format(name))

    with pytest.raises(ServiceError, match="needs settings, the service's settings class"):
        declared_settings(folder)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("parcels.config:Settings", "parcels.config has no Settings$"),
        ("parcels.config:os", "which is no subclass of"),
        ("parcels.core.config:Settings", "cannot be imported: No module named 'parcels.core'$"),
        ("parcel:Settings", "cannot be imported: No module named 'parcel'$"),
    ],
)
def test_a_class_that_is_not_there_is_told_in_a_sentence(folder: Path, name: str, said: str) -> None:
    (folder / "pyproject.toml").write_text(TABLE.format(name))

    with pytest.raises(ServiceError, match=said):
        declared_settings(folder)


@pytest.mark.parametrize("text", ["[tool.plinth", "tool = 3", '[tool]\nplinth = "parcels"', "\ufeff[tool.plinth]"])
def test_a_file_without_a_proper_table_is_told_in_a_sentence(folder: Path, text: str) -> None:
    (folder / "pyproject.toml").write_text(text)

    with pytest.raises(ServiceError):
        declared_settings(folder)


def test_a_file_that_is_no_utf8_is_told_in_a_sentence(folder: Path) -> None:
    (folder / "pyproject.toml").write_bytes(b"\xff\xfe")

    with pytest.raises(ServiceError, match="cannot be read"):
        declared_settings(folder)


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("from os import no_such_name", ImportError),
        ("import os; os.no_such_name", AttributeError),
        ("import parcel", ModuleNotFoundError),
        ("import parcels.missing", ModuleNotFoundError),
    ],
)
def test_a_fault_in_the_code_of_the_settings_is_not_taken_for_one_of_the_declaration(
    folder: Path, code: str, error: type[Exception]
) -> None:
    (folder / "parcels/config.py").write_text(code)

    with pytest.raises(error) as raised:
        declared_settings(folder)

    assert any(entry.path == folder / "parcels/config.py" for entry in raised.traceback)


@pytest.mark.parametrize("name", ["parcels.main:create_app", "parcels.config:create_app", "nowhere"])
def test_a_part_of_the_service_that_is_not_there_is_told_in_a_sentence(folder: Path, name: str) -> None:
    sys.path.insert(0, str(folder))

    with pytest.raises(ServiceError, match=f"The declared service names {name}, "):
        load(name)


def test_garbage_is_not_looked_for_while_code_loads(folder: Path) -> None:
    (folder / "parcels/main.py").write_text("import gc\ncollecting = gc.isenabled()\n")
    sys.path.insert(0, str(folder))

    assert load("parcels.main:collecting") is False
    assert gc.isenabled()


@pytest.mark.parametrize(("code", "error"), [("1 / 0", ZeroDivisionError), ("import nowhere", ModuleNotFoundError)])
def test_garbage_is_looked_for_again_where_code_does_not_load(folder: Path, code: str, error: type[Exception]) -> None:
    (folder / "parcels/main.py").write_text(code)
    sys.path.insert(0, str(folder))

    with pytest.raises(error):
        load("parcels.main")

    assert gc.isenabled()
