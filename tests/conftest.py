"""What every test may ask for, beside the fixtures of `plinth.testing.plugin`."""

import gc
import os
from collections.abc import Generator, Iterator
from pathlib import Path

import hypothesis
import pytest
from opentelemetry import trace
from opentelemetry.util._once import Once

from tests.support import network_guard
from tests.support.collector import Collector, collecting

pytest_plugins = ["plinth.testing.plugin"]

network_guard.install()

# A busy machine fails no test: an example may take as long as it takes.
hypothesis.settings.register_profile("plinth", deadline=None)
hypothesis.settings.load_profile("plinth")

# Commands are run in folders of their own; they find the code all the same.
os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep the garbage collector away from what lives as long as the run.

    Six thousand tests and their modules are a million objects: each full collection looked at all of them, for 0.1 to
    0.4 s, while they were collected, some sixty times while tests ran, and five times at the end.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(autouse=True)
def _stay_on_this_machine() -> Iterator[None]:
    yield
    attempts = network_guard.attempts[:]
    network_guard.attempts.clear()
    assert not attempts, f"this test went for {', '.join(attempts)}"


@pytest.fixture
def fresh_tracing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tracing can be switched on once in a process; here in each test that asks for this."""
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
    monkeypatch.setattr(trace, "_TRACER_PROVIDER_SET_ONCE", Once())


@pytest.fixture
def collector(fresh_tracing: None) -> Iterator[Collector]:
    with collecting() as collector:
        yield collector
