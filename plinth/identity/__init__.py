"""Identity: which bearer tokens are accepted, by which rules and with which keys.

Each provider has a file: `supabase`, `clerk`, `oidc` (any OpenID Connect issuer) and `local` (for development).
"""

from collections.abc import Callable

from plinth.identity import clerk, local, oidc, supabase
from plinth.identity.keys import FixedKey, KeySource
from plinth.identity.local import sign_local_token
from plinth.identity.rules import TokenRules
from plinth.identity.verifier import TokenVerifier
from plinth.settings import AuthProvider, PlatformSettings

__all__ = ["build_verifier", "rules_for", "sign_local_token"]

_RULES: dict[AuthProvider, Callable[[PlatformSettings], TokenRules]] = {
    AuthProvider.SUPABASE: supabase.token_rules,
    AuthProvider.CLERK: clerk.token_rules,
    AuthProvider.CUSTOM: oidc.token_rules,
    AuthProvider.LOCAL: local.token_rules,
}


def build_verifier(settings: PlatformSettings) -> TokenVerifier:
    """Make the verifier for the configured provider. Its keys are fetched when the first token comes."""
    rules = rules_for(settings)
    return TokenVerifier(rules, _key_source(settings, rules.algorithms))


def rules_for(settings: PlatformSettings) -> TokenRules:
    """The rules of the configured provider."""
    return _RULES[settings.AUTH_PROVIDER](settings)


def _key_source(settings: PlatformSettings, algorithms: frozenset[str]) -> KeySource:
    if settings.AUTH_PROVIDER is AuthProvider.LOCAL:
        return FixedKey(local.signing_key(settings), algorithms)
    if settings.AUTH_PROVIDER is AuthProvider.SUPABASE and settings.SUPABASE_JWT_SECRET:
        return FixedKey(settings.SUPABASE_JWT_SECRET.get_secret_value().encode(), algorithms)

    # Imported here, because httpx comes with it: 30 ms and 2.4 MB that the other providers do not need.
    from plinth.identity.documents import Documents
    from plinth.identity.jwks import JwksKeys

    documents = Documents(allow_loopback=not settings.ENVIRONMENT.deployed)
    return JwksKeys(documents, algorithms, issuer=settings.issuer, url=settings.jwks_url)
