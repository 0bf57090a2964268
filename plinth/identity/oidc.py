"""Any OpenID Connect issuer (AUTH_PROVIDER=custom): the rules for its access tokens."""

from functools import partial

from plinth.identity.rules import Claims, TokenRules, common_roles, strings
from plinth.settings import PlatformSettings

__all__ = ["token_rules"]


def token_rules(settings: PlatformSettings, issuer: str) -> TokenRules:
    """The rules for tokens of one of OIDC_ISSUER for one of OIDC_AUDIENCE."""
    audiences = frozenset(settings.OIDC_AUDIENCE)
    return TokenRules(
        issuer=issuer,
        # Separates tokens for this API from those for other clients of the issuer. TokenRules refuses an empty set.
        audiences=audiences,
        only_typed=settings.OIDC_REQUIRE_AT_JWT,
        roles=partial(_roles, audiences),
    )


def _roles(audiences: frozenset[str], claims: Claims) -> frozenset[str]:
    roles = common_roles(claims) | strings(claims.get("permissions")) | strings(claims.get("cognito:groups"))  # Auth0
    # Keycloak: the roles of the realm, and of this client. Those of other clients mean something there.
    clients = claims.get("resource_access")
    own = audiences & strings(claims.get("aud"))
    of_client = [clients.get(name) for name in own] if isinstance(clients, dict) else []
    for access in (claims.get("realm_access"), *of_client):
        if isinstance(access, dict):
            roles |= strings(access.get("roles"))
    return roles
