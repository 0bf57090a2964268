"""docs/uploads.md, typed word for word."""

from tests.support.pages import ROOT, copy_of_the_project


def test_the_page_works_as_it_stands() -> None:
    """But for the bucket, in whose place its own test puts another."""
    with copy_of_the_project() as copy:
        files = copy.type(ROOT / "docs/uploads.md")
        copy.run("ruff", "check", "--no-cache", *files)
        copy.run("ruff", "format", "--no-cache", "--check", *files)
        copy.run("importlinter.cli", "lint", "--no-cache")
        tests = "tests/integration/api/test_uploads.py"
        copy.run("pytest", "-q", "-p", "no:cacheprovider", "-p", "no:schemathesis", tests)
