"""Without OPS_ENABLED there is no page, and nothing of it is loaded."""

import subprocess
import sys

import pytest

from notes.main import create_app
from tests.support.notes import settings_with

LOADED = """
import sys
from fastapi import FastAPI
from plinth.ops import install_ops
from plinth.settings import PlatformSettings
install_ops(FastAPI(), PlatformSettings.isolated(OPS_ENABLED={enabled}))
print(*sys.modules)
"""


@pytest.mark.parametrize("enabled", [True, False])
def test_nothing_is_loaded_unless_it_is_enabled(enabled: bool) -> None:
    script = LOADED.format(enabled=enabled)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ({"jinja2", "plinth.ops.pages"} <= set(done.stdout.split())) is enabled
    assert ("jinja2" in done.stdout.split()) is enabled


@pytest.mark.parametrize("enabled", [True, False])
def test_pages_are_in_no_openapi_document(enabled: bool) -> None:
    app = create_app(settings_with(OPS_ENABLED=enabled))
    assert not [path for path in app.openapi()["paths"] if path.startswith("/ops")]
