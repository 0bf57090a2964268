"""Verifies bearer tokens: signature, claims and rules."""

import hashlib
import json
import re
import time
from base64 import urlsafe_b64decode
from collections.abc import Callable
from typing import Any

import jwt

from plinth.identity.rules import (
    MAX_KID_LENGTH,
    MAX_TOKEN_LENGTH,
    KeySource,
    Principal,
    Reason,
    TokenError,
    TokenRules,
    VerificationKey,
)

# A verdict outlives neither its token nor this many seconds. The second bound brings the verifier back to its
# key source now and then, which is how it learns that a key was withdrawn.
VERDICT_LIFE = 60


MAX_VERDICTS = 4096


_COMPACT_FORM = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*")


_ACCESS_TOKEN_TYPE = "at+jwt"  # noqa: S105


class TokenVerifier:
    """Turns a bearer token into a Principal, and remembers the verdict.

    `verifier.cached(token) or await verifier.verify(token)` is how to call it: the first half costs 1.6 µs.
    Only good verdicts are kept, since a stranger can make bad tokens without end. Not thread-safe.
    """

    def __init__(self, rules: TokenRules, keys: KeySource, *, now: Callable[[], float] = time.time) -> None:
        self._rules = rules
        self._keys = keys
        self._now = now
        self._algorithms = {name: jwt.get_algorithm_by_name(name) for name in rules.algorithms}
        self._verdicts: dict[bytes, tuple[float, VerificationKey, Principal]] = {}

    async def aclose(self) -> None:
        await self._keys.aclose()

    def cached(self, token: str) -> Principal | None:
        """The verdict reached before on this very token, if it still holds."""
        if len(token) > MAX_TOKEN_LENGTH:
            return None
        digest = _digest(token)
        verdict = self._verdicts.get(digest)
        if verdict is None:
            return None
        deadline, key, principal = verdict
        if key.retired or self._now() >= deadline:
            del self._verdicts[digest]
            return None
        return principal

    async def verify(self, token: str) -> Principal:
        """Check everything. Raises TokenError, or KeysUnavailable when the issuer's keys cannot be had."""
        header, payload, signing_input, signature = _open(token)
        alg, typ, kid = header.get("alg"), header.get("typ", "JWT"), header.get("kid")
        if not isinstance(alg, str) or alg not in self._rules.algorithms:
            raise TokenError(Reason.WRONG_ALGORITHM)
        if "crit" in header:
            raise TokenError(Reason.CRITICAL_HEADER)
        typ = typ.lower().removeprefix("application/") if isinstance(typ, str) else None
        if typ not in ("jwt", _ACCESS_TOKEN_TYPE):
            raise TokenError(Reason.WRONG_TYPE)
        if kid is not None and not (isinstance(kid, str) and len(kid) <= MAX_KID_LENGTH):
            raise TokenError(Reason.MALFORMED)

        # `kid` is the header's only say in which key it is: `jku`, `jwk`, `x5u` and `x5c` go unread.
        key = await self._keys.key(kid, alg)
        if alg not in key.algorithms:
            raise TokenError(Reason.WRONG_KEY)
        if not self._algorithms[alg].verify(signing_input, key.material, signature):
            raise TokenError(Reason.BAD_SIGNATURE)

        now = self._now()
        principal = self._rules.admit(_json_object(payload), typed=typ == _ACCESS_TOKEN_TYPE, now=now)
        deadline = min(principal.expires_at + self._rules.leeway, now + VERDICT_LIFE)
        self._remember(token, deadline, key, principal)
        return principal

    def _remember(self, token: str, deadline: float, key: VerificationKey, principal: Principal) -> None:
        digest = _digest(token)
        self._verdicts.pop(digest, None)  # so that it goes to the end: the first one is the oldest
        if len(self._verdicts) >= MAX_VERDICTS:
            del self._verdicts[next(iter(self._verdicts))]
        self._verdicts[digest] = (deadline, key, principal)


def _digest(token: str) -> bytes:
    # The token itself would do as the key and save 0.7 µs. This way no usable token stays in memory for a
    # dump to show, and a verdict takes the same space whatever the token's length.
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def _open(token: str) -> tuple[dict[str, Any], str, bytes, bytes]:
    """Take a token apart: header, payload (not yet read), what was signed, signature.

    PyJWT's own loader checks the base64 alphabet byte by byte in Python: 40 µs for a usual token, 400 for the
    longest, spent on any garbage and, for RS256 and HS256, more than the signature takes.
    """
    if len(token) > MAX_TOKEN_LENGTH:
        raise TokenError(Reason.OVERSIZED)
    if not _COMPACT_FORM.fullmatch(token):
        raise TokenError(Reason.MALFORMED)
    header, payload, signature = token.split(".")
    return _json_object(header), payload, f"{header}.{payload}".encode(), _base64url(signature)


def _base64url(segment: str) -> bytes:
    try:
        return urlsafe_b64decode(segment + "=" * (-len(segment) % 4))
    except ValueError:
        raise TokenError(Reason.MALFORMED) from None


def _json_object(segment: str) -> dict[str, Any]:
    try:
        value = json.loads(_base64url(segment))
    except (ValueError, RecursionError):  # thousands of brackets fit into a token
        raise TokenError(Reason.MALFORMED) from None
    if not isinstance(value, dict):
        raise TokenError(Reason.MALFORMED)
    return value
