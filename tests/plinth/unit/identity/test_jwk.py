"""The keys of a key set that are accepted, and the algorithms they are for."""

from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from plinth.identity.jwk import MAX_KEYS, read_key_set
from tests.support.identity_provider import SigningKey

RS = frozenset({"RS256", "RS512"})
KEY = SigningKey.make("key-1", "RS256")


def read(*members: object, allowed: frozenset[str] = RS) -> dict[str | None, frozenset[str]]:
    keys = read_key_set({"keys": list(members)}, allowed)
    return {kid: key.algorithms for kid, key in keys.items()}


@pytest.mark.parametrize("alg", ["RS256", "PS256", "ES256", "ES384", "ES512", "EdDSA"])
def test_key_of_each_algorithm_is_read(alg: str) -> None:
    key = SigningKey.make("key-1", alg)
    (read_key,) = read_key_set({"keys": [key.jwk()]}, frozenset({alg})).values()
    assert read_key.material == key.public


def test_key_with_an_algorithm_is_for_no_other() -> None:
    assert read(KEY.jwk(alg="RS512")) == {"key-1": {"RS512"}}


def test_key_without_an_algorithm_is_for_all_of_its_type() -> None:
    assert read(KEY.jwk(alg=None)) == {"key-1": RS}


@pytest.mark.parametrize(
    ("published", "allowed"),
    [("RS256", "RS384"), ("RS256", "PS256"), ("RS256", "ES256"), ("ES256", "RS256"), ("ES384", "ES256")],
)
def test_key_for_an_algorithm_that_is_not_allowed_is_ignored(published: str, allowed: str) -> None:
    assert read(SigningKey.make("key-1", published).jwk(), allowed=frozenset({allowed})) == {}


@pytest.mark.parametrize(("kind", "allowed"), [("RS256", "ES256"), ("ES384", "ES256"), ("EdDSA", "RS256")])
def test_key_of_another_type_without_an_algorithm_is_ignored(kind: str, allowed: str) -> None:
    assert read(SigningKey.make("key-1", kind).jwk(alg=None), allowed=frozenset({allowed})) == {}


@pytest.mark.parametrize(
    "members",
    [
        {"use": "enc"},
        {"use": ["sig"]},
        {"key_ops": ["sign"]},
        {"key_ops": "verify"},
        {"kty": "EC"},
        {"kty": "oct"},
        {"kty": ["RSA"]},
        {"kty": None},
        {"crv": "P-256"},
        {"crv": ["P-256"]},
        {"alg": "ES256"},
        {"alg": "HS256"},
        {"alg": "none"},
        {"alg": ["RS256"]},
        {"kid": 7},
        {"kid": ["key-1"]},
        {"n": None},
        {"n": 7},
        {"n": "!"},
        {"n": ""},
        {"e": "AA"},
        {"d": "AQAB"},
        {"k": "c2VjcmV0"},
    ],
)
def test_key_with_an_unsuitable_member_is_ignored(members: dict[str, Any]) -> None:
    unfit = KEY.jwk(**members)
    another = SigningKey.make("key-2", "RS256").jwk()
    assert read(unfit, another) == {"key-2": {"RS256"}}


@pytest.mark.parametrize("members", [{"use": None}, {"key_ops": ["verify"]}, {"x5c": ["x"]}])
def test_key_with_harmless_members_is_read(members: dict[str, Any]) -> None:
    assert read(KEY.jwk(**members)) == {"key-1": {"RS256"}}


@pytest.mark.parametrize(
    "curve",
    [
        {"crv": "P-384"},
        {"crv": "secp256k1"},
        {"crv": None},
        {"x": "AA"},
        {"y": SigningKey.make("key-2", "ES256").jwk()["y"]},
    ],
)
def test_key_whose_point_is_not_on_the_curve_is_ignored(curve: dict[str, Any]) -> None:
    key = SigningKey.make("key-1", "ES256")
    assert read(key.jwk(**curve), allowed=frozenset({"ES256"})) == {}


def test_private_and_symmetric_keys_are_ignored() -> None:
    private = jwt.get_algorithm_by_name("ES256").to_jwk(ec.generate_private_key(ec.SECP256R1()), as_dict=True)
    symmetric = {"kty": "oct", "k": "c2VjcmV0c2VjcmV0", "alg": "HS256"}
    assert read(private, allowed=frozenset({"ES256"})) == {}
    assert read(symmetric, allowed=frozenset({"HS256"})) == {}


@pytest.mark.parametrize("bits", [1024, 2047])
def test_rsa_key_under_2048_bits_is_ignored(bits: int) -> None:
    weak = SigningKey("key-1", "RS256", rsa.generate_private_key(65537, bits))
    assert read(weak.jwk()) == {}


@pytest.mark.parametrize("member", [None, 7, "key", [], {}])
def test_member_of_a_key_set_that_is_no_key_is_ignored(member: object) -> None:
    assert read(member, KEY.jwk()) == {"key-1": {"RS256"}}


@pytest.mark.parametrize("document", [{}, {"keys": None}, {"keys": {"a": 1}}, {"keys": "keys"}, {"keys": []}])
def test_document_without_keys_is_an_empty_key_set(document: dict[str, Any]) -> None:
    assert read_key_set(document, RS) == {}


def test_first_of_two_keys_with_the_same_kid_counts() -> None:
    keys = read_key_set({"keys": [KEY.jwk(), SigningKey.make("key-2").jwk(kid="key-1")]}, RS)
    assert [key.material for key in keys.values()] == [KEY.public]


def test_number_of_keys_in_a_key_set_is_limited() -> None:
    assert len(read(*(KEY.jwk(kid=str(number)) for number in range(MAX_KEYS + 10)))) == MAX_KEYS


# Key sets as these issuers publish them, cut to the members that matter.
PUBLISHED: dict[str, list[dict[str, Any]]] = {
    "Supabase": [
        SigningKey.make("es", "ES256").jwk(key_ops=["verify"], ext=True),
        SigningKey.make("rs", "RS256").jwk(key_ops=["verify"], ext=True),
        SigningKey.make("ed", "EdDSA").jwk(key_ops=["verify"], ext=True),
    ],
    "Entra": [
        KEY.jwk(alg=None, x5t="dOA", x5c=["MIIC"], issuer="https://login.microsoftonline.com/72f988bf/v2.0"),
    ],
    "Keycloak": [
        KEY.jwk(x5t="dOA", x5c=["MIIC"], **{"x5t#S256": "dOA"}),
        SigningKey.make("enc", "RS256").jwk(alg="RSA-OAEP", use="enc"),
    ],
    "Cognito": [KEY.jwk(), SigningKey.make("key-2", "RS256").jwk()],
}


@pytest.mark.parametrize(
    ("issuer", "expected"),
    [
        ("Supabase", {"es": {"ES256"}, "rs": {"RS256"}, "ed": {"EdDSA"}}),
        ("Entra", {"key-1": {"RS256"}}),
        ("Keycloak", {"key-1": {"RS256"}}),
        ("Cognito", {"key-1": {"RS256"}, "key-2": {"RS256"}}),
    ],
)
def test_key_set_of_an_issuer_is_read(issuer: str, expected: dict[str, set[str]]) -> None:
    assert read(*PUBLISHED[issuer], allowed=frozenset({"ES256", "RS256", "EdDSA"})) == expected
