"""The contents of the wheel."""

from pathlib import Path
from zipfile import ZipFile

from tests.support.wheel import build_wheel


def test_the_wheel_holds_the_platform_whole_and_nothing_else(tmp_path: Path) -> None:
    wheel = build_wheel(tmp_path)
    found = {name for name in ZipFile(wheel).namelist() if ".dist-info/" not in name}
    source = tmp_path / "source"
    files = [file for file in (source / "plinth").rglob("*") if file.is_file() and "__pycache__" not in file.parts]
    assert found == {file.relative_to(source).as_posix() for file in files}
    assert {"plinth/py.typed", "plinth/migrations/versions/plinth_0001_functions.py"} <= found
