"""docs/testing.md and docs/jobs/testing.md, typed word for word."""

import re
from pathlib import Path

from tests.support.notes import ROOT
from tests.support.own_pytest import run_pytest


def test_the_pages_on_testing_work_as_they_stand(tmp_path: Path) -> None:
    page = "".join((ROOT / "docs" / name).read_text() for name in ("testing.md", "jobs/testing.md"))
    (configuration,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    files = {"pyproject.toml": configuration}
    for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        name, _, content = code.removeprefix("# ").partition("\n")
        # The package `app` is that of this tree: a module of the page's own stands beside the tests.
        files[Path(name).name] = content.replace("app.jobs.welcome", "welcome")

    done = run_pytest(tmp_path, files, "-q")

    assert done.returncode == 0, done.stdout + done.stderr
    assert "9 passed" in done.stdout
