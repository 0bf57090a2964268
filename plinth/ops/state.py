"""What the pages of /ops share while the application runs: `state_of(request)`."""

from typing import cast

from starlette.requests import Request

from plinth.ops.code_flow import CodeFlow
from plinth.ops.cookies import SealedCookie
from plinth.settings import PlatformSettings

__all__ = ["OpsState", "state_of"]


class OpsState:
    """The cookies, and the sign-in at the identity provider; `code_flow` is None where a token is typed in instead."""

    def __init__(self, settings: PlatformSettings, code_flow: CodeFlow | None) -> None:
        self.session_cookie = SealedCookie(settings, "ops-session")
        self.attempt_cookie = SealedCookie(settings, "ops-sign-in")
        self.code_flow = code_flow


def state_of(request: Request) -> OpsState:
    """The state that the router's lifespan made."""
    return cast(OpsState, request.scope["state"]["ops"])
