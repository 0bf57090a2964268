"""OpenID Connect discovery: from an issuer to the address of its keys."""

from plinth.identity.documents import DocumentError, Documents


async def find_jwks_url(documents: Documents, issuer: str) -> str:
    """Read the address of the keys from the issuer's discovery document. Raises DocumentError.

    The document must name exactly this issuer (OpenID Connect Discovery 1.0, 4.3); otherwise one issuer on a shared
    host could speak for another.
    """
    document = await documents.get(f"{issuer.rstrip('/')}/.well-known/openid-configuration")
    if document.get("issuer") != issuer:
        raise DocumentError(f"the discovery document of {issuer} names another issuer")
    url = document.get("jwks_uri")
    if not isinstance(url, str):
        raise DocumentError(f"the discovery document of {issuer} has no jwks_uri")
    return url
