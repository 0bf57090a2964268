"""Cookies that only this service can read and make, until a time that is in them."""

import json
import time
from base64 import urlsafe_b64encode
from typing import Any

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from starlette.requests import Request
from starlette.responses import Response

from plinth.settings import PlatformSettings
from plinth.settings.keys import derive_keys
from plinth.settings.urls import is_loopback_host

__all__ = ["SealedCookie"]

# Browsers drop a cookie of more than 4096 bytes, its name and its attributes included.
MAX_BYTES = 3800


class SealedCookie:
    """A cookie with JSON in it, encrypted and signed with a key of its own for each purpose.

    The first key of SECRET_KEY seals and all of them open, so a rotation ends no session.
    """

    def __init__(self, settings: PlatformSettings, purpose: str) -> None:
        keys = derive_keys(settings.SECRET_KEY, purpose)
        self._seal = MultiFernet([Fernet(urlsafe_b64encode(key)) for key in keys])
        self.name = f"plinth-{purpose}"
        self._deployed = settings.ENVIRONMENT.deployed

    def set(self, request: Request, response: Response, value: Any, *, until: int) -> None:
        """Add the cookie to a response.

        Raises:
            ValueError: it is too long for a browser.
        """
        content = json.dumps([until, value], separators=(",", ":")).encode()
        sealed = self._seal.encrypt(content).decode().rstrip("=")  # else the value would be put into quotes
        if len(sealed) > MAX_BYTES:
            raise ValueError("the cookie is too long")
        self._send(request, response, sealed, max(0, until - int(time.time())))

    def read(self, request: Request) -> Any:
        """The value; None if there is no cookie, it was not made here, or its time has ended."""
        sealed = request.cookies.get(self._name_for(request), "")
        if not 0 < len(sealed) <= MAX_BYTES:
            return None
        try:
            until, value = json.loads(self._seal.decrypt(sealed.encode() + b"=" * (-len(sealed) % 4)))
        except InvalidToken:
            return None
        return value if time.time() < until else None

    def clear(self, request: Request, response: Response) -> None:
        """Have the browser forget the cookie."""
        self._send(request, response, "", 0)

    def _send(self, request: Request, response: Response, value: str, max_age: int) -> None:
        # Lax: it comes along when the identity provider sends the browser back, and with no other site's POST.
        response.set_cookie(
            self._name_for(request),
            value,
            max_age=max_age,
            path="/",
            secure=self.is_secure(request),
            httponly=True,
            samesite="lax",
        )

    def _name_for(self, request: Request) -> str:
        # Services behind paths of one host would overwrite each other's: the path of a `__Host-` cookie is always /.
        name = self.name + request.scope.get("root_path", "").replace("/", "-")
        # With the prefix, browsers take the cookie from this very host alone, over https: no subdomain can set it.
        return f"__Host-{name}" if self.is_secure(request) else name

    def is_secure(self, request: Request) -> bool:
        """Whether the browser is taken to be at https: elsewhere than on this machine it has to be."""
        url = request.url
        return self._deployed or url.scheme == "https" or not is_loopback_host(url.hostname or "")
