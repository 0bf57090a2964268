"""The README and the docs, typed word for word."""

import itertools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from app.core.config import Settings
from app.main import create_app
from plinth.cli import main
from tests.support.api import serving
from tests.support.processes import declare
from tests.support.servers import Servers, scratch_folder

ROOT = Path(__file__).parents[2]


def blocks(page: str, heading: str, language: str) -> list[str]:
    """The code blocks under a heading, down to the next one of its level."""
    text = (ROOT / page).read_text()
    level = heading.split(" ", maxsplit=1)[0]
    section = text.split(f"\n{heading}\n", 1)[1]
    section = re.split(rf"\n{level} ", section, maxsplit=1)[0]
    return re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)


class TestReadme:
    @pytest.fixture
    def tour(self, database_url: str, redis_url: str) -> subprocess.CompletedProcess[str]:
        """The tour's commands, run as one script against a service set up as `make run` does it."""
        (script,) = blocks("README.md", "## A tour", "sh")
        with serving(create_app(Settings.isolated(DATABASE_URL=database_url, REDIS_URL=redis_url))) as url:
            script = script.replace("http://127.0.0.1:8000", url)
            script = script.replace(".venv/bin/plinth", f"{sys.executable} -m plinth.cli")
            return subprocess.run(["bash", "-euc", script], capture_output=True, text=True, check=False)

    def test_the_tour_works(self, tour: subprocess.CompletedProcess[str]) -> None:
        assert tour.returncode == 0, tour.stderr
        statuses = [int(status) for status in re.findall(r"HTTP/1.1 (\d+)", tour.stdout)]
        # made; listed; read; not changed; which version?; changed; too late; not yours; deleted
        assert statuses == [201, 200, 200, 304, 428, 200, 412, 404, 204]
        assert '"status":"alive"' in tour.stdout
        assert '"status":"ready"' in tour.stdout
        assert '"subject":"alice"' in tour.stdout

    def test_a_job_goes_from_the_request_to_the_file(self, database_url: str, redis_url: str, tmp_path: Path) -> None:
        """As it stands but for the number of items, with a worker as `make run` starts it."""
        (script,) = blocks("README.md", "## A job, from the request to the file", "sh")
        settings = Settings.isolated(DATABASE_URL=database_url, REDIS_URL=redis_url, RATE_LIMIT="")
        servers = {"DATABASE_URL": database_url, "REDIS_URL": redis_url, "METRICS_PORT": "0"}
        environment = {**os.environ, **servers, "PYTHONPATH": str(ROOT), "LOG_LEVEL": "WARNING"}
        command = [sys.executable, "-m", "plinth.cli", "worker"]
        with serving(create_app(settings)) as url, subprocess.Popen(command, env=environment) as worker:
            for shown, here in {
                "http://127.0.0.1:8000": url,
                ".venv/bin/plinth": f"{sys.executable} -m plinth.cli",
                ".venv/bin/python scripts": f"{sys.executable} {ROOT}/scripts",
                "make_items.py 10000": "make_items.py 250",
            }.items():
                assert shown in script
                script = script.replace(shown, here)
            declare(tmp_path)
            done = subprocess.run(
                ["bash", "-euc", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
            )
            worker.terminate()
        assert done.returncode == 0, done.stderr
        assert "event: end" in done.stdout
        assert '"state":"succeeded"' in done.stdout
        assert done.stdout.split()[-2:] == ["250", "250"]

    def test_every_setting_it_names_exists(self) -> None:
        rows = re.findall(r"^\| (`[A-Z].*?) \|", (ROOT / "README.md").read_text(), re.MULTILINE)
        names = {name for row in rows for name in re.findall(r"`([A-Z0-9_]+)`", row)}
        assert names
        assert names <= set(Settings.model_fields)

    def test_every_command_it_names_exists(self) -> None:
        (listing,) = blocks("README.md", "## The command line", "")
        for line in listing.splitlines():
            command = re.split(r"\s{2,}", line)[0].split()[1:]
            assert CliRunner().invoke(main, [*command, "--help"]).exit_code == 0, line

    def test_every_file_it_names_exists(self) -> None:
        for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
            for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
                assert (page.parent / target).exists(), f"{page.name}: {target}"


class TestJobs:
    """docs/jobs.md"""

    def test_its_job_and_its_schedule_can_be_registered(self) -> None:
        job, _ = blocks("docs/jobs.md", "## Write a job", "python")
        (schedule,) = blocks("docs/jobs.md", "## Schedules", "python")
        code = f"{job}\nimport uuid\n{schedule.replace('...', 'uuid.uuid4()')}"
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)

    def test_every_command_it_names_exists(self) -> None:
        (listing,) = blocks("docs/jobs.md", "## For operators", "sh")
        for line in listing.splitlines():
            command = line.split("#")[0].split()[1:]
            words = list(itertools.takewhile(lambda word: word.islower() and not word.startswith("-"), command))[:2]
            helped = CliRunner().invoke(main, [*words, "--help"])
            assert helped.exit_code == 0, line
            for option in (word for word in command if word.startswith("--")):
                assert option in helped.output, line

    def test_every_setting_it_names_exists_with_that_default(self) -> None:
        (table,) = re.findall(r"## Settings\n.*", (ROOT / "docs/jobs.md").read_text(), re.DOTALL)
        rows = re.findall(r"^\| `([A-Z_]+)` \| `?([^|`]+?)`? \|", table, re.MULTILINE)
        assert {name for name in Settings.model_fields if name.startswith("JOBS_")} <= {name for name, _ in rows}
        for name, default in rows:
            value = getattr(Settings.isolated(), name)
            assert default == (",".join(value) if isinstance(value, tuple) else f"{value:g}"), name


