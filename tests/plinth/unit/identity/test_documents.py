"""Documents are fetched within limits, whatever the endpoint answers."""

from collections.abc import AsyncIterator, Iterator

import pytest

from plinth.identity.documents import MAX_DOCUMENT_BYTES, DocumentError, Documents
from tests.support.identity_provider import CLIENT_ID, CLIENT_SECRET, IdentityProvider, Mood


@pytest.fixture
def provider() -> Iterator[IdentityProvider]:
    with IdentityProvider() as provider:
        yield provider


@pytest.fixture
async def documents() -> AsyncIterator[Documents]:
    documents = Documents(allow_loopback=True)
    yield documents
    await documents.aclose()


async def test_json_document_is_fetched(documents: Documents, provider: IdentityProvider) -> None:
    assert await documents.get(provider.jwks_url) == {"keys": [provider.keys[0].jwk()]}


@pytest.mark.parametrize(
    ("mood", "message"),
    [
        (Mood.ERROR, "answered 500"),
        (Mood.REDIRECTING, "answered 302"),
        (Mood.HUGE, "longer than"),
        (Mood.BOMB, "not JSON"),
        (Mood.GARBAGE, "not JSON"),
        (Mood.NESTED, "not JSON"),
        (Mood.EMPTY, "not JSON"),
        (Mood.NOT_AN_OBJECT, "not a JSON object"),
    ],
)
async def test_response_that_is_not_a_json_object_is_refused(
    documents: Documents, provider: IdentityProvider, mood: Mood, message: str
) -> None:
    provider.mood = mood
    with pytest.raises(DocumentError, match=message):
        await documents.get(provider.jwks_url)
    assert provider.fetched["/moved/jwks.json"] == 0


async def test_reading_of_a_huge_document_stops_at_the_limit(documents: Documents, provider: IdentityProvider) -> None:
    provider.mood = Mood.HUGE
    with pytest.raises(DocumentError):
        await documents.get(provider.jwks_url)
    assert MAX_DOCUMENT_BYTES < provider.sent < 9_000_000  # the kernels' buffers take a few MB


async def test_unreachable_provider_is_an_error_until_it_is_back(
    documents: Documents, provider: IdentityProvider
) -> None:
    provider.down()
    with pytest.raises(DocumentError, match="ConnectError"):
        await documents.get(provider.jwks_url)
    provider.up()
    assert await documents.get(provider.jwks_url)


@pytest.mark.parametrize(
    "url",
    [
        "http://issuer.test/jwks.json",
        "http://127.0.0.1.issuer.test/",
        "http://192.168.0.1/",
        "http://169.254.169.254/latest/meta-data",
        "ftp://issuer.test/",
        "file:///etc/passwd",
        "//issuer.test/",
        "",
        "https://",
        "https://user:password@issuer.test/",
        "https://user@issuer.test/",
        "http://[::1",
    ],
)
async def test_unsafe_document_url_is_refused(documents: Documents, url: str) -> None:
    with pytest.raises(DocumentError, match=r"not https|no host|not an address") as caught:
        await documents.get(url)
    assert "password" not in str(caught.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
async def test_loopback_url_is_refused_unless_it_is_allowed(provider: IdentityProvider, host: str) -> None:
    documents = Documents()
    with pytest.raises(DocumentError, match="not https"):
        await documents.get(provider.jwks_url.replace("127.0.0.1", host))
    assert provider.jwks_fetches == 0


async def test_loopback_is_not_reached_through_a_proxy(
    provider: IdentityProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    with IdentityProvider() as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("ALL_PROXY", proxy.url)
        documents = Documents(allow_loopback=True)
        await documents.get(provider.jwks_url)
        await documents.aclose()
    assert (provider.jwks_fetches, sum(proxy.fetched.values())) == (1, 0)


async def test_unused_document_client_can_be_closed() -> None:
    await Documents().aclose()


async def test_form_is_posted_and_its_answer_read(documents: Documents, provider: IdentityProvider) -> None:
    form = {"client_id": CLIENT_ID, "client_secret": CLIENT_SECRET, "code": "unknown"}
    with pytest.raises(DocumentError, match="answered 400") as caught:
        await documents.post(f"{provider.url}/token", form)
    assert caught.value.status == 400
    with pytest.raises(DocumentError, match="answered 401"):
        await documents.post(f"{provider.url}/token", {"code": "unknown"})
    with pytest.raises(DocumentError, match="not https"):
        await documents.post("http://issuer.test/token", form)
