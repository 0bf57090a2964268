"""The caller of a request."""

from dataclasses import dataclass

__all__ = ["Principal"]


@dataclass(frozen=True, slots=True)
class Principal:
    """The caller, as described by a verified token. `expires_at` is in Unix seconds."""

    subject: str
    issuer: str
    scopes: frozenset[str]
    roles: frozenset[str]
    expires_at: int