class TestAddAResource:
    def test_the_page_works_as_it_stands(self, servers: Servers, empty_database_url: str) -> None:
        page = (ROOT / "docs/add-a-resource.md").read_text()
        environment = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
        environment["DATABASE_URL"] = empty_database_url
        with scratch_folder() as folder:
            copy = folder / "plinth"
            kept_out = shutil.ignore_patterns(".*", "*.egg-info", "__pycache__", "bench")
            shutil.copytree(ROOT, copy, ignore=kept_out)

            def run(*command: str) -> None:
                done = subprocess.run(
                    [sys.executable, "-m", *command],
                    cwd=copy,
                    env=environment,
                    capture_output=True,
                    text=True,
                    check=False,
                )
                assert done.returncode == 0, done.stdout + done.stderr

            for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
                if path := re.match(r"# (\S+\.py)\n", code):
                    (copy / path[1]).write_text(code)
            # Step 2, which `make migrate m="notes"` runs, and step 5. The tests apply the new migration themselves.
            run("plinth.cli", "migrate")
            run("alembic", "revision", "--autogenerate", "-m", "notes")
            router = copy / "app/api/v1/router.py"
            items_line, notes_line = re.findall(r"^ +\*\w+\.router\.routes,\n", page, re.MULTILINE)
            text = router.read_text().replace("from app.api.v1 import ", "from app.api.v1 import notes, ")
            router.write_text(text.replace(items_line, items_line + notes_line))
            run("pytest", "-q", "-p", "no:cacheprovider", "tests/integration/api/test_notes.py")


def _shell_commands() -> list[str]:
    """What the runbooks have the database's pod run and give an answer."""
    pages = sorted((ROOT / "docs" / "runbooks").glob("*.md"))
    return [found for page in pages for found in re.findall(r"plinth-psql -- (sh -c '.* -c .*')", page.read_text())]


@pytest.mark.parametrize("command", _shell_commands())
def test_queries_of_the_runbooks_are_answered(command: str, database_url: str, servers: Servers) -> None:
    """As they stand, through the shell: quotes within quotes are where they break."""
    path = f"{Path(servers.postgres._binary('psql')).parent}:{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "DATABASE_URL": database_url}
    done = subprocess.run(command, shell=True, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"\(\d+ rows?\)", done.stdout)
