"""A clone of this repository, in which a team works as it would in its own."""

import os
import subprocess
import sys
from pathlib import Path

__all__ = ["ROOT", "Fork", "git"]

ROOT = Path(__file__).parents[2]
# The environment of this tree serves the fork as well: what is installed there must not be made anew.
INSTALLED = [option for name in (".uv", ".run", ".dev") for option in ("-o", f".venv/{name}")]
OWN = {name: value for name, value in os.environ.items() if not name.startswith(("COV", "PYTEST", "MAKE", "GIT_"))}


def git(folder: Path, *arguments: str) -> str:
    """Run git; returns what it prints, without the last line end."""
    identity = ["-c", "user.name=Somebody", "-c", "user.email=somebody@example.com"]
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"git {' '.join(arguments)}\n{done.stdout}{done.stderr}"
    return done.stdout.rstrip("\n")


class Fork:
    """The clone in `folder`, at the commit `base`."""

    def __init__(self, folder: Path, base: str) -> None:
        self.folder = folder
        git(ROOT, "clone", "--quiet", "--no-checkout", str(ROOT), str(folder))
        git(folder, "checkout", "--quiet", "-b", "service", base)
        for name, value in (("user.name", "Somebody"), ("user.email", "somebody@example.com")):
            git(folder, "config", name, value)
        # Ignored by git as a folder, and here it is a link.
        with (folder / ".git/info/exclude").open("a") as file:
            file.write("/.venv\n")
        (folder / ".venv").symlink_to(Path(sys.executable).parents[1])

    def make(self, target: str, *variables: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a target of the fork's Makefile, with the packages that are installed and the fork's code."""
        return subprocess.run(
            ["make", "--no-print-directory", *INSTALLED, target, *variables],
            cwd=self.folder,
            env=OWN | {"PYTHONPATH": str(self.folder)} | environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def made(self, target: str, *variables: str, **environment: str) -> str:
        """The same; fails with what it prints if it fails."""
        done = self.make(target, *variables, **environment)
        assert done.returncode == 0, f"make {target}\n{done.stdout[-8000:]}{done.stderr[-8000:]}"
        return done.stdout

    def commit(self, message: str) -> str:
        git(self.folder, "add", "--all")
        git(self.folder, "commit", "--quiet", "--message", message)
        return git(self.folder, "rev-parse", "HEAD")

    def write(self, file: str, text: str) -> None:
        path = self.folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def edit(self, file: str, old: str, new: str) -> None:
        text = self.read(file)
        assert text.count(old) == 1, f"{file}: {old}"
        self.write(file, text.replace(old, new))

    def prefix(self, file: str, line: str) -> None:
        self.write(file, f"{line}\n{self.read(file)}")

    def read(self, file: str) -> str:
        return (self.folder / file).read_text()
