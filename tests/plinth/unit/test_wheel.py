"""What an adopter installs."""

import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

ROOT = Path(__file__).parents[3]


def test_the_wheel_holds_the_platform_whole_and_nothing_else(tmp_path: Path) -> None:
    source = tmp_path / "source"
    kept_out = shutil.ignore_patterns("__pycache__")
    for folder in ("app", "migrations", "plinth", "tests"):
        shutil.copytree(ROOT / folder, source / folder, ignore=kept_out)
    for file in ("LICENSE", "README.md", "pyproject.toml"):
        shutil.copy(ROOT / file, source)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(tmp_path)]
    command = [sys.executable, "-m", "pip", "wheel", *options, str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    found = {name for name in ZipFile(wheel).namelist() if ".dist-info/" not in name}
    files = [file for file in (source / "plinth").rglob("*") if file.is_file() and "__pycache__" not in file.parts]
    assert found == {file.relative_to(source).as_posix() for file in files}
    assert {"plinth/py.typed", "plinth/migrations/versions/plinth_0001_functions.py"} <= found
