"""The caller, as the token describes it."""

from datetime import UTC, datetime

from fastapi import APIRouter

from plinth.api.dependencies import PrincipalDep
from plinth.api.schemas import Me
from plinth.http.problems import problems

router = APIRouter(prefix="/me", tags=["me"])


@router.get("", responses=problems(401, 429, 503))
async def read_me(principal: PrincipalDep) -> Me:
    """The caller: subject, scopes and roles of the token."""
    return Me(
        subject=principal.subject,
        issuer=principal.issuer,
        scopes=sorted(principal.scopes),
        roles=sorted(principal.roles),
        expires_at=datetime.fromtimestamp(principal.expires_at, UTC),
    )
