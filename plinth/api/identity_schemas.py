"""Bodies about who is calling."""

from datetime import datetime

from plinth.http.schemas import ReadModel

__all__ = ["Me"]


class Me(ReadModel):
    subject: str
    issuer: str
    scopes: list[str]
    roles: list[str]
    expires_at: datetime
