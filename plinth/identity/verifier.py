"""Verifies bearer tokens: signature, claims and rules."""

import hashlib
import json
import re
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import jwt

from plinth.identity.errors import Reason, TokenError
from plinth.identity.keys import ALGORITHMS, KeySource, VerificationKey
from plinth.identity.principal import Principal
from plinth.identity.rules import LEEWAY, TokenRules

MAX_TOKEN_LENGTH = 16_384  # characters; most have 500 to 2,000, those of Entra with 200 groups 11,000
MAX_KID_LENGTH = 255

# A principal is cached until its token expires, and at most for so many seconds. Then the verifier asks its key source
# again, and learns whether the key was withdrawn.
CACHE_SECONDS = 60
MAX_CACHED = 4096

_ALGORITHMS = {name: jwt.get_algorithm_by_name(name) for name in ALGORITHMS}
_COMPACT_FORM = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*")
_ACCESS_TOKEN_TYPE = "at+jwt"  # noqa: S105


@dataclass(frozen=True, slots=True)
class Issuer:
    """An issuer whose tokens are accepted: the rules for them, and where their keys come from."""

    rules: TokenRules
    sources: Mapping[str, KeySource]
    """The key source of each algorithm. A token that is signed with another one is refused."""

    def __post_init__(self) -> None:
        if not self.sources or not ALGORITHMS.issuperset(self.sources):
            raise ValueError("expected a key source for one algorithm or more, and for none that is not known")


class TokenVerifier:
    """Turns a bearer token of one of several issuers into a Principal, and caches it.

    Call `verifier.cached(token) or await verifier.verify(token)`: the first half costs 1.6 µs. Refusals are not
    cached, because anyone can make invalid tokens without end. Not thread-safe.
    """

    def __init__(
        self,
        issuers: Iterable[Issuer],
        named: Callable[[Principal], Awaitable[Principal]] | None = None,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`named`: sets `first` of a principal, as `plinth.identity.owners.Owners.named` does."""
        self._issuers = {issuer.rules.issuer: issuer for issuer in issuers}
        self._named = named
        self._now = now
        self._cache: dict[bytes, tuple[float, VerificationKey, Principal]] = {}

    async def aclose(self) -> None:
        for source in {source for issuer in self._issuers.values() for source in issuer.sources.values()}:
            await source.aclose()

    def with_rules(self, rules: TokenRules) -> "TokenVerifier":
        """A verifier of other tokens of one of the issuers, by the same keys. `aclose` is this one's matter."""
        issuer = Issuer(rules, self._issuers[rules.issuer].sources)
        return TokenVerifier([issuer], self._named, now=self._now)

    def cached(self, token: str) -> Principal | None:
        """The principal of a token that was verified before, if it is still valid."""
        if len(token) > MAX_TOKEN_LENGTH:
            return None
        digest = _digest(token)
        found = self._cache.get(digest)
        if found is None:
            return None
        deadline, key, principal = found
        if key.retired or self._now() >= deadline:
            del self._cache[digest]
            return None
        return principal

    async def verify(self, token: str) -> Principal:
        """Verify a token. Raises TokenError, what `named` raises, or KeysUnavailable if keys cannot be fetched."""
        header, claims, signing_input, signature = _open(token)
        # Not verified yet. It chooses the keys and the rules, which then require it.
        issuer = self._issuer(claims)
        alg, typ, kid = header.get("alg"), header.get("typ", "JWT"), header.get("kid")
        source = issuer.sources.get(alg) if isinstance(alg, str) else None
        if not isinstance(alg, str) or source is None:
            raise TokenError(Reason.WRONG_ALGORITHM)
        if "crit" in header:
            raise TokenError(Reason.CRITICAL_HEADER)
        typ = typ.lower().removeprefix("application/") if isinstance(typ, str) else None
        if typ not in ("jwt", _ACCESS_TOKEN_TYPE):
            raise TokenError(Reason.WRONG_TYPE)
        if kid is not None and not (isinstance(kid, str) and len(kid) <= MAX_KID_LENGTH):
            raise TokenError(Reason.MALFORMED)

        # Of the header only `alg` and `kid` choose the key: `jku`, `jwk`, `x5u` and `x5c` are ignored.
        keys = [key for key in await source.keys(kid, alg) if alg in key.algorithms]
        if not keys:
            raise TokenError(Reason.WRONG_KEY)
        verify = _ALGORITHMS[alg].verify
        key = next((key for key in keys if verify(signing_input, key.material, signature)), None)
        if key is None:
            raise TokenError(Reason.BAD_SIGNATURE)

        now = self._now()
        principal = issuer.rules.admit(claims, typed=typ == _ACCESS_TOKEN_TYPE, now=now)
        if self._named is not None:
            principal = await self._named(principal)
            if principal.first is None:
                return principal  # not cached: the next request asks again
        deadline = min(principal.expires_at + LEEWAY, now + CACHE_SECONDS)
        digest = _digest(token)
        self._cache.pop(digest, None)  # so that it moves to the end: the first one is the oldest
        if len(self._cache) >= MAX_CACHED:
            del self._cache[next(iter(self._cache))]
        self._cache[digest] = (deadline, key, principal)
        return principal

    def _issuer(self, claims: dict[str, Any]) -> Issuer:
        name = claims.get("iss")
        if name is None:
            raise TokenError(Reason.MISSING_CLAIM)
        issuer = self._issuers.get(name) if isinstance(name, str) else None
        if issuer is None:
            raise TokenError(Reason.WRONG_ISSUER)
        return issuer


def _digest(token: str) -> bytes:
    # Instead of the token itself, which would save 0.7 µs: no usable token stays in memory, and an entry takes the same
    # space for a token of any length.
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def _open(token: str) -> tuple[dict[str, Any], dict[str, Any], bytes, bytes]:
    """Split a token into its header, its payload, the signed bytes and the signature.

    PyJWT's own loader checks the base64 alphabet byte by byte in Python: 40 µs for a usual token, 400 for the
    longest, also for invalid ones. For RS256 and HS256 that is more than the signature takes.
    """
    if len(token) > MAX_TOKEN_LENGTH:
        raise TokenError(Reason.OVERSIZED)
    if not _COMPACT_FORM.fullmatch(token):
        raise TokenError(Reason.MALFORMED)
    header, payload, signature = token.split(".")
    return _json_object(header), _json_object(payload), f"{header}.{payload}".encode(), _base64url(signature)


def _base64url(segment: str) -> bytes:
    padded = segment + "=" * (-len(segment) % 4)
    try:
        decoded = urlsafe_b64decode(padded)
    except ValueError:
        raise TokenError(Reason.MALFORMED) from None
    # The last character may have bits that say nothing. A token has one spelling, or each change of it would not count.
    if urlsafe_b64encode(decoded) != padded.encode():
        raise TokenError(Reason.MALFORMED)
    return decoded


def _json_object(segment: str) -> dict[str, Any]:
    try:
        # As text: of bytes the parser would guess the encoding, and RFC 7515 allows UTF-8 alone.
        value = json.loads(_base64url(segment).decode(), object_pairs_hook=_unique)
    except (ValueError, RecursionError):  # thousands of brackets fit into a token
        raise TokenError(Reason.MALFORMED) from None
    if not isinstance(value, dict):
        raise TokenError(Reason.MALFORMED)
    return value


def _unique(members: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make a JSON object. Of a name that is there twice, another parser might take the other value."""
    found = dict(members)
    if len(found) != len(members):
        raise ValueError("a name is there twice")
    return found
