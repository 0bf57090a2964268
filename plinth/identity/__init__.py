"""Identity: which bearer tokens are accepted, by which rules and with which keys.

Each provider has a file: `supabase`, `clerk`, `oidc` (any OpenID Connect issuer) and `local` (for development).
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from plinth.identity import clerk, local, oidc, supabase
from plinth.identity.keys import KeySource, SecretKeys
from plinth.identity.local import sign_local_token
from plinth.identity.principal import Principal
from plinth.identity.rules import TokenRules
from plinth.identity.verifier import Issuer, TokenVerifier
from plinth.settings import AuthProvider, PlatformSettings
from plinth.settings.keys import secrets_in

__all__ = ["build_verifier", "rules_for", "sign_local_token"]

_RULES: dict[AuthProvider, Callable[[PlatformSettings, str], TokenRules]] = {
    AuthProvider.SUPABASE: supabase.token_rules,
    AuthProvider.CLERK: clerk.token_rules,
    AuthProvider.CUSTOM: oidc.token_rules,
    AuthProvider.LOCAL: local.token_rules,
}


def build_verifier(
    settings: PlatformSettings, named: Callable[[Principal], Awaitable[Principal]] | None = None
) -> TokenVerifier:
    """Make the verifier for the configured provider. Its keys are fetched when the first token comes.

    `named`: as for `TokenVerifier`.
    """
    urls = settings.jwks_urls or [None] * len(settings.issuers)
    issuers = [
        Issuer(rules, _key_sources(settings, rules.issuer, url))
        for rules, url in zip(rules_for(settings), urls, strict=True)
    ]
    return TokenVerifier(issuers, named)


def rules_for(settings: PlatformSettings) -> list[TokenRules]:
    """The rules of each issuer of the configured provider."""
    make = _RULES[settings.AUTH_PROVIDER]
    return [replace(make(settings, issuer), max_lifetime=settings.TOKEN_MAX_LIFETIME) for issuer in settings.issuers]


def _key_sources(settings: PlatformSettings, issuer: str, url: str | None) -> dict[str, KeySource]:
    """The key source of each algorithm. Secrets and published keys never share one, and neither do issuers."""
    sources: dict[str, KeySource] = {}
    if secrets := _secrets(settings):
        sources["HS256"] = SecretKeys(secrets)
    published = frozenset(settings.jwt_algorithms) - sources.keys()
    if not published:
        return sources

    # Imported here, because httpx comes with it: 30 ms and 2.4 MB that the other providers do not need.
    from plinth.identity.documents import Documents
    from plinth.identity.jwks import JwksKeys

    documents = Documents(allow_loopback=not settings.ENVIRONMENT.deployed)
    keys = JwksKeys(documents, published, issuer=issuer, url=url, may_be_empty=bool(sources))
    return sources | dict.fromkeys(published, keys)


def _secrets(settings: PlatformSettings) -> Sequence[bytes]:
    match settings.AUTH_PROVIDER:
        case AuthProvider.LOCAL:
            return local.signing_keys(settings)
        case AuthProvider.SUPABASE if settings.SUPABASE_JWT_SECRET:
            return [secret.encode() for secret in secrets_in(settings.SUPABASE_JWT_SECRET)]
        case _:
            return ()
