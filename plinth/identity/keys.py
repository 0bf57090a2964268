"""Verification keys and where they come from."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

__all__ = ["FixedKey", "KeySource", "VerificationKey"]


@dataclass(slots=True, eq=False)
class VerificationKey:
    """A key in the form that PyJWT takes, and the algorithms it may verify.

    Its source sets `retired` when the issuer withdraws the key; principals verified with it are then forgotten.
    """

    material: Any = field(repr=False)
    algorithms: frozenset[str]
    retired: bool = False


class KeySource(Protocol):
    """Finds the key that a token names."""

    async def key(self, kid: str | None, alg: str) -> VerificationKey:
        """Find a key. Raises TokenError (unknown_kid) or KeysUnavailable."""

    async def aclose(self) -> None: ...


class FixedKey:
    """The key source of an issuer with one shared secret. The `kid` of a token is ignored."""

    def __init__(self, secret: bytes, algorithms: Iterable[str]) -> None:
        self._key = VerificationKey(secret, frozenset(algorithms))

    async def key(self, kid: str | None, alg: str) -> VerificationKey:
        return self._key

    async def aclose(self) -> None:
        pass
