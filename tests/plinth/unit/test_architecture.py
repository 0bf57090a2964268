"""The rules of the layout that no type checker knows."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
# The supervisor hands its environment on to its children, and looks at nothing in it.
READS_THE_ENVIRONMENT = {"plinth/settings/loading.py", "plinth/embedded/process.py"}


def test_imports_point_one_way() -> None:
    # In a process of its own: it sets up logging for itself, and switches off every logger that is there.
    lint = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True, no_logo=True))"
    done = subprocess.run([sys.executable, "-c", lint], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def reads_environment(code: str) -> bool:
    """Whether `os.environ`, `os.getenv` or one of their kind is named, however it was imported."""
    names = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Attribute):
            names.add(node.attr)
        elif isinstance(node, ast.ImportFrom) and node.module == "os":
            names |= {alias.name for alias in node.names}
    return not names.isdisjoint({"environ", "environb", "getenv", "getenvb"})


@pytest.mark.parametrize("code", ["os.environ['A']", "os.getenv('A')", "from os import environ as e", "o.environb"])
def test_reading_the_environment_is_seen(code: str) -> None:
    assert reads_environment(code)


def test_only_the_configuration_reads_the_environment() -> None:
    sources = {
        str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
        for house in ("app", "plinth")
        for path in (ROOT / house).rglob("*.py")
    }
    assert {name for name, code in sources.items() if reads_environment(code)} == READS_THE_ENVIRONMENT
