"""What `plinth run` says while it waits."""

import sys
import time
from pathlib import Path

import pytest

from plinth.embedded import run
from plinth.embedded.process import environment

WAITS = "import time; print('waiting for the database', flush=True); time.sleep(1)"


def test_migration_that_waits_shows_what_it_waits_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "MIGRATION_QUIET", 0.5)
    monkeypatch.setattr(run, "_command", lambda *_: [sys.executable, "-c", WAITS])
    run._migrate(tmp_path / "migrate.log", environment(), time.sleep)
    assert capsys.readouterr().out == "The migrations are not applied yet:\nwaiting for the database\n"
