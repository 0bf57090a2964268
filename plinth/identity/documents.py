"""Fetching what an identity provider publishes, with limits on where from, how often onward and how much."""

import json
from typing import Any
from urllib.parse import urlsplit

import httpx

from plinth.settings.urls import is_loopback
from plinth.telemetry.http_client import TracedClient

MAX_DOCUMENT_BYTES = 512 * 1024


class DocumentError(Exception):
    """The document could not be had, or is not one. The message is for the log."""


class Documents:
    """A client for JSON documents: https only, no redirects, no more than MAX_DOCUMENT_BYTES.

    It sets no time limit: only the caller knows how many documents have to fit into one.
    """

    def __init__(self, *, allow_loopback: bool = False) -> None:
        self._allow_loopback = allow_loopback
        self._client: httpx.AsyncClient | None = None

    async def get(self, url: str) -> dict[str, Any]:
        """Fetch one document. Raises DocumentError."""
        self._check(url)
        try:
            body = await self._read(url)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise DocumentError(f"{url}: {type(error).__name__}: {error}") from error
        try:
            document = json.loads(body)
        except (ValueError, RecursionError):
            raise DocumentError(f"{url}: not JSON") from None
        if not isinstance(document, dict):
            raise DocumentError(f"{url}: not a JSON object")
        return document

    async def aclose(self) -> None:
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    def _check(self, url: str) -> None:
        try:
            parts = urlsplit(url)
        except ValueError:
            raise DocumentError("not an address") from None
        if not parts.hostname or "@" in parts.netloc:
            raise DocumentError("the address names no host, or a user")
        if parts.scheme != "https" and not (self._allow_loopback and is_loopback(url)):
            raise DocumentError(f"{url}: not https")

    async def _read(self, url: str) -> bytearray:
        if self._client is None:
            self._client = TracedClient(
                follow_redirects=False,
                timeout=None,
                # Proxies come from the environment, for clusters whose only way out they are; but not for
                # http, which is allowed on loopback alone, where no proxy gets to.
                mounts={"http://": None},
                # Unpacking would let a small answer become a large one before anybody counts.
                headers={"Accept": "application/json", "Accept-Encoding": "identity"},
            )
        async with self._client.stream("GET", url) as response:
            if response.status_code != httpx.codes.OK:
                raise DocumentError(f"{url}: answered {response.status_code}")
            body = bytearray()
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > MAX_DOCUMENT_BYTES:
                    raise DocumentError(f"{url}: longer than {MAX_DOCUMENT_BYTES} bytes")
            return body
