"""The command line, run within this process."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from plinth.cli import main
from tests.support.processes import declare

Run = Callable[..., Result]


@contextmanager
def command_line(folder: Path, **given: str) -> Iterator[Run]:
    """Yields a function that runs a command in a folder; keyword arguments are its environment, beside `given`."""

    def run(*arguments: str, **environment: str) -> Result:
        return CliRunner().invoke(main, arguments, env={**given, **environment})

    with pytest.MonkeyPatch.context() as patch:
        declare(folder)
        patch.chdir(folder)
        patch.setattr("plinth.cli.common.configure_logging", lambda *_: None)  # it is for the whole process
        yield run
