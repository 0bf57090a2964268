"""Any OpenID Connect issuer (AUTH_PROVIDER=custom): the rules for its access tokens."""

from plinth.identity.rules import Claims, TokenRules, common_roles, strings
from plinth.settings import PlatformSettings

__all__ = ["token_rules"]


def token_rules(settings: PlatformSettings) -> TokenRules:
    """The rules for tokens of OIDC_ISSUER for OIDC_AUDIENCE."""
    return TokenRules(
        issuer=settings.issuer,
        algorithms=frozenset(settings.jwt_algorithms),
        # Separates tokens for this API from those for other clients of the issuer. TokenRules refuses "".
        audience=settings.OIDC_AUDIENCE or "",
        roles=_roles,
    )


def _roles(claims: Claims) -> frozenset[str]:
    realm = claims.get("realm_access")  # Keycloak
    roles = strings(realm.get("roles")) if isinstance(realm, dict) else frozenset()
    return common_roles(claims) | roles
