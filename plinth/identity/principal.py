"""The caller of a request."""

from dataclasses import dataclass
from hashlib import blake2b

__all__ = ["MAX_OWNER_LENGTH", "Principal"]

MAX_OWNER_LENGTH = 255  # characters; the width of the columns


@dataclass(frozen=True, slots=True)
class Principal:
    """The caller, as described by a verified token. `expires_at` is in Unix seconds.

    `owner` names the caller in rows, keys and limits. It stands for issuer and subject, so no two callers share one: of
    two issuers each may have given the same subject. See `plinth.identity.owners`.
    """

    subject: str
    issuer: str
    scopes: frozenset[str]
    roles: frozenset[str]
    expires_at: int
    owner: str = ""

    def __post_init__(self) -> None:
        if not self.owner:
            object.__setattr__(self, "owner", _qualified(self.subject, self.issuer))


def _qualified(subject: str, issuer: str) -> str:
    # A subject is printable and a tab is not, so no subject is taken for this. One that begins with a tab is a digest.
    name = f"{subject}\t{issuer}"
    if len(name) <= MAX_OWNER_LENGTH:
        return name
    return "\t" + blake2b(name.encode(), digest_size=32).hexdigest()
