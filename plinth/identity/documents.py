"""Fetches the documents that an identity provider publishes: its keys, and where they are."""

import json
import ssl
from collections.abc import Mapping
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import httpx

from plinth.settings.urls import is_loopback
from plinth.telemetry.http_client import TracedClient

MAX_DOCUMENT_BYTES = 512 * 1024


class DocumentError(Exception):
    """The document could not be fetched or read. The message is for the log.

    `status`: of the answer, where it was another than 200.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


@cache
def _trusted_authorities() -> ssl.SSLContext:
    """The certificate authorities that httpx trusts. They take 30 ms to load, so all clients share them."""
    return httpx.create_ssl_context()


class Documents:
    """A client for JSON documents: https only, no redirects, no more than MAX_DOCUMENT_BYTES.

    It has no time limit of its own: its caller sets one for all documents together.
    """

    def __init__(self, *, allow_loopback: bool = False) -> None:
        self._allow_loopback = allow_loopback
        self._client = TracedClient(
            follow_redirects=False,
            timeout=None,
            verify=_trusted_authorities(),
            # httpx takes proxies from the environment, the only way out of some clusters. None for http, which is
            # allowed on loopback only, where no proxy is needed.
            mounts={"http://": None},
            # A small compressed answer could become a large one before its size is checked.
            headers={"Accept": "application/json", "Accept-Encoding": "identity"},
        )

    async def get(self, url: str) -> dict[str, Any]:
        """Fetch one document. Raises DocumentError."""
        return await self._fetch("GET", url)

    async def post(self, url: str, form: Mapping[str, str], auth: httpx.Auth | None = None) -> dict[str, Any]:
        """Post a form and return the document that answers it. Raises DocumentError."""
        return await self._fetch("POST", url, data=form, auth=auth)

    async def _fetch(self, method: str, url: str, **options: Any) -> dict[str, Any]:
        self.check(url)
        try:
            body = await self._read(method, url, options)
        except httpx.HTTPError as error:
            raise DocumentError(f"{url}: {type(error).__name__}: {error}") from error
        try:
            document = json.loads(body)
        except (ValueError, RecursionError):
            raise DocumentError(f"{url}: not JSON") from None
        if not isinstance(document, dict):
            raise DocumentError(f"{url}: not a JSON object")
        return document

    async def aclose(self) -> None:
        await self._client.aclose()

    def check(self, url: str) -> None:
        """Raise DocumentError unless the address is https, or http to this machine where that is allowed."""
        try:
            read = str(httpx.URL(url))  # as the client reads it
            parts = urlsplit(read)
        except (httpx.InvalidURL, ValueError):
            raise DocumentError("not an address") from None
        if not parts.hostname or "@" in parts.netloc:
            raise DocumentError("the address names no host, or a user")
        if parts.scheme != "https" and not (self._allow_loopback and is_loopback(read)):
            raise DocumentError(f"{url}: not https")

    async def _read(self, method: str, url: str, options: dict[str, Any]) -> bytearray:
        async with self._client.stream(method, url, **options) as response:
            if response.status_code != httpx.codes.OK:
                raise DocumentError(f"{url} answered {response.status_code}", response.status_code)
            body = bytearray()
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > MAX_DOCUMENT_BYTES:
                    raise DocumentError(f"{url}: longer than {MAX_DOCUMENT_BYTES} bytes")
            return body


async def discover(documents: Documents, issuer: str) -> dict[str, Any]:
    """Fetch the discovery document of an issuer. Raises DocumentError.

    It must name exactly this issuer (OpenID Connect Discovery 1.0, 4.3); otherwise one issuer on a shared
    host could speak for another.
    """
    document = await documents.get(f"{issuer.rstrip('/')}/.well-known/openid-configuration")
    if document.get("issuer") != issuer:
        raise DocumentError(f"the discovery document of {issuer} names another issuer")
    return document


async def find_jwks_url(documents: Documents, issuer: str) -> str:
    """Read the address of the keys from the issuer's discovery document. Raises DocumentError."""
    return address_in(await discover(documents, issuer), "jwks_uri")


def address_in(document: Mapping[str, Any], name: str) -> str:
    """Read an address from a discovery document. Raises DocumentError."""
    url = document.get(name)
    if not isinstance(url, str):
        raise DocumentError(f"the discovery document of {document['issuer']} has no {name}")
    return url
