"""The rules of each identity provider: what its access tokens say, and where they say it."""

from plinth.identity.local import LOCAL_ALGORITHM, LOCAL_AUDIENCE
from plinth.identity.rules import Claims, Reason, TokenError, TokenRules, common_roles, strings
from plinth.settings import AuthProvider, PlatformSettings


def rules_for(settings: PlatformSettings) -> TokenRules:
    """The rules of the configured provider."""
    match settings.AUTH_PROVIDER:
        case AuthProvider.SUPABASE:
            return _supabase(settings)
        case AuthProvider.CLERK:
            return _clerk(settings)
        case AuthProvider.CUSTOM:
            return _oidc(settings)
        case AuthProvider.LOCAL:
            return TokenRules(issuer=settings.issuer, algorithms=frozenset({LOCAL_ALGORITHM}), audience=LOCAL_AUDIENCE)


def _supabase(settings: PlatformSettings) -> TokenRules:
    return TokenRules(
        issuer=settings.issuer,
        algorithms=frozenset(settings.jwt_algorithms),
        audience="authenticated",
        check=_is_supabase_user,
        roles=_supabase_roles,
    )


def _is_supabase_user(claims: Claims) -> None:
    # The project's `anon` and `service_role` keys are tokens too, signed like any other, good for ten years.
    if claims.get("role") != "authenticated":
        raise TokenError(Reason.WRONG_ROLE)


def _supabase_roles(claims: Claims) -> frozenset[str]:
    # `app_metadata` only the project can write. Never `user_metadata`: users write that themselves.
    metadata = claims.get("app_metadata")
    roles = common_roles(metadata) if isinstance(metadata, dict) else frozenset()
    # A project may let people in without an account. They are users with data of their own, so they pass,
    # under a role by which an endpoint can turn them away.
    return roles | {"anonymous"} if claims.get("is_anonymous") is True else roles


def _clerk(settings: PlatformSettings) -> TokenRules:
    # `azp` is the origin that asked Clerk for the token. Clerk leaves it out where there was no origin, as in
    # native apps; its older libraries let such tokens pass, its newer ones refuse them once there is a list.
    # So do we: the list says who may call, and who does not say who it is, is not on it. Empty, it lets
    # nobody in.
    return TokenRules(
        issuer=settings.issuer,
        algorithms=frozenset(settings.jwt_algorithms),
        authorized_parties=frozenset(settings.CLERK_AUTHORIZED_PARTIES),
        check=_is_active_clerk_session,
        roles=_clerk_roles,
    )


def _is_active_clerk_session(claims: Claims) -> None:
    # "pending": signed in, with a task left such as a second factor or the choice of an organization.
    if claims.get("sts", "active") != "active":
        raise TokenError(Reason.PENDING_SESSION)


def _clerk_roles(claims: Claims) -> frozenset[str]:
    # Version 1 says `org_role: "org:admin"`, version 2 `o: {"rol": "admin"}`.
    organization = claims.get("o")
    short = strings(organization.get("rol")) if isinstance(organization, dict) else frozenset()
    return strings(claims.get("org_role")) | {f"org:{role}" for role in short}


def _oidc(settings: PlatformSettings) -> TokenRules:
    return TokenRules(
        issuer=settings.issuer,
        algorithms=frozenset(settings.jwt_algorithms),
        # It tells a token for this API from those for all the issuer's other clients; TokenRules refuses "".
        audience=settings.OIDC_AUDIENCE or "",
        roles=_oidc_roles,
    )


def _oidc_roles(claims: Claims) -> frozenset[str]:
    realm = claims.get("realm_access")  # Keycloak
    roles = strings(realm.get("roles")) if isinstance(realm, dict) else frozenset()
    return common_roles(claims) | roles
