"""docs/second-database.md, typed word for word."""

from pathlib import Path

from tests.support.pages import ROOT, blocks, copy_of_the_project

PAGE = "docs/second-database.md"


def put_in(file: Path, before: str, lines: str) -> None:
    """Write lines into a file of the service, before the one that begins so."""
    text = file.read_text()
    assert text.count(before) == 1
    file.write_text(text.replace(before, f"{lines}{before}"))


def test_the_page_works_as_it_stands() -> None:
    (settings,) = blocks(PAGE, "## The settings", "python")
    imports, fields = settings.split("class Settings(PlatformSettings):\n")
    (example,) = blocks(PAGE, "## The settings", "sh")
    *_, lifespan = blocks(PAGE, "## The lifespan", "text")
    with copy_of_the_project() as copy:
        files = copy.type(ROOT / PAGE)
        config, main = copy.folder / "app/core/config.py", copy.folder / "app/main.py"
        put_in(config, "from app import __version__\n", imports.strip() + "\n")
        put_in(config, '    PROJECT_NAME: str = Field("Plinth"', fields)
        put_in(copy.folder / ".env.example", "# --- Database ---\n", example)
        put_in(main, "from app.core.middleware import", "from app.core.lifespan import service_lifespan\n")
        text = main.read_text().replace("        lifespan=lifespan_of(settings, lifecycle),\n", lifespan)
        main.write_text(text.replace("from plinth.api.lifespan import lifespan_of\n", ""))
        copy.run("ruff", "check", "--no-cache", "--fix", str(config), str(main))
        copy.run("ruff", "check", "--no-cache", *files)
        copy.run("ruff", "format", "--no-cache", "--check", *files, str(main))
        copy.run("importlinter.cli", "lint", "--no-cache")
        tests = "tests/integration/api/test_reports.py"
        copy.run("pytest", "-q", "-p", "no:cacheprovider", "-p", "no:schemathesis", tests)
