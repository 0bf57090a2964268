"""What tests of logging share."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.support.logs import Configure, logging_as


@pytest.fixture
def configure() -> Iterator[Configure]:
    """Configures the logging of this process, and puts it back afterwards. Returns where the lines go."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(logging_as(**options))
