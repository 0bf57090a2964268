"""A browser that reaches no other machine, and what it complains of."""

import os
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from notes.config import Settings
from notes.main import create_app
from plinth.testing import serving

pytest.importorskip("playwright", reason="`make browser-test` installs it")
from playwright.async_api import Browser, Page, async_playwright

# A machine that has more to do takes longer than the five seconds that Playwright waits.
TIMEOUT = 60_000
PICTURES = Path(__file__).parents[3] / "docs" / "pictures"
draws = pytest.mark.skipif("PICTURES" not in os.environ, reason="PICTURES=1 writes the pictures of the docs anew")


@pytest.fixture(scope="module")
def url(settings: Settings) -> Iterator[str]:
    with serving(create_app(settings)) as url:
        yield url


@pytest.fixture
def problems() -> list[str]:
    """What the browser complains of, and what the page wants of other hosts."""
    return []


@pytest.fixture
def context_options() -> dict[str, Any]:
    """What the browser is set to: its size, its zone, its colours."""
    return {}


@pytest.fixture(scope="session")
async def browser() -> AsyncIterator[Browser]:
    """One for all tests: it takes seconds to start."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=shutil.which("chromium"),
            chromium_sandbox=os.geteuid() != 0,  # root has none
            args=["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"],
        )
        yield browser
        await browser.close()


@pytest.fixture
async def tab(browser: Browser, url: str, problems: list[str], context_options: dict[str, Any]) -> AsyncIterator[Page]:
    """A tab of a browser without cookies or a cache, empty as yet."""
    async with await browser.new_context(**context_options) as context:
        page = await context.new_page()
        page.set_default_timeout(TIMEOUT)
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: None if own(request.url, url) else problems.append(request.url))
        yield page


def own(address: str, url: str) -> bool:
    """Whether the page asks this service, or itself."""
    return address.startswith((f"{url}/", "data:"))
