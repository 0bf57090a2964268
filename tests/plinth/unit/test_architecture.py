"""Rules of the layout that no type checker can check."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
# The supervisor passes its environment to its children, the pytest plugin removes the settings from it, and
# OpenTelemetry's API is imported without two variables.
READS_THE_ENVIRONMENT = {
    *("plinth/settings/loading.py", "plinth/embedded/process.py", "plinth/testing/plugin.py"),
    "plinth/first_imports.py",
}


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
def test_code_that_reads_the_environment_is_detected(code: str) -> None:
    assert reads_environment(code)


def test_only_listed_modules_read_the_environment() -> None:
    sources = {
        str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
        for house in ("app", "plinth")
        for path in (ROOT / house).rglob("*.py")
    }
    assert {name for name, code in sources.items() if reads_environment(code)} == READS_THE_ENVIRONMENT


def imported(code: str) -> set[str]:
    """The top-level packages that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


@pytest.mark.parametrize(
    "code", ["import app", "import app.main as m", "from app import jobs", "from app.core import db"]
)
def test_import_of_the_service_is_detected(code: str) -> None:
    assert "app" in imported(code)


def test_the_platform_and_its_tests_import_nothing_of_the_service() -> None:
    places = ("plinth", "tests/plinth", "tests/service", "tests/support")
    files = [*(path for place in places for path in (ROOT / place).rglob("*.py")), ROOT / "tests" / "conftest.py"]
    assert [str(path) for path in files if "app" in imported(path.read_text(encoding="utf-8"))] == []


def test_platform_code_does_not_name_parts_of_the_sample() -> None:
    sample = re.compile(r"/(items|exports)\b|\bItem\b|\b(item|export)_id\b|\b(SELECT|FROM) (item|export)\b|\bexports\b")
    lines = [
        f"{path.relative_to(ROOT)}:{number}: {line}"
        for path in (ROOT / "plinth").rglob("*.py")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if sample.search(line)
    ]
    assert lines == []


def test_the_platform_s_tests_are_collected_without_the_service() -> None:
    """One folder of them, as `make test-plinth` does it: the imports of all are read above."""
    collect = (
        "import sys, pytest; sys.modules['app'] = None\n"
        "options = ['--collect-only', '-qq', '-p', 'no:cacheprovider', '-c', 'pyproject.toml']\n"
        "sys.exit(pytest.main([*options, '--rootdir', 'tests/service', 'tests/plinth/integration/http']))"
    )
    done = subprocess.run([sys.executable, "-c", collect], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr


def test_no_file_is_longer_than_a_reader_bears() -> None:
    files = [path for place in ("app", "plinth") for path in (ROOT / place).rglob("*.py")]
    long = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8").count("\n") for path in files}
    assert {name: lines for name, lines in long.items() if lines > 350} == {}


def test_the_worker_loads_no_http_framework() -> None:
    """FastAPI alone takes 6 MB of each worker's memory."""
    script = "import sys, plinth.jobs.engine.worker, plinth.cli; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"fastapi", "starlette.applications", "uvicorn"} & set(done.stdout.split())


@pytest.mark.parametrize("process", ["plinth.jobs.engine.worker", "plinth.api.process"])
def test_process_without_traces_loads_no_sdk_of_opentelemetry(process: str) -> None:
    """redis-py would import it, with psutil: 2.4 MB of each process."""
    script = f"import sys, {process}, plinth.cli; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "redis.asyncio" in done.stdout.split()
    assert not {"opentelemetry.sdk.trace", "opentelemetry.sdk.metrics", "psutil"} & set(done.stdout.split())


def test_sdk_can_be_imported_behind_redis() -> None:
    script = "import plinth.redis, opentelemetry.sdk.metrics, opentelemetry.sdk.trace"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)
