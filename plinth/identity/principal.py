"""The caller of a request."""

from dataclasses import dataclass
from hashlib import blake2b

from plinth.errors import ServiceUnavailableError

__all__ = ["MAX_OWNER_LENGTH", "Principal"]

MAX_OWNER_LENGTH = 255  # characters; the width of the columns


@dataclass(frozen=True, slots=True)
class Principal:
    """The caller, as described by a verified token. `expires_at` is in Unix seconds.

    `first`: whether it is a caller of the first issuer, see `plinth.identity.owners`. None: the database, which knows,
    is away.
    """

    subject: str
    issuer: str
    scopes: frozenset[str]
    roles: frozenset[str]
    expires_at: int
    first: bool | None = False

    @property
    def owner(self) -> str:
        """The name of the caller in rows. It stands for issuer and subject: no two callers share one.

        Raises:
            ServiceUnavailableError: the database is away, and with it what `first` is.
        """
        if self.first is None:
            raise ServiceUnavailableError(code="database_unavailable")
        return self.key

    @property
    def key(self) -> str:
        """The name of the caller in limits and log lines: its `owner`, or what that would be for another issuer."""
        if self.first:
            return self.subject
        # A subject is printable and a tab is not, so no subject is taken for this. What begins with a tab is a digest.
        name = f"{self.subject}\t{self.issuer}"
        if len(name) <= MAX_OWNER_LENGTH:
            return name
        return "\t" + blake2b(name.encode(), digest_size=32).hexdigest()
