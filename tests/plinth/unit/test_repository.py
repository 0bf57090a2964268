"""Files beside the code agree: workflows, hooks, Makefile, changelog."""

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[3]
WORKFLOWS = [*(ROOT / ".github/workflows").glob("*.yml"), ROOT / ".gitlab-ci.yml"]
KINDS_OF_CHANGE = ("Added", "Changed", "Fixed", "What you must do")

RELEASED = """\
# Changelog

## Unreleased

## 0.2.0 (2026-12-31, 0123456789ab)

### Added

- A thing.

## 0.1.0 (2026-12-01, ba9876543210)

### Fixed

- Another.
"""


def output(*command: str) -> str:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def commands(tree: Any) -> list[str]:
    """Every string below the keys that hold commands of a workflow."""
    found = []
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        if key in ("run", "script", "before_script"):
            found += value if isinstance(value, list) else [value]
        else:
            found += commands(value)
    return found


def workflow_commands(*files: Path) -> list[str]:
    return [command for file in files for command in commands(yaml.safe_load(file.read_text()))]


def make_targets() -> set[str]:
    files = [ROOT / "Makefile", *ROOT.glob("tests/e2e/*.mk")]
    return {name for file in files for name in re.findall(r"^([a-z0-9-]+):", file.read_text(), re.MULTILINE)}


def named_targets(text: str) -> set[str]:
    return set(re.findall(r"\bmake (?:--silent )?([a-z][a-z0-9-]*)", text))


def test_make_targets_of_workflows_and_steps_exist() -> None:
    steps = set(output(".ci/run", "--list").split())
    named = named_targets("\n".join(workflow_commands(*WORKFLOWS))) | steps
    assert {"service-name", "lint", "test-adoption"} <= named
    # A service without the sample lacks this one, and its step does nothing.
    assert named - {"e2e"} <= make_targets()


@pytest.mark.parametrize("file", [".github/workflows/ci.yml", ".gitlab-ci.yml"])
def test_each_ci_calls_every_step(file: str) -> None:
    steps = set(output(".ci/run", "--list").split())
    calls = re.findall(r"\.ci/run ([a-z0-9 -]+)", "\n".join(workflow_commands(ROOT / file)))
    assert {step for call in calls for step in call.split()} == steps


