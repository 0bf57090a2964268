"""Reads a JSON Web Key Set (RFC 7517): the keys in it, and the algorithms each may verify."""

from typing import Any

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from plinth.identity.keys import VerificationKey

MAX_KEYS = 64
RSA_BITS = range(2048, 8192 + 1)  # below is weak, above is slow enough for a denial of service

# A key with one of these members is private or symmetric: published, it protects nothing.
_SECRET_MEMBERS = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})

_ALGORITHMS_OF = {
    ("RSA", None): frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}),
    ("EC", "P-256"): frozenset({"ES256"}),
    ("EC", "P-384"): frozenset({"ES384"}),
    ("EC", "P-521"): frozenset({"ES512"}),
    ("OKP", "Ed25519"): frozenset({"EdDSA"}),
}


def read_key_set(document: dict[str, Any], allowed: frozenset[str]) -> dict[str | None, VerificationKey]:
    """Of the first MAX_KEYS keys, those that may verify one of the `allowed` algorithms, by their `kid`.

    Other keys are ignored, as RFC 7517 requires: issuers may publish keys of unknown kinds.
    """
    members = document.get("keys")
    keys: dict[str | None, VerificationKey] = {}
    for member in members[:MAX_KEYS] if isinstance(members, list) else ():
        key = _read_key(member, allowed) if isinstance(member, dict) else None
        if key is not None:
            keys.setdefault(member.get("kid"), key)
    return keys


def _read_key(member: dict[str, Any], allowed: frozenset[str]) -> VerificationKey | None:
    algorithms = _algorithms(member) & allowed
    if not algorithms or not _is_public_signing_key(member) or not isinstance(member.get("kid"), str | None):
        return None
    try:
        material = jwt.PyJWK(member, min(algorithms)).key
    except (jwt.PyJWTError, ValueError, TypeError, UnsupportedAlgorithm):
        return None
    if isinstance(material, RSAPublicKey) and material.key_size not in RSA_BITS:
        return None
    return VerificationKey(material, algorithms)


def _algorithms(member: dict[str, Any]) -> frozenset[str]:
    kty, crv, alg = member.get("kty"), member.get("crv"), member.get("alg")
    if not isinstance(kty, str) or not isinstance(crv, str | None):
        return frozenset()
    possible = _ALGORITHMS_OF.get((kty, crv), frozenset())
    return possible if alg is None else frozenset(name for name in possible if name == alg)


def _is_public_signing_key(member: dict[str, Any]) -> bool:
    operations = member.get("key_ops", ["verify"])
    return (
        _SECRET_MEMBERS.isdisjoint(member)
        and member.get("use", "sig") == "sig"
        and isinstance(operations, list)
        and "verify" in operations
    )
