"""Each extra resolves together with the locks, and has a page that says what it is."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXTRAS = ("ai", "email", "payments", "storage")
ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in ("UV_FIND_LINKS", "UV_CONFIG_FILE")}


def resolve(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-config", "--universal"]
    command += ["--python-version", "3.11", "--constraints", str(ROOT / "requirements/base.txt"), *arguments]
    return subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extra_resolves_together_with_the_lock(extra: str) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    done = resolve("pyproject.toml", "--extra", extra)
    assert done.returncode == 0, done.stderr
    for requirement in extras[extra]:
        name = requirement.partition(">")[0]
        assert f"\n{name}==" in f"\n{done.stdout}"


def test_what_does_not_resolve_with_the_lock_is_refused(tmp_path: Path) -> None:
    (tmp_path / "service.in").write_text("sqlalchemy<2\n")
    done = resolve(str(tmp_path / "service.in"))
    assert done.returncode != 0
    assert "sqlalchemy" in done.stderr


@pytest.mark.parametrize("extra", EXTRAS)
def test_the_page_tells_of_each_extra(extra: str) -> None:
    assert f"## `{extra}`" in (ROOT / "docs/extras.md").read_text()
