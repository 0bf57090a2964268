"""Verification keys and where they come from."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

__all__ = ["ALGORITHMS", "KeySource", "SecretKeys", "VerificationKey", "algorithms_of"]

_HMAC = frozenset({"HS256", "HS384", "HS512"})
_RSA = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
_CURVES = {"secp256r1": frozenset({"ES256"}), "secp384r1": frozenset({"ES384"}), "secp521r1": frozenset({"ES512"})}
_ED25519 = frozenset({"EdDSA"})
ALGORITHMS = _HMAC.union(_RSA, _ED25519, *_CURVES.values())


def algorithms_of(material: object) -> frozenset[str]:
    """The algorithms that a key of this type is for: no two types share one."""
    match material:
        case bytes():
            return _HMAC
        case RSAPublicKey():
            return _RSA
        case EllipticCurvePublicKey():
            return _CURVES.get(material.curve.name, frozenset())
        case Ed25519PublicKey():
            return _ED25519
        case _:
            return frozenset()


@dataclass(slots=True, eq=False)
class VerificationKey:
    """A key in the form that PyJWT takes, and the algorithms it may verify.

    Raises ValueError for algorithms that are not of the key's type: the token chooses one, and a public key would
    pass for a secret. Its source sets `retired` when the issuer withdraws the key; principals verified with
    it are then forgotten.
    """

    material: Any = field(repr=False)
    algorithms: frozenset[str]
    retired: bool = False

    def __post_init__(self) -> None:
        if not self.algorithms or not self.algorithms <= algorithms_of(self.material):
            raise ValueError("the algorithms are not for this type of key")


class KeySource(Protocol):
    """Finds the keys that a token may be signed with."""

    async def keys(self, kid: str | None, alg: str) -> Sequence[VerificationKey]:
        """Find one key or more. Raises TokenError (unknown_kid) or KeysUnavailable."""

    async def aclose(self) -> None: ...


class SecretKeys:
    """The key source of shared secrets, each of which verifies HS256. The `kid` of a token is ignored."""

    def __init__(self, secrets: Iterable[bytes]) -> None:
        self._keys = tuple(VerificationKey(secret, frozenset({"HS256"})) for secret in secrets)

    async def keys(self, kid: str | None, alg: str) -> Sequence[VerificationKey]:
        return self._keys

    async def aclose(self) -> None:
        pass
