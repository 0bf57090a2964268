"""The settings of identity: the provider of tokens, and what roles and scopes permit."""

from collections.abc import Iterator
from enum import StrEnum

from pydantic import Field

from plinth.settings import types
from plinth.settings.general import GeneralSettings
from plinth.settings.secret_strength import weakness_of_any

__all__ = ["AuthProvider", "IdentitySettings"]

LOCAL_ISSUER = "plinth-local"


class AuthProvider(StrEnum):
    """What issues the tokens."""

    SUPABASE = "supabase"
    CLERK = "clerk"
    CUSTOM = "custom"
    LOCAL = "local"


_REQUIRED = {
    AuthProvider.SUPABASE: ("SUPABASE_URL",),
    AuthProvider.CLERK: ("CLERK_ISSUER", "CLERK_AUTHORIZED_PARTIES"),
    AuthProvider.CUSTOM: ("OIDC_ISSUER", "OIDC_AUDIENCE"),
    AuthProvider.LOCAL: (),
}


class IdentitySettings(GeneralSettings):
    """The provider, and what each provider needs."""

    AUTH_PROVIDER: AuthProvider = AuthProvider.LOCAL
    SUPABASE_URL: types.BaseUrl | None = None
    SUPABASE_JWT_SECRET: types.HmacSecrets | None = None
    CLERK_ISSUER: types.BaseUrl | None = None
    CLERK_AUTHORIZED_PARTIES: types.Origins = ()
    CLERK_AUDIENCE: types.Texts = ()
    OIDC_ISSUER: types.Urls = ()
    OIDC_AUDIENCE: types.Texts = ()
    OIDC_JWKS_URL: types.Urls = ()
    OIDC_ALGORITHMS: types.Algorithms = ("RS256",)
    OIDC_REQUIRE_AT_JWT: bool = False
    TOKEN_MAX_LIFETIME: int | None = Field(None, ge=1)

    PERMISSIONS: types.Permissions = ()
    OPERATOR_ROLE: str | None = None
    OPERATOR_SCOPE: str | None = None

    @property
    def issuers(self) -> tuple[str, ...]:
        """The values of which `iss` must have one in a token."""
        match self.AUTH_PROVIDER:
            case AuthProvider.SUPABASE:
                return (f"{self.SUPABASE_URL}/auth/v1",)
            case AuthProvider.CLERK:
                return (str(self.CLERK_ISSUER),)
            case AuthProvider.CUSTOM:
                return self.OIDC_ISSUER
            case AuthProvider.LOCAL:
                return (LOCAL_ISSUER,)

    @property
    def jwks_urls(self) -> tuple[str, ...]:
        """The URL of the keys of each issuer. Empty: there is none (local), or discovery finds them (custom)."""
        match self.AUTH_PROVIDER:
            case AuthProvider.SUPABASE | AuthProvider.CLERK:
                return tuple(f"{issuer}/.well-known/jwks.json" for issuer in self.issuers)
            case AuthProvider.CUSTOM:
                return self.OIDC_JWKS_URL
            case AuthProvider.LOCAL:
                return ()

    @property
    def jwt_algorithms(self) -> tuple[str, ...]:
        """The algorithms to accept. Each has keys of its own type, so a public key never passes for a secret."""
        match self.AUTH_PROVIDER:
            case AuthProvider.SUPABASE:
                return ("ES256", "RS256", "EdDSA", *(("HS256",) if self.SUPABASE_JWT_SECRET else ()))
            case AuthProvider.CLERK:
                return ("RS256",)
            case AuthProvider.CUSTOM:
                return self.OIDC_ALGORITHMS
            case AuthProvider.LOCAL:
                return ("HS256",)

    def known_keys(self) -> Iterator[tuple[str, str]]:
        yield from super().known_keys()
        secret = self.SUPABASE_JWT_SECRET
        if secret is not None and (problem := weakness_of_any(secret)):
            yield "SUPABASE_JWT_SECRET", problem

    def broken_rules(self) -> Iterator[tuple[str, str]]:
        yield from super().broken_rules()
        for name in _REQUIRED[self.AUTH_PROVIDER]:
            if not getattr(self, name):
                yield name, f"expected a value, because AUTH_PROVIDER is {self.AUTH_PROVIDER}"
        if len(set(self.OIDC_ISSUER)) < len(self.OIDC_ISSUER):
            yield "OIDC_ISSUER", "expected each issuer once"
        if self.OIDC_ISSUER and len(self.OIDC_JWKS_URL) not in (0, len(self.OIDC_ISSUER)):
            yield "OIDC_JWKS_URL", "expected none, or one for each of OIDC_ISSUER in the same order"
        yield from self.insecure_urls("SUPABASE_URL", "CLERK_ISSUER", "OIDC_ISSUER", "OIDC_JWKS_URL")

    def unfit_for_deployment(self) -> Iterator[tuple[str, str]]:
        yield from super().unfit_for_deployment()
        if self.AUTH_PROVIDER is AuthProvider.LOCAL:
            yield "AUTH_PROVIDER", "expected supabase, clerk or custom: local is for ENVIRONMENT local and test"
