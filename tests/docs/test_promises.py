"""Every test that a page names as the one that holds a promise is there."""

import ast
import re
from pathlib import Path

import pytest

from scripts.start import REMOVED, service_name
from tests.support.pages import files_of

ROOT = Path(__file__).parents[2]
NAMED = re.compile(r"`(tests/[\w/]+\.py)(?:::([\w:]+))?`")
# A page that is typed makes the test that it names.
TYPED = "add-a-resource"
PAGES = [page for page in (ROOT / "docs").rglob("*.md") if page.stem != TYPED and NAMED.search(page.read_text())]


def test_pages_name_tests_of_their_promises() -> None:
    assert ROOT / "docs" / "kubernetes.md" in PAGES


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_tests_that_a_page_names_exist(page: Path) -> None:
    named = [(path, name) for path, name in NAMED.findall(page.read_text()) if path not in files_of(page)]
    missing = [f"{path}::{name}" for path, name in named if not exists(ROOT / path, name) and not is_left_out(path)]
    assert not missing


def is_left_out(test: str) -> bool:
    """Whether this tree is a service, which has no tests of the sample."""
    return service_name() != "plinth" and test.startswith(REMOVED)


def exists(module: Path, name: str) -> bool:
    """Whether `module` has `name`, as pytest writes it: a function, a class, or a class and its function."""
    if not module.is_file():
        return False
    scope: ast.AST | None = ast.parse(module.read_text())
    for part in name.split("::") if name else []:
        children = getattr(scope, "body", [])
        scope = next((child for child in children if getattr(child, "name", None) == part), None)
    return scope is not None
