"""Fixtures of the logging tests."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.support.logs import Configure, logging_as


@pytest.fixture
def configure() -> Iterator[Configure]:
    """Configures logging, returns the stream of its lines and restores it at the end."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(logging_as(**options))
