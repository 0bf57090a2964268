"""Any OpenID Connect issuer (AUTH_PROVIDER=custom): the rules for its access tokens."""

from functools import partial

from plinth.identity.rules import Claims, TokenRules, common_roles, strings
from plinth.settings import PlatformSettings

__all__ = ["token_rules"]


def token_rules(settings: PlatformSettings) -> TokenRules:
    """The rules for tokens of OIDC_ISSUER for OIDC_AUDIENCE."""
    return TokenRules(
        issuer=settings.issuer,
        # Separates tokens for this API from those for other clients of the issuer. TokenRules refuses "".
        audience=settings.OIDC_AUDIENCE or "",
        roles=partial(_roles, settings.OIDC_AUDIENCE or ""),
    )


def _roles(audience: str, claims: Claims) -> frozenset[str]:
    roles = common_roles(claims) | strings(claims.get("permissions")) | strings(claims.get("cognito:groups"))  # Auth0
    # Keycloak: the roles of the realm, and of this client. Those of other clients mean something there.
    clients = claims.get("resource_access")
    for access in (claims.get("realm_access"), clients.get(audience) if isinstance(clients, dict) else None):
        if isinstance(access, dict):
            roles |= strings(access.get("roles"))
    return roles
