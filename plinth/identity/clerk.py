"""Clerk: the rules for its session tokens."""

from plinth.identity.errors import Reason, TokenError
from plinth.identity.rules import Claims, TokenRules, strings
from plinth.settings import PlatformSettings

__all__ = ["token_rules"]


def token_rules(settings: PlatformSettings, issuer: str) -> TokenRules:
    """The rules for tokens of CLERK_ISSUER that were issued to one of CLERK_AUTHORIZED_PARTIES."""
    # `azp` is the origin that requested the token. Clerk leaves it out where there was no origin, as in native apps.
    # Clerk's older libraries accept such tokens, its newer ones refuse them once there is a list, and so does this.
    # An empty list accepts no token.
    return TokenRules(
        issuer=issuer,
        # Clerk's tokens have an `aud` only where it was added to them in the dashboard.
        audiences=frozenset(settings.CLERK_AUDIENCE) or None,
        authorized_parties=frozenset(settings.CLERK_AUTHORIZED_PARTIES),
        check=_check_session,
        roles=_roles,
    )


def _check_session(claims: Claims) -> None:
    # "pending": signed in, with a task left such as a second factor or the choice of an organization.
    if claims.get("sts", "active") != "active":
        raise TokenError(Reason.PENDING_SESSION)


def _roles(claims: Claims) -> frozenset[str]:
    # Version 1 has `org_role: "org:admin"`, version 2 `o: {"rol": "admin"}`.
    organization = claims.get("o")
    short = strings(organization.get("rol")) if isinstance(organization, dict) else frozenset()
    return strings(claims.get("org_role")) | {f"org:{role}" for role in short}
