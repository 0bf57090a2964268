"""Identity providers: whose tokens are accepted, by which rules and with which keys."""

from plinth.identity.local import sign_local_token, signing_key
from plinth.identity.providers import rules_for
from plinth.identity.rules import FixedKey, KeySource
from plinth.identity.verifier import TokenVerifier
from plinth.settings import AuthProvider, PlatformSettings

__all__ = ["build_verifier", "sign_local_token"]


def build_verifier(settings: PlatformSettings) -> TokenVerifier:
    """Make the verifier of the configured provider. Nothing is fetched before the first token comes."""
    rules = rules_for(settings)
    return TokenVerifier(rules, _key_source(settings, rules.algorithms))


def _key_source(settings: PlatformSettings, algorithms: frozenset[str]) -> KeySource:
    if settings.AUTH_PROVIDER is AuthProvider.LOCAL:
        return FixedKey(signing_key(settings), algorithms)
    if settings.AUTH_PROVIDER is AuthProvider.SUPABASE and settings.SUPABASE_JWT_SECRET:
        return FixedKey(settings.SUPABASE_JWT_SECRET.get_secret_value().encode(), algorithms)

    # Here, because httpx comes with it: 30 ms and 2.4 MB that the other providers can do without.
    from plinth.identity.documents import Documents
    from plinth.identity.jwks import JwksKeys

    documents = Documents(allow_loopback=not settings.ENVIRONMENT.deployed)
    return JwksKeys(documents, algorithms, issuer=settings.issuer, url=settings.jwks_url)
