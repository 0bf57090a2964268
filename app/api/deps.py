"""What the endpoints of this service take, beside `plinth.api.dependencies`.

Dependencies are coroutines: FastAPI sends a plain function to a thread.
"""

from typing import Annotated, cast

from fastapi import Depends, Request
from sqlmodel.ext.asyncio.session import AsyncSession

from app.core.config import Settings
from app.core.db import get_session
from plinth.api.dependencies import state_of

__all__ = ["SessionDep", "settings_of"]

# "function": committed before the response is sent. See `app.core.db.get_session`.
SessionDep = Annotated[AsyncSession, Depends(get_session, scope="function")]


def settings_of(request: Request) -> Settings:
    """The settings of the application that serves this request."""
    return cast(Settings, state_of(request)["settings"])
