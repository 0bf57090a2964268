"""The sign-in at an OpenID Connect provider: authorization code with PKCE, state and nonce.

Not by Authlib: it keeps its state in Starlette's session, which is signed and not encrypted, and it has an HTTP client
and keys of its own, without the bounds of `Documents` and the rules of `TokenVerifier`.
"""

import asyncio
import hmac
import secrets
import time
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import astuple, dataclass, field, replace
from hashlib import sha256
from typing import Any
from urllib.parse import quote

import httpx

from plinth.identity.documents import DocumentError, Documents, address_in, discover
from plinth.identity.errors import Reason, TokenError
from plinth.identity.oidc import id_token_rules
from plinth.identity.principal import Principal
from plinth.identity.verifier import TokenVerifier
from plinth.settings import PlatformSettings

__all__ = ["Attempt", "CodeFlow"]

# Seconds for all documents of a step, for which the provider's addresses are kept, and until it is asked for them again
# after it has not answered.
DEADLINE = 5.0
TTL = 300.0
PAUSE = 2.0


@dataclass(frozen=True, slots=True)
class Attempt:
    """A sign-in that has begun. The browser keeps it, sealed, until the provider sends it back."""

    back_to: str
    state: str = field(default_factory=lambda: secrets.token_urlsafe(16), repr=False)
    nonce: str = field(default_factory=lambda: secrets.token_urlsafe(16), repr=False)
    verifier: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)

    def sealed(self) -> list[str]:
        """The form of it in the cookie: `Attempt(*value)` reads it."""
        return list(astuple(self))

    def has_state(self, state: str) -> bool:
        """Whether the provider's answer is to this attempt."""
        return hmac.compare_digest(self.state.encode(), state.encode("utf-8", "surrogatepass"))


class CodeFlow:
    """Signs in with the client OPS_CLIENT_ID at the first of OIDC_ISSUER.

    Its methods raise DocumentError or TimeoutError if the provider does not answer as it should.
    """

    def __init__(self, settings: PlatformSettings, documents: Documents) -> None:
        assert settings.OPS_CLIENT_ID is not None
        assert settings.OPS_CLIENT_SECRET is not None
        self.issuer = settings.issuers[0]
        self._client_id = settings.OPS_CLIENT_ID
        self._secret = settings.OPS_CLIENT_SECRET
        self._scope = " ".join(settings.OPS_SCOPES)
        self._documents = documents
        self._known: dict[str, Any] | None = None
        self._ask_at = float("-inf")
        self._asking = asyncio.Lock()

    async def authorization_address(self, attempt: Attempt, callback: str) -> str:
        """The page of the provider at which an attempt begins."""
        challenge = urlsafe_b64encode(sha256(attempt.verifier.encode()).digest()).rstrip(b"=").decode()
        return await self._page(
            "authorization_endpoint",
            {
                "response_type": "code",
                "client_id": self._client_id,
                "redirect_uri": callback,
                "scope": self._scope,
                "state": attempt.state,
                "nonce": attempt.nonce,
                "code_challenge": challenge,
                "code_challenge_method": "S256",
            },
        )

    async def redeem(self, code: str, attempt: Attempt, callback: str, verifier: TokenVerifier) -> Principal:
        """Exchange the code of an attempt for its caller.

        Roles are those of the ID token. If the access token is one for this service's API, its roles and scopes count
        as well.

        Raises:
            TokenError: the ID token is not of this attempt, or not for this client.
            KeysUnavailable: the provider's keys cannot be fetched.
        """
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": callback,
            "code_verifier": attempt.verifier,
        }
        async with asyncio.timeout(DEADLINE):
            known = await self._addresses()
            auth, form = self._authenticated(known, form)
            answer = await self._documents.post(address_in(known, "token_endpoint"), form, auth)
        id_token, access_token = answer.get("id_token"), answer.get("access_token")
        if not isinstance(id_token, str):
            raise TokenError(Reason.MALFORMED)
        rules = id_token_rules(self.issuer, self._client_id, attempt.nonce)
        principal = await verifier.with_rules(rules).verify(id_token)
        return await _with_access(principal, access_token, verifier) if isinstance(access_token, str) else principal

    async def sign_out_address(self, back_to: str) -> str | None:
        """The page of the provider that ends the session there. None: it has none."""
        async with asyncio.timeout(DEADLINE):
            if "end_session_endpoint" not in await self._addresses():
                return None
        return await self._page(
            "end_session_endpoint", {"client_id": self._client_id, "post_logout_redirect_uri": back_to}
        )

    async def _page(self, name: str, parameters: Mapping[str, str]) -> str:
        async with asyncio.timeout(DEADLINE):
            url = address_in(await self._addresses(), name)
        self._documents.check(url)
        return str(httpx.URL(url).copy_merge_params(parameters))

    async def _addresses(self) -> dict[str, Any]:
        """The discovery document. One request fetches it for all that wait: anyone can begin a sign-in."""
        async with self._asking:
            now = time.monotonic()
            if now >= self._ask_at:
                self._known, self._ask_at = None, now + PAUSE
                self._known, self._ask_at = await discover(self._documents, self.issuer), now + TTL
            if self._known is None:
                raise DocumentError(f"the discovery document of {self.issuer} could not be read a moment ago")
            return self._known

    def _authenticated(
        self, known: Mapping[str, Any], form: dict[str, str]
    ) -> tuple[httpx.Auth | None, dict[str, str]]:
        """Authenticate the client in the way that the provider takes; in the header unless it says otherwise."""
        methods = known.get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
        secret = self._secret.get_secret_value()
        if "client_secret_basic" in methods:
            # RFC 6749, 2.3.1: encoded as in a form first.
            return httpx.BasicAuth(quote(self._client_id, safe=""), quote(secret, safe="")), form
        if "client_secret_post" in methods:
            return None, form | {"client_id": self._client_id, "client_secret": secret}
        raise DocumentError(f"the token endpoint of {self.issuer} takes no client secret")


async def _with_access(principal: Principal, access_token: str, verifier: TokenVerifier) -> Principal:
    try:
        access = await verifier.verify(access_token)
    except TokenError:  # for another API, or not a JWT at all
        return principal
    if (access.issuer, access.subject) != (principal.issuer, principal.subject):
        raise TokenError(Reason.WRONG_PARTY)
    return replace(principal, scopes=principal.scopes | access.scopes, roles=principal.roles | access.roles)
