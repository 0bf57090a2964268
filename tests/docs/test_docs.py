"""The pages of `docs/`, typed word for word."""

import os
import re
import secrets
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from app.core.config import Settings
from app.main import create_app
from plinth.cli import main
from plinth.http.request_context import principal_hash
from plinth.settings.keys import derive_key
from plinth.testing import serving
from plinth.testing.servers import Servers
from tests.support.pages import ROOT, blocks, copy_of_the_project, files_of
from tests.support.processes import declare

KEY = secrets.token_hex(32)

# In a copy of the project. The plugin of schemathesis takes a second to import: most of these tests do without.
PYTEST = ("pytest", "-q", "-p", "no:cacheprovider")


class TestTours:
    @pytest.fixture
    def tour(self, database_url: str, redis_url: str) -> subprocess.CompletedProcess[str]:
        """The tour's commands, run as one script against a service set up as `make run` does it."""
        (script,) = blocks("docs/tour.md", "## Items: create, read, change, delete", "sh")
        given = {"DATABASE_URL": database_url, "REDIS_URL": redis_url, "SECRET_KEY": KEY}
        with serving(create_app(Settings.isolated(**given))) as url:
            script = script.replace("http://127.0.0.1:8000", url)
            script = script.replace(".venv/bin/plinth", f"{sys.executable} -m plinth.cli")
            environment = {**os.environ, "SECRET_KEY": KEY}
            return subprocess.run(
                ["bash", "-euc", script], env=environment, capture_output=True, text=True, check=False
            )

    def test_the_tour_of_the_api_works(self, tour: subprocess.CompletedProcess[str]) -> None:
        assert tour.returncode == 0, tour.stderr
        statuses = [int(status) for status in re.findall(r"HTTP/1.1 (\d+)", tour.stdout)]
        # made; listed; read; not changed; which version?; changed; too late; not yours; deleted
        assert statuses == [201, 200, 200, 304, 428, 200, 412, 404, 204]
        assert '"status":"alive"' in tour.stdout
        assert '"status":"ready"' in tour.stdout
        assert '"subject":"alice"' in tour.stdout

    def test_tour_of_a_job_goes_from_the_request_to_the_file(
        self, database_url: str, redis_url: str, tmp_path: Path
    ) -> None:
        """As it stands but for the number of items, with a worker as `make run` starts it."""
        (script,) = blocks("docs/job-tour.md", "## From the request to the file", "sh")
        servers = {"DATABASE_URL": database_url, "REDIS_URL": redis_url, "SECRET_KEY": KEY}
        settings = Settings.isolated(**servers, RATE_LIMIT="")
        environment = {**os.environ, **servers, "METRICS_PORT": "0", "PYTHONPATH": str(ROOT), "LOG_LEVEL": "WARNING"}
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
            declare(tmp_path, "app.core.config:Settings")
            done = subprocess.run(
                ["bash", "-euc", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
            )
            worker.terminate()
        assert done.returncode == 0, done.stderr
        assert "event: end" in done.stdout
        assert '"state":"succeeded"' in done.stdout
        assert "begin part digest" in done.stdout
        assert done.stdout.split()[-2:] == ["250", "250"]


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


class TestCommandLine:
    """docs/command-line.md"""

    def test_every_command_of_the_command_line_page_exists(self) -> None:
        (listing,) = blocks("docs/command-line.md", "## Commands", "")
        for line in listing.splitlines():
            command = re.split(r"\s{2,}", line)[0].split()[1:]
            assert CliRunner().invoke(main, [*command, "--help"]).exit_code == 0, line

    def test_command_line_page_leaves_no_command_out(self) -> None:
        (listing,) = blocks("docs/command-line.md", "## Commands", "")
        assert {line.split()[1] for line in listing.splitlines()} == set(main.commands)


def test_every_setting_in_the_tables_of_the_pages_exists() -> None:
    names = set()
    for page in (ROOT / "docs").rglob("*.md"):
        for table in re.findall(r"^\| setting \|.*\n((?:\|.*\n)+)", page.read_text(), re.MULTILINE):
            for row in table.splitlines():
                names |= set(re.findall(r"`([A-Z][A-Z0-9_]+)`", row.split("|")[1]))
    assert "JOBS_QUEUES" in names
    assert names <= set(Settings.model_fields)


def test_command_for_the_hash_of_a_caller_works() -> None:
    """docs/traces-and-logs.md, with the Python of this machine instead of that of a pod."""
    command, *_ = blocks("docs/traces-and-logs.md", "## Log lines", "sh")
    command = command.replace("kubectl -n plinth exec -i deploy/plinth-api -- python", sys.executable)
    environment = {**os.environ, "SECRET_KEY": "k" * 32, "DATABASE_URL": "sqlite+aiosqlite://"}
    done = subprocess.run(command, shell=True, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == principal_hash(derive_key("k" * 32, "log"))("alice")


class TestExtend:
    """docs/extend.md; `tests/observability/test_extend.py` types its rule and its dashboard."""

    def test_router_job_and_metric_of_the_extend_page_work(self) -> None:
        with copy_of_the_project() as copy:
            files = copy.type(ROOT / "docs/extend.md")
            code = [path for path in files if path.endswith(".py")]
            copy.run("ruff", "check", "--no-cache", *code)
            copy.run("ruff", "format", "--no-cache", "--check", *code)
            copy.run("importlinter.cli", "lint", "--no-cache")
            tests = [path for path in code if path.startswith("tests/")]
            copy.run(*PYTEST, "-p", "no:schemathesis", *tests, "tests/plinth/unit/test_metrics_docs.py")

    def test_extend_page_adds_files_and_edits_none_of_the_platform(self) -> None:
        assert [path for path in files_of(ROOT / "docs/extend.md") if (ROOT / path).exists()] == []


class TestAddAResource:
    """docs/add-a-resource.md"""

    def test_page_on_adding_a_resource_works_as_it_stands(self, servers: Servers, empty_database_url: str) -> None:
        with copy_of_the_project(DATABASE_URL=empty_database_url) as copy:
            files = copy.type(ROOT / "docs/add-a-resource.md")
            copy.run("plinth.cli", "migrate")
            # Step 2, which `make migrate m="orders"` runs. The tests apply the new migration themselves.
            copy.run("alembic", "revision", "--autogenerate", "-m", "orders")
            copy.run("ruff", "check", "--no-cache", "migrations", *files)
            copy.run("ruff", "format", "--no-cache", "--check", "migrations", *files)
            copy.run("importlinter.cli", "lint", "--no-cache")
            tests = "tests/integration/api/test_orders.py"
            copy.run(*PYTEST, tests, "tests/integration/test_contract.py", "-k", "orders or customers")
            self.read_the_fast_way(copy.folder / "app/api/v1/orders.py")
            copy.run(*PYTEST, "-p", "no:schemathesis", tests, "-k", "its_owners_alone")

    def read_the_fast_way(self, endpoints: Path) -> None:
        """Put the page's other endpoint in the place of the plain one."""
        *_, endpoint = blocks("docs/add-a-resource.md", "## The fast way, where it counts", "python")
        assert endpoint.startswith("@router.get")
        plain, _, rest = endpoints.read_text().partition('@router.get("/orders/{order_id}"')
        text = f"{plain}{endpoint}\n\n@router.patch{rest.partition('@router.patch')[2]}"
        imports = (
            "from app.business import fast_orders\n"
            "from plinth.api.dependencies import state_of\n"
            "from plinth.http.responses import json_response\n"
        )
        endpoints.write_text(text.replace("\nfrom fastapi", f"\n{imports}from fastapi", 1))


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
