"""Any OpenID Connect issuer (AUTH_PROVIDER=custom): the rules for its access tokens, and for ID tokens of /ops."""

from functools import partial

from plinth.identity.errors import Reason, TokenError
from plinth.identity.rules import Claims, TokenRules, common_roles, strings
from plinth.settings import PlatformSettings

__all__ = ["id_token_rules", "token_rules"]


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


def id_token_rules(issuer: str, client_id: str, nonce: str) -> TokenRules:
    """The rules for the ID token of one sign-in: for this client, with the nonce of its request."""
    audiences = frozenset({client_id})
    return TokenRules(
        issuer=issuer,
        audiences=audiences,
        id_token=True,
        check=partial(_check_sign_in, client_id, nonce),
        roles=partial(_roles, audiences),
    )


def _check_sign_in(client_id: str, nonce: str, claims: Claims) -> None:
    # OpenID Connect Core 1.0, 3.1.3.7: a token for several clients says by `azp` which of them asked for it.
    party = claims.get("azp", client_id if strings(claims.get("aud")) == {client_id} else None)
    if party != client_id:
        raise TokenError(Reason.WRONG_PARTY)
    if claims.get("nonce") != nonce:
        raise TokenError(Reason.WRONG_NONCE)


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
