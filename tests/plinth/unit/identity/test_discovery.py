from collections.abc import AsyncIterator, Iterator

import pytest

from plinth.identity.documents import DocumentError, Documents, find_jwks_url
from tests.support.identity_provider import DISCOVERY_PATH, IdentityProvider


@pytest.fixture
def provider() -> Iterator[IdentityProvider]:
    with IdentityProvider() as provider:
        yield provider


@pytest.fixture
async def documents() -> AsyncIterator[Documents]:
    documents = Documents(allow_loopback=True)
    yield documents
    await documents.aclose()


async def test_discovery_finds_the_jwks_url(documents: Documents, provider: IdentityProvider) -> None:
    assert await find_jwks_url(documents, provider.issuer) == provider.jwks_url


async def test_discovery_accepts_an_issuer_that_ends_in_a_slash(
    documents: Documents, provider: IdentityProvider
) -> None:
    provider.discovery = {"issuer": provider.issuer + "/"}
    assert await find_jwks_url(documents, provider.issuer + "/") == provider.jwks_url
    assert provider.fetched == {DISCOVERY_PATH: 1}


@pytest.mark.parametrize("issuer", ["https://evil.test", "{issuer}/", "{issuer}/tenant", "", None, 7])
async def test_discovery_document_of_another_issuer_is_refused(
    documents: Documents, provider: IdentityProvider, issuer: object
) -> None:
    provider.discovery = {"issuer": issuer.format(issuer=provider.issuer) if isinstance(issuer, str) else issuer}
    with pytest.raises(DocumentError, match="another issuer"):
        await find_jwks_url(documents, provider.issuer)


@pytest.mark.parametrize("url", [None, 7, ["https://issuer.test/jwks"]])
async def test_discovery_document_without_a_jwks_uri_is_refused(
    documents: Documents, provider: IdentityProvider, url: object
) -> None:
    provider.discovery = {"jwks_uri": url}
    with pytest.raises(DocumentError, match="no jwks_uri"):
        await find_jwks_url(documents, provider.issuer)
