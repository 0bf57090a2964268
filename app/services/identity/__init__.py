"""Identity providers: whose tokens are accepted, by which rules and with which keys."""

from app.core.config import AuthProvider, Settings
from app.core.security import FixedKey, KeySource, TokenVerifier
from app.services.identity.local import sign_local_token, signing_key
from app.services.identity.providers import rules_for

__all__ = ["build_verifier", "sign_local_token"]


def build_verifier(settings: Settings) -> TokenVerifier:
    """Make the verifier of the configured provider. Nothing is fetched before the first token comes."""
    rules = rules_for(settings)
    return TokenVerifier(rules, _key_source(settings, rules.algorithms))


def _key_source(settings: Settings, algorithms: frozenset[str]) -> KeySource:
    if settings.AUTH_PROVIDER is AuthProvider.LOCAL:
        return FixedKey(signing_key(settings), algorithms)
    if settings.AUTH_PROVIDER is AuthProvider.SUPABASE and settings.SUPABASE_JWT_SECRET:
        return FixedKey(settings.SUPABASE_JWT_SECRET.get_secret_value().encode(), algorithms)

    # Here, because httpx comes with it: 30 ms and 2.4 MB that the other providers can do without.
    from app.services.identity.documents import Documents
    from app.services.identity.jwks import JwksKeys

    documents = Documents(allow_loopback=not settings.ENVIRONMENT.deployed)
    return JwksKeys(documents, algorithms, issuer=settings.issuer, url=settings.jwks_url)
