"""Bodies about who is calling."""

from datetime import datetime

from app.schemas.common import ReadModel

__all__ = ["Me"]


class Me(ReadModel):
    subject: str
    issuer: str
    scopes: list[str]
    roles: list[str]
    expires_at: datetime
