"""The rules of the layout that no type checker knows."""

import ast
from pathlib import Path

import pytest
from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

APP = Path(__file__).parents[2] / "app"
# The supervisor hands its environment on to its children, and looks at nothing in it.
READS_THE_ENVIRONMENT = {"core/config.py", "embedded/process.py"}


def test_imports_point_one_way(capsys: pytest.CaptureFixture[str]) -> None:
    status = lint_imports(str(APP.with_name("pyproject.toml")), no_cache=True, no_logo=True)
    assert status == EXIT_STATUS_SUCCESS, capsys.readouterr().out


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
    sources = {str(path.relative_to(APP)): path.read_text(encoding="utf-8") for path in APP.rglob("*.py")}
    assert {name for name, code in sources.items() if reads_environment(code)} == READS_THE_ENVIRONMENT
