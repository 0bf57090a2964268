"""Names callers as the owners of rows, by issuer and subject in one text.

Release 0.1.0 knew one issuer and wrote the subject alone. The table `first_issuer` keeps which one that was, from the
settings of the migration that made it. The owners of that issuer are their subjects for ever, so that its rows keep
their owners, and pods of both releases find each other's rows in a roll-out. Owners of other issuers carry the issuer,
so that no release finds them by a subject.
"""

from dataclasses import replace

from sqlalchemy import Text
from sqlmodel import Field

from plinth.database.engine import Database
from plinth.database.tables import PlatformTable
from plinth.identity.principal import Principal

__all__ = ["Owners"]


class FirstIssuer(PlatformTable, table=True):
    """The issuer that rows with a subject alone belong to: one row."""

    __tablename__ = "first_issuer"

    issuer: str = Field(primary_key=True, sa_type=Text)


class Owners:
    """Gives callers their `owner`. Reads the first issuer once, when the first caller comes."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._first: str | None = None

    async def named(self, principal: Principal) -> Principal:
        """Return the principal with its `owner`.

        Raises:
            DatabaseUnavailableError: the first issuer was not read yet, and the database is away.
        """
        if self._first is None:
            async with self._database.connection() as connection:
                # Without a row, as in tables that no migration made, every owner carries its issuer.
                self._first = await connection.fetchval("SELECT issuer FROM first_issuer") or ""
        return replace(principal, owner=principal.subject) if principal.issuer == self._first else principal