def test_variables_of_gitlab_s_jobs_set_none_of_make_s() -> None:
    """They are in the environment: PYTHON of a matrix, "3.11", would be the program that make calls."""
    jobs = [job for job in yaml.safe_load((ROOT / ".gitlab-ci.yml").read_text()).values() if isinstance(job, dict)]
    matrices = [entry for job in jobs for entry in job.get("parallel", {}).get("matrix", [])]
    assert matrices
    names = {name for variables in [*matrices, *(job.get("variables", {}) for job in jobs)] for name in variables}
    assert not names & set(re.findall(r"^(?:export )?(\w+) \?=", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_unknown_ci_step_is_refused() -> None:
    done = subprocess.run([".ci/run", "lnit"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "lnit is none of the steps: install lint" in done.stderr


@pytest.mark.parametrize(
    "file", [".ci/run", ".ci/tools", *(str(p.relative_to(ROOT)) for p in ROOT.glob("scripts/*.sh"))]
)
def test_shell_scripts_can_be_parsed(file: str) -> None:
    output("bash", "-n", file)


@pytest.mark.parametrize("file", ["renovate.json", ".vscode/launch.json", ".vscode/settings.json"])
def test_json_files_can_be_parsed(file: str) -> None:
    assert json.loads((ROOT / file).read_text())


def test_git_hooks_run_installed_programs() -> None:
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    programs = {hook["entry"].split()[0] for hook in repository["hooks"]}
    assert programs == {".venv/bin/ruff", ".venv/bin/mypy", ".venv/bin/lint-imports"}
    assert all((Path(sys.executable).parent / Path(program).name).exists() for program in programs)


def test_a_terminal_is_shown_the_progress_of_an_installation() -> None:
    command = ("make", "--dry-run", "--always-make", ".venv/.run")
    assert "pip install --quiet" in output(*command)
    terminal, end = pty.openpty()
    try:
        shown = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=end, text=True, check=True).stdout
    finally:
        os.close(end)
        os.close(terminal)
    assert "pip install" in shown
    assert "--quiet" not in shown


def test_make_help_shows_each_target_in_a_group() -> None:
    shown = output("make", "help")
    listed = re.findall(r"^  make ([a-z0-9-]+) ", shown, re.MULTILINE)
    assert set(listed) == make_targets() - {"service-name"}
    assert len(re.findall(r"^\S.*$", shown, re.MULTILINE)) >= 5


@pytest.mark.parametrize(
    ("arguments", "processes"), [("", "-n 4"), ("--cov", "-n 4"), ("-k one_test", "-n 0"), ("-k jobs -n 2", "-n 2")]
)
def test_make_runs_few_tests_in_one_process(arguments: str, processes: str) -> None:
    shown = output("make", "--dry-run", "test", f"ARGS={arguments}")
    assert re.findall(r"-n \d", shown)[-1] == processes  # the last one counts


def test_make_says_that_the_python_is_not_there(tmp_path: Path) -> None:
    # Below another make, such as that of `make test`, it would say where it is first.
    command = ("make", "--no-print-directory", f"VENV={tmp_path}/venv", "PYTHON=python9", "venv")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.startswith("Plinth needs Python 3.11 or later, and python9 is not there.")


def test_lock_files_contain_no_addresses_and_paths() -> None:
    for lock in (ROOT / "requirements").glob("*.txt"):
        assert not re.search(r"https?://|file:|^--(index|find)", lock.read_text(), re.MULTILINE), lock


def test_lock_files_agree_on_each_version() -> None:
    """A service's own dependencies cannot change the version of one of the platform's."""
    pinned: dict[str, set[frozenset[str]]] = {}
    for name in ("base", "run", "dev", "e2e", "service"):
        lock = (ROOT / f"requirements/{name}.txt").read_text()
        found: dict[str, set[str]] = {}  # some packages have a version for each range of Pythons
        for package, version in re.findall(r"^([A-Za-z0-9_.-]+)\S*?==(\S+)", lock, re.MULTILINE):
            found.setdefault(package, set()).add(version)
        for package, versions in found.items():
            pinned.setdefault(package, set()).add(frozenset(versions))
    assert len(pinned) > 50
    assert {package for package, versions in pinned.items() if len(versions) > 1} == set()


class TestChangelog:
    def test_changelog_begins_with_unreleased_and_each_change_has_its_kind(self) -> None:
        text = (ROOT / "CHANGELOG.md").read_text()
        headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
        assert headings[0] == "Unreleased"
        assert set(re.findall(r"^### (.*)$", text, re.MULTILINE)) <= set(KINDS_OF_CHANGE)
        assert all(re.match(r"\d+\.\d+\.\d+( \(\d{4}-\d\d-\d\d, [0-9a-f]{12,40}\))?$", found) for found in headings[1:])

    def test_releases_of_the_changelog_are_read_newest_first(self, tmp_path: Path) -> None:
        (tmp_path / "scripts").mkdir()
        script = tmp_path / "scripts/releases.py"
        script.write_bytes((ROOT / "scripts/releases.py").read_bytes())
        (tmp_path / "CHANGELOG.md").write_text(RELEASED)

        assert output(sys.executable, str(script), "newest") == "0.2.0 0123456789ab\n"
        assert output(sys.executable, str(script), "notes", "0.1.0") == "### Fixed\n\n- Another.\n"

    def test_changelog_without_a_release_has_no_newest_one(self, tmp_path: Path) -> None:
        (tmp_path / "scripts").mkdir()
        script = tmp_path / "scripts/releases.py"
        script.write_bytes((ROOT / "scripts/releases.py").read_bytes())
        (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## Unreleased\n\n## 0.1.0\n\n### Added\n")

        assert output(sys.executable, str(script), "newest") == ""
