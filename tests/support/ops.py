"""Signs in at /ops, as a browser does."""

import re
from collections.abc import Iterable

import httpx

from plinth.identity import sign_local_token
from plinth.settings import PlatformSettings

__all__ = ["OPS", "csrf_of", "from_a_page", "sign_in"]

OPS = "https://service.test/ops"


async def sign_in(
    client: httpx.AsyncClient,
    settings: PlatformSettings,
    *,
    roles: Iterable[str] = ("operator",),
    subject: str = "olga",
    back_to: str = "/ops",
    ttl: int = 600,
) -> httpx.Response:
    """Sign in with a token of the local provider. The client keeps the cookie."""
    token = sign_local_token(settings, subject=subject, ttl=ttl, roles=roles)
    return await client.post(f"{OPS}/sign-in", data={"token": token, "next": back_to}, headers=from_a_page())


def from_a_page() -> dict[str, str]:
    """The header by which a browser says that a page of the same origin sends the request."""
    return {"Sec-Fetch-Site": "same-origin"}


def csrf_of(page: httpx.Response) -> str:
    """The token of the forms of a page."""
    found = re.search(r'name="csrf" value="([^"]+)"', page.text)
    assert found is not None, page.text
    return found[1]
