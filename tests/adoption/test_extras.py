"""Each extra resolves together with the locks, and has a page that says what it is."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXTRAS = ("ai", "email", "payments", "storage", "uploads", "websockets")
BELOW_THE_LOCK = "arq"  # it holds redis below the version of the locks
ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in ("UV_FIND_LINKS", "UV_CONFIG_FILE")}


def resolve(*arguments: str, constraints: Path = ROOT / "requirements/base.txt") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-config", "--universal"]
    command += ["--python-version", "3.11", "--constraints", str(constraints), *arguments]
    return subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extra_resolves_together_with_the_lock(extra: str) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    done = resolve("pyproject.toml", "--extra", extra)
    assert done.returncode == 0, done.stderr
    for requirement in extras[extra]:
        name = requirement.partition(">")[0]
        assert f"\n{name}==" in f"\n{done.stdout}"


def test_extra_of_arq_resolves_with_the_lock_but_for_redis(tmp_path: Path) -> None:
    refused = resolve("pyproject.toml", "--extra", BELOW_THE_LOCK)
    assert refused.returncode != 0
    assert "redis" in refused.stderr
    locked = re.sub(
        r"^redis==.*\n(    --hash.*\n)*", "", (ROOT / "requirements/base.txt").read_text(), flags=re.MULTILINE
    )
    (tmp_path / "base.txt").write_text(locked)
    done = resolve("pyproject.toml", "--extra", BELOW_THE_LOCK, constraints=tmp_path / "base.txt")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^redis==5\.", done.stdout, re.MULTILINE)
    assert re.search(r"^arq==0\.28", done.stdout, re.MULTILINE)


def test_what_does_not_resolve_with_the_lock_is_refused(tmp_path: Path) -> None:
    (tmp_path / "service.in").write_text("sqlalchemy<2\n")
    done = resolve(str(tmp_path / "service.in"))
    assert done.returncode != 0
    assert "sqlalchemy" in done.stderr


@pytest.mark.parametrize("extra", [*EXTRAS, BELOW_THE_LOCK])
def test_the_page_tells_of_each_extra(extra: str) -> None:
    assert f"## `{extra}`" in (ROOT / "docs/extras.md").read_text()
