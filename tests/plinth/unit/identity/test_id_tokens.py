"""ID tokens of a sign-in: their rules, and that no other token passes for one."""

from typing import Any

import pytest

from plinth.identity.errors import Reason, TokenError
from plinth.identity.keys import VerificationKey
from plinth.identity.oidc import id_token_rules
from plinth.identity.rules import TokenRules
from plinth.identity.verifier import Issuer, TokenVerifier
from tests.support.identity_provider import Clock, SigningKey, signed

ISSUER, CLIENT, NONCE = "https://issuer.test", "plinth-ops", "n-0S6_WzA2Mj"
NOW = 1_800_000_000
KEY = SigningKey.make()


class OneKey:
    async def keys(self, kid: str | None, alg: str) -> list[VerificationKey]:
        return [VerificationKey(KEY.public, frozenset({"RS256"}))]

    async def aclose(self) -> None: ...


def api_verifier(*, audience: str = "plinth") -> TokenVerifier:
    rules = TokenRules(issuer=ISSUER, audiences=frozenset({audience}), max_lifetime=60)
    return TokenVerifier([Issuer(rules, {"RS256": OneKey()})], now=Clock(NOW))


def id_token(*, typ: str = "JWT", **claims: Any) -> str:
    good = {"iss": ISSUER, "aud": CLIENT, "sub": "olga", "nonce": NONCE, "iat": NOW, "exp": NOW + 300} | claims
    return signed(KEY, {name: value for name, value in good.items() if value is not ...}, typ=typ)


async def verify(token: str) -> Any:
    return await api_verifier().with_rules(id_token_rules(ISSUER, CLIENT, NONCE)).verify(token)


async def test_id_token_gives_the_person_and_its_roles() -> None:
    keycloak: dict[str, Any] = {"resource_access": {CLIENT: {"roles": ["operator"]}, "other": {"roles": ["boss"]}}}
    principal = await verify(id_token(at_hash="x", roles=["support"], **keycloak))
    assert (principal.issuer, principal.subject) == (ISSUER, "olga")
    assert principal.roles == {"operator", "support"}


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"nonce": NONCE + "x"}, Reason.WRONG_NONCE),
        ({"nonce": ...}, Reason.WRONG_NONCE),
        ({"nonce": [NONCE]}, Reason.WRONG_NONCE),
        ({"nonce": "\ud800"}, Reason.WRONG_NONCE),
        ({"aud": "plinth"}, Reason.WRONG_AUDIENCE),
        ({"aud": ...}, Reason.MISSING_CLAIM),
        ({"aud": [CLIENT, "plinth"]}, Reason.WRONG_PARTY),
        ({"aud": [CLIENT], "azp": "plinth"}, Reason.WRONG_PARTY),
        ({"iss": "https://evil.test"}, Reason.WRONG_ISSUER),
        ({"exp": NOW - 31}, Reason.EXPIRED),
        ({"typ": "at+jwt"}, Reason.WRONG_TYPE),
    ],
)
async def test_token_that_is_not_of_this_sign_in_is_refused(claims: dict[str, Any], reason: Reason) -> None:
    with pytest.raises(TokenError) as caught:
        await verify(id_token(**claims))
    assert caught.value.reason is reason


async def test_id_token_is_no_bearer_token_even_of_a_shared_audience() -> None:
    with pytest.raises(TokenError) as caught:
        await api_verifier(audience=CLIENT).verify(id_token(exp=NOW + 60))
    assert caught.value.reason is Reason.WRONG_TYPE
