"""Pages of `docs/`, typed into a copy of the project as a reader types them."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from plinth.testing import scratch_folder

ROOT = Path(__file__).parents[2]

# The first line of a block that is a file: `# app/jobs/shipping.py`. JSON has no comments: a sentence behind the block.
_FILE = re.compile(r"^```(?:python|yaml)\n# (\S+/\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_JSON = re.compile(r"^```json\n(.*?)^```\n+Save it as `(\S+)`", re.MULTILINE | re.DOTALL)
_ROUTE = re.compile(r"^ +\*(\w+)\.router\.routes,\n", re.MULTILINE)


def files_of(page: Path) -> dict[str, str]:
    """The files that a page shows, by their path."""
    text = page.read_text()
    files = {path: f"# {path}\n{content}" for path, content in _FILE.findall(text)}
    return files | {path: content for content, path in _JSON.findall(text)}


def blocks(page: str, heading: str, language: str) -> list[str]:
    """The code blocks under a heading, down to the next one of its level."""
    text = f"\n{(ROOT / page).read_text()}"
    level = heading.split(" ", maxsplit=1)[0]
    section = text.split(f"\n{heading}\n", 1)[1]
    if level != "#":  # a page has one of these; in code they are comments
        section = re.split(rf"\n{level} ", section, maxsplit=1)[0]
    return re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)


@dataclass(frozen=True)
class Copy:
    """A copy of the project."""

    folder: Path
    environment: Mapping[str, str]

    def type(self, page: Path) -> list[str]:
        """Write the files that a page shows and add the lines of its routers. Returns the paths of the files."""
        files = files_of(page)
        for path, content in files.items():
            target = self.folder / path
            assert not target.exists(), f"{path} is there already: the page is to add files, not to replace one"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(content)
        router = self.folder / "app" / "api" / "v1" / "router.py"
        for line in _ROUTE.finditer(page.read_text()):
            text = router.read_text()
            if line[0] not in text:
                text = text.replace("from app.api.v1 import ", f"from app.api.v1 import {line[1]}, ", 1)
                router.write_text(text.replace("    routes=[\n", f"    routes=[\n{line[0]}", 1))
        return list(files)

    def run(self, *command: str) -> str:
        """Run a module of Python in the copy. Returns what it prints; fails if it fails."""
        done = subprocess.run(
            [sys.executable, "-m", *command],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@contextmanager
def copy_of_the_project(**environment: str) -> Iterator[Copy]:
    """A copy of the project in a folder of its own, for as long as the block runs."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("COV", "PYTEST"))}
    with scratch_folder() as folder:
        # What Python has compiled goes along: each command would compile the platform anew. A *.pyc.* is half written.
        left_out = shutil.ignore_patterns(".git", ".venv", ".*_cache", ".plinth", "*.egg-info", "*.pyc.*", "build")
        shutil.copytree(ROOT, folder / "plinth", ignore=left_out)
        copy = folder / "plinth"
        yield Copy(copy, inherited | {"PYTHONPATH": str(copy)} | environment)
