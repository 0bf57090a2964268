"""Reads a JSON Web Key Set (RFC 7517): the keys in it, and the algorithms each may verify."""

from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt import PyJWTError
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from plinth.identity.keys import VerificationKey, algorithms_of

MAX_KEYS = 64
RSA_BITS = range(2048, 8192 + 1)  # below is weak, above is slow enough for a denial of service

# A key with one of these members is private or symmetric: published, it protects nothing.
_SECRET_MEMBERS = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})

_READERS: dict[object, Any] = {"RSA": RSAAlgorithm, "EC": ECAlgorithm, "OKP": OKPAlgorithm}


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
    kty, alg = member.get("kty"), member.get("alg")
    if not isinstance(kty, str) or not isinstance(member.get("kid"), str | None) or not _is_public_signing_key(member):
        return None
    try:
        material = _READERS[kty].from_jwk(member)
    except (KeyError, PyJWTError, ValueError, TypeError, UnsupportedAlgorithm):
        return None
    if isinstance(material, RSAPublicKey) and material.key_size not in RSA_BITS:
        return None
    algorithms = frozenset(name for name in algorithms_of(material) & allowed if alg in (None, name))
    return VerificationKey(material, algorithms) if algorithms else None


def _is_public_signing_key(member: dict[str, Any]) -> bool:
    operations = member.get("key_ops", ["verify"])
    return (
        _SECRET_MEMBERS.isdisjoint(member)
        and member.get("use", "sig") == "sig"
        and isinstance(operations, list)
        and "verify" in operations
        and not (member.get("kty") == "RSA" and "crv" in member)  # of two types at once
    )
