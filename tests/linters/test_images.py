"""What hadolint has to say of the Dockerfiles. Nothing of it is accepted."""

from pathlib import Path

from tests.chart.tools import ROOT, run, tool


def test_hadolint_finds_nothing() -> None:
    files = sorted(str(path) for path in (ROOT / "docker").glob("Dockerfile*"))
    assert len(files) > 1
    done = run(tool("HADOLINT"), "--no-color", *files)
    assert (done.returncode, done.stdout) == (0, "")


def test_hadolint_would_find_something(tmp_path: Path) -> None:
    file = tmp_path / "Dockerfile"
    file.write_text("FROM python\nRUN cd /tmp && echo $1\n")
    assert "DL3006" in run(tool("HADOLINT"), str(file)).stdout
