"""Supabase Auth: the rules for its access tokens."""

from plinth.identity.errors import Reason, TokenError
from plinth.identity.rules import Claims, TokenRules, common_roles
from plinth.settings import PlatformSettings

__all__ = ["token_rules"]


def token_rules(_settings: PlatformSettings, issuer: str) -> TokenRules:
    """The rules for tokens of the project at SUPABASE_URL."""
    return TokenRules(
        issuer=issuer,
        audiences=frozenset({"authenticated"}),
        check=_check_user,
        roles=_roles,
    )


def _check_user(claims: Claims) -> None:
    # The project's `anon` and `service_role` keys are tokens too, signed like any other and valid for ten years.
    if claims.get("role") != "authenticated":
        raise TokenError(Reason.WRONG_ROLE)


def _roles(claims: Claims) -> frozenset[str]:
    # Only the project can write `app_metadata`. Never read `user_metadata`: users write it themselves.
    metadata = claims.get("app_metadata")
    roles = common_roles(metadata) if isinstance(metadata, dict) else frozenset()
    # A project may allow anonymous sign-ins. They are users with data of their own, so they are accepted, with a role
    # by which an endpoint can refuse them.
    return roles | {"anonymous"} if claims.get("is_anonymous") is True else roles
