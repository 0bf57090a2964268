"""Names callers as the owners of rows, by issuer and subject in one text.

Release 0.1.0 knew one issuer and wrote the subject alone. The table `first_issuer` keeps which one that was, from the
settings of the migration that made it. The owners of that issuer are their subjects for ever, so that its rows keep
their owners, and pods of both releases find each other's rows in a roll-out. Owners of other issuers carry the issuer,
so that no release finds them by a subject.
"""

from dataclasses import replace

from sqlalchemy import Text
from sqlmodel import Field

from plinth.database.engine import Database, DatabaseUnavailableError
from plinth.database.tables import PlatformTable
from plinth.identity.principal import Principal

__all__ = ["Owners"]


class FirstIssuer(PlatformTable, table=True):
    """The issuer that rows with a subject alone belong to: one row."""

    __tablename__ = "first_issuer"

    issuer: str = Field(primary_key=True, sa_type=Text)


class Owners:
    """Tells callers of the first issuer from others. Asks the database which one it is when the first caller comes."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._first: str | None = None

    async def named(self, principal: Principal) -> Principal:
        """Return the principal with `first`, from which its `owner` follows."""
        if self._first is None:
            try:
                async with self._database.connection() as connection:
                    # Without a row, as in tables that no migration made, every owner carries its issuer.
                    self._first = await connection.fetchval("SELECT issuer FROM first_issuer") or ""
            except DatabaseUnavailableError:
                return replace(principal, first=None)
        return replace(principal, first=principal.issuer == self._first)
