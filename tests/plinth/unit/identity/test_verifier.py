"""Tokens that the verifier refuses, and the principal of those it accepts."""

import dataclasses
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from plinth.identity import rules as security
from plinth.identity import verifier as token_verifier
from plinth.identity.errors import KeysUnavailable, Reason, TokenError
from plinth.identity.keys import KeySource, SecretKeys, VerificationKey
from plinth.identity.principal import Principal
from plinth.identity.rules import TokenRules
from plinth.identity.verifier import Issuer, TokenVerifier
from plinth.settings.keys import derive_key
from tests.support.identity_provider import Clock, SigningKey, base64url, compact, hs256, signed

ISSUER = "https://issuer.test"
NOW = 1_800_000_000
RULES = TokenRules(issuer=ISSUER, audiences=frozenset({"plinth"}))
KEY = SigningKey.make("key-1", "RS256")
ANOTHER_KEY = SigningKey.make("key-2", "RS256")


FAMILIES = ("RS256", "PS256", "ES256", "ES384", "ES512", "EdDSA")
SECRETS = [b"a-secret-of-forty-characters-or-so-------", b"the-secret-that-came-before-it-----------"]


class Keys:
    """A key source in memory. It counts what it is asked."""

    def __init__(self, *keys: SigningKey, algorithms: Iterable[str] = ("RS256",)) -> None:
        self.known = {key.kid: VerificationKey(key.public, frozenset(algorithms)) for key in keys}
        self.asked = 0
        self.closed = False

    async def keys(self, kid: str | None, alg: str) -> Sequence[VerificationKey]:
        self.asked += 1
        if kid not in self.known:
            raise TokenError(Reason.UNKNOWN_KID)
        return (self.known[kid],)

    async def aclose(self) -> None:
        self.closed = True


class Confused(Keys):
    """A key source that returns one key for every token, whatever its algorithm."""

    def __init__(self, material: Any) -> None:
        super().__init__()
        self.material = material

    async def keys(self, kid: str | None, alg: str) -> Sequence[VerificationKey]:
        return (VerificationKey(self.material, frozenset({alg})),)


def verifier_of(
    keys: KeySource, clock: Clock, *, algorithms: Iterable[str] = ("RS256",), rules: TokenRules = RULES
) -> TokenVerifier:
    return TokenVerifier([Issuer(rules, dict.fromkeys(algorithms, keys))], now=clock)


def claims(**replaced: Any) -> dict[str, Any]:
    good = {"iss": ISSUER, "aud": "plinth", "sub": "alice", "iat": NOW, "exp": NOW + 600}
    return {name: value for name, value in (good | replaced).items() if value is not ...}


def token(**replaced: Any) -> str:
    return signed(KEY, claims(**replaced))


def of_text(header: str, payload: str, *, header_codec: str = "utf-8", payload_codec: str = "utf-8") -> str:
    """A signed token of this text, which need not be JSON."""
    parts = (base64url(header.encode(header_codec)), base64url(payload.encode(payload_codec)))
    signing_input = b".".join(parts)
    return b".".join((signing_input, base64url(KEY.sign(signing_input)))).decode()


@pytest.fixture
def clock() -> Clock:
    return Clock(NOW)


@pytest.fixture
def keys() -> Keys:
    return Keys(KEY)


@pytest.fixture
def verifier(keys: Keys, clock: Clock) -> TokenVerifier:
    return verifier_of(keys, clock)


async def refusal(verifier: TokenVerifier, token: str) -> Reason:
    with pytest.raises(TokenError) as caught:
        await verifier.verify(token)
    assert verifier.cached(token) is None
    assert str(caught.value) == caught.value.reason  # nothing of the token in the message
    return caught.value.reason


class TestGoodTokens:
    async def test_verified_token_gives_the_principal(self, verifier: TokenVerifier) -> None:
        principal = await verifier.verify(token(scope="items:read items:write", roles=["editor"]))
        assert principal == Principal(
            subject="alice",
            issuer=ISSUER,
            scopes=frozenset({"items:read", "items:write"}),
            roles=frozenset({"editor"}),
            expires_at=NOW + 600,
        )

    @pytest.mark.parametrize("alg", ["RS256", "RS384", "RS512", "PS256", "ES256", "ES384", "ES512", "EdDSA"])
    async def test_token_of_each_algorithm_is_accepted(self, alg: str, clock: Clock) -> None:
        key = SigningKey.make("key-1", alg)
        verifier = verifier_of(Keys(key, algorithms=[alg]), clock, algorithms=[alg])
        assert (await verifier.verify(signed(key, claims()))).subject == "alice"

    @pytest.mark.parametrize("written", [{"scp": "a b"}, {"scp": ["a", "b"]}, {"scope": "a", "scp": "b"}])
    async def test_scopes_are_read_from_scope_and_scp(self, verifier: TokenVerifier, written: dict[str, Any]) -> None:
        assert (await verifier.verify(token(**written))).scopes == {"a", "b"}

    async def test_scopes_and_roles_that_are_no_utf_8_are_ignored(self, verifier: TokenVerifier) -> None:
        principal = await verifier.verify(token(scope="a \ud800", scp=["b", "\udfff"], roles=["c", "d\udbff"]))
        assert (principal.scopes, principal.roles) == (frozenset({"b"}), frozenset({"c"}))

    async def test_scopes_and_roles_that_are_not_strings_are_ignored(self, verifier: TokenVerifier) -> None:
        principal = await verifier.verify(token(scope=[1, None, "a"], roles={"admin": True}, role=7))
        assert principal.scopes == {"a"}
        assert principal.roles == frozenset()

    @pytest.mark.parametrize("typ", ["JWT", "jwt", "at+jwt", "application/at+jwt", "AT+JWT", ...])
    async def test_token_with_each_type_of_an_access_token_is_accepted(
        self, verifier: TokenVerifier, typ: object
    ) -> None:
        assert await verifier.verify(signed(KEY, claims(), typ=typ))

    async def test_token_for_several_audiences_is_accepted(self, verifier: TokenVerifier) -> None:
        assert await verifier.verify(token(aud=["another", "plinth"]))

    @pytest.mark.parametrize("late", [{"exp": NOW - 29}, {"iat": NOW + 30}, {"nbf": NOW + 30}])
    async def test_token_within_the_leeway_is_accepted(self, verifier: TokenVerifier, late: dict[str, int]) -> None:
        assert await verifier.verify(token(**late))

    async def test_expiry_with_a_fraction_of_a_second_is_rounded_down(self, verifier: TokenVerifier) -> None:
        assert (await verifier.verify(token(exp=NOW + 0.5))).expires_at == NOW


class TestForgedTokens:
    @pytest.mark.parametrize("alg", ["none", "None", "NONE", "nOnE"])
    @pytest.mark.parametrize("signature", [b"", b"anything"])
    async def test_unsigned_token_is_refused(self, verifier: TokenVerifier, alg: str, signature: bytes) -> None:
        forged = compact({"alg": alg, "kid": "key-1"}, claims(), lambda _: signature)
        assert await refusal(verifier, forged) == Reason.WRONG_ALGORITHM

    @pytest.mark.parametrize("alg", [..., None, 256, ["RS256"], {}, "", "RS256 "])
    async def test_token_without_a_valid_algorithm_is_refused(self, verifier: TokenVerifier, alg: object) -> None:
        assert await refusal(verifier, signed(KEY, claims(), alg=alg)) == Reason.WRONG_ALGORITHM

    @pytest.mark.parametrize("encoding", [Encoding.PEM, Encoding.DER])
    async def test_token_signed_with_the_public_key_as_a_secret_is_refused(
        self, clock: Clock, encoding: Encoding
    ) -> None:
        secret = KEY.public_bytes(encoding)
        forged = compact({"alg": "HS256", "kid": "key-1"}, claims(), hs256(secret))
        # The allow-list alone has to stop it, even where the key source returns that key.
        verifier = verifier_of(Confused(secret), clock)
        assert await refusal(verifier, forged) == Reason.WRONG_ALGORITHM

    async def test_token_signed_with_an_algorithm_that_is_not_allowed_is_refused(self, clock: Clock) -> None:
        verifier = verifier_of(Confused(KEY.public), clock)
        other = SigningKey("key-1", "RS512", KEY.private)
        assert await refusal(verifier, signed(other, claims())) == Reason.WRONG_ALGORITHM

    async def test_token_signed_with_an_algorithm_that_its_key_is_not_for_is_refused(self, clock: Clock) -> None:
        verifier = verifier_of(Keys(KEY, algorithms=["RS512"]), clock, algorithms=["RS256", "RS512"])
        assert await refusal(verifier, token()) == Reason.WRONG_KEY

    async def test_token_for_a_key_of_another_type_is_refused(self, clock: Clock) -> None:
        published = SigningKey.make("key-1", "ES256")
        verifier = verifier_of(Keys(published, algorithms=["ES256"]), clock)
        assert await refusal(verifier, token()) == Reason.WRONG_KEY

    async def test_token_signed_with_another_key_is_refused(self, verifier: TokenVerifier) -> None:
        forged = signed(ANOTHER_KEY, claims(), kid="key-1")
        assert await refusal(verifier, forged) == Reason.BAD_SIGNATURE

    @pytest.mark.parametrize("alg", ["RS256", "ES256", "EdDSA", "HS256"])
    @pytest.mark.parametrize("signature", [b"", b"\0", b"\0" * 64, b"\xff" * 256, b"\0" * 4096])
    async def test_token_with_a_bogus_signature_of_any_length_is_refused(
        self, clock: Clock, alg: str, signature: bytes
    ) -> None:
        source: KeySource = SecretKeys([b"s" * 32])
        if alg != "HS256":
            source = Keys(SigningKey.make("key-1", alg), algorithms=[alg])
        forged = compact({"alg": alg, "kid": "key-1"}, claims(), lambda _: signature)
        assert await refusal(verifier_of(source, clock, algorithms=[alg]), forged) == Reason.BAD_SIGNATURE

    async def test_token_with_changed_claims_is_refused(self, verifier: TokenVerifier) -> None:
        header, _, signature = token().split(".")
        changed = base64url(json.dumps(claims(sub="bob")).encode()).decode()
        assert await refusal(verifier, f"{header}.{changed}.{signature}") == Reason.BAD_SIGNATURE

    async def test_token_of_an_unknown_key_is_refused(self, verifier: TokenVerifier) -> None:
        assert await refusal(verifier, signed(ANOTHER_KEY, claims())) == Reason.UNKNOWN_KID

    @pytest.mark.parametrize(
        "kid", ["../../dev/null", "key-1' OR '1'='1", "key-1\0", "KEY-1", " key-1", "key-1 ", "", "é"]
    )
    async def test_kid_is_a_name_and_nothing_else(self, verifier: TokenVerifier, kid: str) -> None:
        assert await refusal(verifier, signed(KEY, claims(), kid=kid)) == Reason.UNKNOWN_KID

    @pytest.mark.parametrize("kid", [7, True, ["key-1"], {"key-1": 1}, "k" * 256])
    async def test_token_with_a_malformed_kid_is_refused(
        self, verifier: TokenVerifier, keys: Keys, kid: object
    ) -> None:
        assert await refusal(verifier, signed(KEY, claims(), kid=kid)) == Reason.MALFORMED
        assert keys.asked == 0

    @pytest.mark.parametrize("crit", [["exp"], ["b64"], [], None, "b64"])
    async def test_token_with_a_critical_header_is_refused(self, verifier: TokenVerifier, crit: object) -> None:
        forged = signed(KEY, claims(), crit=crit, b64=True)
        assert await refusal(verifier, forged) == Reason.CRITICAL_HEADER

    async def test_token_that_contains_its_own_key_is_refused(self, verifier: TokenVerifier) -> None:
        forged = signed(ANOTHER_KEY, claims(), kid="key-1", jwk=ANOTHER_KEY.jwk())
        assert await refusal(verifier, forged) == Reason.BAD_SIGNATURE


class TestMalformedTokens:
    @pytest.mark.parametrize(
        "garbage",
        [
            "",
            ".",
            "..",
            "a.b",
            "a.b.c.d",
            "Bearer a.b.c",
            "é.b.c",
            "\ud800.b.c",
            "\0.\0.\0",
            "a\n.b.c",
            "eyJhbGciOiJSUzI1NiJ9.e30.\n",
            "eyJhbGciOiJSUzI1NiJ9==.e30.c2ln",
            "eyJhbGciOiJSUzI1NiJ9.e+/0.c2ln",
            "e.e30.c2ln",  # no base64 has such a length
            "bm90IGpzb24.e30.c2ln",  # not json
            "WyJhbGciXQ.e30.c2ln",  # a list
            "bnVsbA.e30.c2ln",  # null
            "gICA.e30.c2ln",  # not UTF-8
            "eyJhbGciOiJSUzI1NiJ9.e30.c",
            "eyJhbGciOiJSUzI1NiJ9.e30.c2ln.",
            "eyJhbGciOiJSUzI1NiJ9.e30.c2ln.e30.e30",  # encrypted: five parts
            "eyJhbGciOiJSUzI1NiJ9AA.e30.c2ln",  # bytes behind the object
        ],
    )
    async def test_text_that_is_not_a_token_is_refused(self, verifier: TokenVerifier, keys: Keys, garbage: str) -> None:
        assert await refusal(verifier, garbage) == Reason.MALFORMED
        assert keys.asked == 0

    async def test_deeply_nested_token_header_is_refused(self, verifier: TokenVerifier) -> None:
        deep = base64url(b"[" * 5000).decode()
        assert await refusal(verifier, f"{deep}.e30.c2ln") == Reason.MALFORMED

    @pytest.mark.parametrize("payload", [[], "text", None, 7])
    async def test_token_payload_that_is_not_an_object_is_refused(
        self, verifier: TokenVerifier, payload: object
    ) -> None:
        assert await refusal(verifier, signed(KEY, payload)) == Reason.MALFORMED

    @pytest.mark.parametrize(
        "header",
        [
            '{"alg":"none","alg":"RS256","kid":"key-1"}',
            '{"alg":"RS256","kid":"key-2","kid":"key-1"}',
            '{"alg":"RS256","kid":"key-1","a":{"b":1,"b":2}}',
            '{"alg":"RS256","kid":"key-1","\\u0061lg":"RS256"}',  # the same name, written in another way
        ],
    )
    async def test_token_header_that_says_a_thing_twice_is_refused(
        self, verifier: TokenVerifier, keys: Keys, header: str
    ) -> None:
        assert await refusal(verifier, of_text(header, json.dumps(claims()))) == Reason.MALFORMED
        assert keys.asked == 0

    @pytest.mark.parametrize(
        "member",
        ['"sub":"bob"', '"aud":"another"', '"exp":1', '"a":{"b":1,"b":2}', '"a":[{"b":1,"b":2}]', '"su\\u0062":1'],
    )
    async def test_token_payload_that_says_a_thing_twice_is_refused(self, verifier: TokenVerifier, member: str) -> None:
        payload = f"{{{member},{json.dumps(claims())[1:]}"
        if "sub" in member or "aud" in member:
            assert json.loads(payload) == claims()  # another parser would take the first
        assert await refusal(verifier, of_text('{"alg":"RS256","kid":"key-1"}', payload)) == Reason.MALFORMED

    @pytest.mark.parametrize("codec", ["utf-16", "utf-16-le", "utf-32", "utf-8-sig"])
    async def test_token_in_another_encoding_than_utf_8_is_refused(self, verifier: TokenVerifier, codec: str) -> None:
        header, payload = '{"alg":"RS256","kid":"key-1"}', json.dumps(claims())
        assert await verifier.verify(of_text(header, payload))
        assert await refusal(verifier, of_text(header, payload, payload_codec=codec)) == Reason.MALFORMED
        assert await refusal(verifier, of_text(header, payload, header_codec=codec)) == Reason.MALFORMED

    @pytest.mark.parametrize("tail", [" x", "{}", "\0", "]"])
    async def test_token_payload_with_something_behind_it_is_refused(self, verifier: TokenVerifier, tail: str) -> None:
        forged = of_text('{"alg":"RS256","kid":"key-1"}', json.dumps(claims()) + tail)
        assert await refusal(verifier, forged) == Reason.MALFORMED

    @pytest.mark.parametrize("tail", ["A", "AAAA", "c2ln", "=", "==", " ", "\n", "%00"])
    async def test_token_with_something_behind_it_is_refused(self, verifier: TokenVerifier, tail: str) -> None:
        assert await refusal(verifier, token() + tail) in (Reason.MALFORMED, Reason.BAD_SIGNATURE)

    async def test_token_has_one_spelling(self, verifier: TokenVerifier) -> None:
        # 256 bytes take 342 characters, and the last four bits of them say nothing: 15 more spellings of a signature.
        good = token()
        assert await verifier.verify(good)
        alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
        for other in set(alphabet) - {good[-1]}:
            assert await refusal(verifier, good[:-1] + other) in (Reason.MALFORMED, Reason.BAD_SIGNATURE)

    async def test_token_over_the_maximum_length_is_refused(self, verifier: TokenVerifier, keys: Keys) -> None:
        spare = (16_384 - len(token(pad=""))) * 3 // 4
        longest = token(pad="x" * spare)
        assert 16_380 <= len(longest) <= 16_384
        assert await verifier.verify(longest)
        assert keys.asked == 1
        assert await refusal(verifier, token(pad="x" * (spare + 4))) == Reason.OVERSIZED
        assert keys.asked == 1


class TestClaims:
    @pytest.mark.parametrize("name", ["exp", "iat", "sub", "iss", "aud"])
    async def test_token_without_a_required_claim_is_refused(self, verifier: TokenVerifier, name: str) -> None:
        assert await refusal(verifier, token(**{name: ...})) == Reason.MISSING_CLAIM

    @pytest.mark.parametrize("name", ["exp", "iat", "sub", "iss"])
    async def test_token_with_a_null_claim_is_refused(self, verifier: TokenVerifier, name: str) -> None:
        assert await refusal(verifier, token(**{name: None})) == Reason.MISSING_CLAIM

    @pytest.mark.parametrize("name", ["exp", "iat", "nbf"])
    @pytest.mark.parametrize("value", [str(NOW + 600), True, False, [NOW], {}, -1, 10**12, float("inf"), float("nan")])
    async def test_token_with_a_malformed_time_is_refused(
        self, verifier: TokenVerifier, name: str, value: object
    ) -> None:
        assert await refusal(verifier, token(**{name: value})) == Reason.INVALID_CLAIM

    @pytest.mark.parametrize("exp", [NOW - 30, NOW - 3600, 0])
    async def test_expired_token_is_refused(self, verifier: TokenVerifier, exp: int) -> None:
        assert await refusal(verifier, token(exp=exp)) == Reason.EXPIRED

    async def test_token_that_is_not_yet_valid_is_refused(self, verifier: TokenVerifier) -> None:
        assert await refusal(verifier, token(nbf=NOW + 31)) == Reason.NOT_YET_VALID

    async def test_token_issued_in_the_future_is_refused(self, verifier: TokenVerifier) -> None:
        assert await refusal(verifier, token(iat=NOW + 31)) == Reason.ISSUED_IN_FUTURE

    @pytest.mark.parametrize("iss", [ISSUER + "/", ISSUER.upper(), "https://evil.test", "", [ISSUER], 7])
    async def test_token_of_another_issuer_is_refused(self, verifier: TokenVerifier, iss: object) -> None:
        assert await refusal(verifier, token(iss=iss)) == Reason.WRONG_ISSUER

    @pytest.mark.parametrize(
        "aud", ["another", "plinth2", "", [], ["another"], [["plinth"]], ["plinth", 7], ["plinth", None], {}, 7]
    )
    async def test_token_for_another_audience_is_refused(self, verifier: TokenVerifier, aud: object) -> None:
        assert await refusal(verifier, token(aud=aud)) == Reason.WRONG_AUDIENCE

    @pytest.mark.parametrize("aud", ["plinth", ["plinth"], [], "", None])
    async def test_token_with_an_audience_is_refused_where_none_is_configured(
        self, keys: Keys, clock: Clock, aud: object
    ) -> None:
        verifier = verifier_of(keys, clock, rules=dataclasses.replace(RULES, audiences=None))
        assert await refusal(verifier, token(aud=aud)) == Reason.WRONG_AUDIENCE
        assert await verifier.verify(token(aud=...))

    @pytest.mark.parametrize("aud", ["plinth", "second", ["second"], ["plinth", "another"], ["plinth", "second"]])
    async def test_token_for_one_of_several_audiences_is_accepted(self, keys: Keys, clock: Clock, aud: object) -> None:
        rules = dataclasses.replace(RULES, audiences=frozenset({"plinth", "second"}))
        verifier = verifier_of(keys, clock, rules=rules)
        assert await verifier.verify(token(aud=aud))
        for wrong in ("third", ["third"], [], "", "plinth second", "plinth,second"):
            assert await refusal(verifier, token(aud=wrong)) == Reason.WRONG_AUDIENCE

    async def test_token_that_lives_longer_than_allowed_is_refused(self, keys: Keys, clock: Clock) -> None:
        verifier = verifier_of(keys, clock, rules=dataclasses.replace(RULES, max_lifetime=3600))
        assert await verifier.verify(token(exp=NOW + 3600))
        assert await verifier.verify(token(iat=NOW - 3000, exp=NOW + 600))
        assert await refusal(verifier, token(exp=NOW + 3601)) == Reason.LIVES_TOO_LONG
        assert await refusal(verifier, token(iat=0, exp=NOW + 60)) == Reason.LIVES_TOO_LONG

    @pytest.mark.parametrize("sub", ["", "x" * 256, 7, True, ["alice"], "a\0b", "a\nb", "a\ud800"])
    async def test_token_with_an_invalid_subject_is_refused(self, verifier: TokenVerifier, sub: object) -> None:
        assert await refusal(verifier, token(sub=sub)) == Reason.INVALID_CLAIM

    async def test_token_with_a_subject_of_255_characters_is_accepted(self, verifier: TokenVerifier) -> None:
        assert (await verifier.verify(token(sub="x" * 255))).subject == "x" * 255

    @pytest.mark.parametrize(
        "azp", ["https://evil.test", "https://app.test.evil.test", "", ..., None, 7, ["https://app.test"], {}]
    )
    @pytest.mark.parametrize("parties", [{"https://app.test"}, set()])
    async def test_token_of_another_party_is_refused(
        self, keys: Keys, clock: Clock, azp: object, parties: set[str]
    ) -> None:
        rules = dataclasses.replace(RULES, authorized_parties=frozenset(parties))
        assert await refusal(verifier_of(keys, clock, rules=rules), token(azp=azp)) == Reason.WRONG_PARTY

    async def test_token_of_an_authorized_party_is_accepted(self, keys: Keys, clock: Clock) -> None:
        rules = dataclasses.replace(RULES, authorized_parties=frozenset({"https://app.test"}))
        assert await verifier_of(keys, clock, rules=rules).verify(token(azp="https://app.test"))

    async def test_token_that_fails_the_check_of_its_provider_is_refused(self, keys: Keys, clock: Clock) -> None:
        def check(claims: security.Claims) -> None:
            raise TokenError(Reason.WRONG_ROLE)

        verifier = verifier_of(keys, clock, rules=dataclasses.replace(RULES, check=check))
        assert await refusal(verifier, token()) == Reason.WRONG_ROLE


class TestOtherKindsOfTokens:
    @pytest.mark.parametrize(
        "mark",
        [
            {"nonce": "n"},
            {"at_hash": "h"},
            {"c_hash": "h"},
            {"events": {"http://schemas.openid.net/event/backchannel-logout": {}}},
            {"token_use": "id"},
            {"typ": "ID"},
        ],
    )
    async def test_token_with_claims_of_an_id_token_is_refused(
        self, verifier: TokenVerifier, mark: dict[str, Any]
    ) -> None:
        assert await refusal(verifier, token(**mark)) == Reason.WRONG_TYPE
        # A header that says `at+jwt` makes it an access token, whatever its claims are.
        assert await verifier.verify(signed(KEY, claims(**mark), typ="at+jwt"))

    @pytest.mark.parametrize("mark", [{"token_use": "access"}, {"typ": "Bearer"}])
    async def test_token_with_claims_of_an_access_token_is_accepted(
        self, verifier: TokenVerifier, mark: dict[str, Any]
    ) -> None:
        assert await verifier.verify(token(**mark))

    @pytest.mark.parametrize(
        "cnf", [{"jkt": "0ZcOCORZNYy"}, {"x5t#S256": "bwcK0esc3AC"}, {"jwk": {}}, {}, None, "text"]
    )
    @pytest.mark.parametrize("typ", ["JWT", "at+jwt"])
    async def test_token_that_is_bound_to_a_key_is_refused_as_a_bearer_token(
        self, verifier: TokenVerifier, cnf: object, typ: str
    ) -> None:
        assert await refusal(verifier, signed(KEY, claims(cnf=cnf), typ=typ)) == Reason.BOUND_TO_KEY

    @pytest.mark.parametrize("typ", ["id+jwt", "logout+jwt", "dpop+jwt", "JWE", "", None, 7, ["JWT"]])
    async def test_token_of_another_type_in_its_header_is_refused(
        self, verifier: TokenVerifier, keys: Keys, typ: object
    ) -> None:
        assert await refusal(verifier, signed(KEY, claims(), typ=typ)) == Reason.WRONG_TYPE
        assert keys.asked == 0


class TestVerdicts:
    async def test_verified_principal_is_cached_for_its_token_only(self, verifier: TokenVerifier) -> None:
        good = token()
        assert verifier.cached(good) is None
        principal = await verifier.verify(good)
        assert verifier.cached(good) is principal
        assert verifier.cached(token(sub="bob")) is None
        assert verifier.cached(good[:-1]) is None

    async def test_cached_principal_expires_with_its_token(self, verifier: TokenVerifier, clock: Clock) -> None:
        brief = token(exp=NOW + 10)
        await verifier.verify(brief)
        clock.advance(10 + 29)
        assert verifier.cached(brief)
        clock.advance(1)
        assert await refusal(verifier, brief) == Reason.EXPIRED

    async def test_cached_principal_expires_after_a_minute(
        self, verifier: TokenVerifier, clock: Clock, keys: Keys
    ) -> None:
        good = token()
        await verifier.verify(good)
        clock.advance(59)
        assert verifier.cached(good)
        clock.advance(1)
        assert verifier.cached(good) is None
        assert await verifier.verify(good)
        assert keys.asked == 2

    async def test_cached_principal_ends_when_its_key_is_withdrawn(self, verifier: TokenVerifier, keys: Keys) -> None:
        good = token()
        await verifier.verify(good)
        keys.known.pop("key-1").retired = True
        assert verifier.cached(good) is None
        assert await refusal(verifier, good) == Reason.UNKNOWN_KID

    async def test_full_principal_cache_evicts_the_oldest_entry(
        self, verifier: TokenVerifier, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(token_verifier, "MAX_CACHED", 3)
        tokens = [token(sub=f"user-{number}") for number in range(5)]

        def remembered() -> list[int]:
            return [number for number, each in enumerate(tokens) if verifier.cached(each)]

        for each in tokens[:3]:
            await verifier.verify(each)
        await verifier.verify(tokens[1])  # renewed: evicts no entry, and is now the newest
        assert remembered() == [0, 1, 2]
        await verifier.verify(tokens[3])
        await verifier.verify(tokens[4])
        assert remembered() == [1, 3, 4]

    async def test_principal_cache_stores_no_token(self, verifier: TokenVerifier) -> None:
        good = token()
        await verifier.verify(good)
        assert good not in repr(vars(verifier))
        assert good.rpartition(".")[2] not in repr(vars(verifier))

    @pytest.mark.parametrize("garbage", ["", "é", "\ud800", "x" * 100_000])
    async def test_malformed_token_is_not_in_the_cache(self, verifier: TokenVerifier, garbage: str) -> None:
        assert verifier.cached(garbage) is None

    async def test_overlong_token_is_not_looked_up_in_the_cache(
        self, verifier: TokenVerifier, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(token_verifier, "_digest", lambda _: pytest.fail("hashed it"))
        assert verifier.cached("x" * 16_385) is None

    async def test_outage_of_the_key_source_is_not_cached(self, clock: Clock) -> None:
        class Unavailable(Keys):
            async def keys(self, kid: str | None, alg: str) -> Sequence[VerificationKey]:
                raise KeysUnavailable

        verifier = verifier_of(Unavailable(), clock)
        with pytest.raises(KeysUnavailable):
            await verifier.verify(token())
        assert verifier.cached(token()) is None


async def test_verifier_closes_its_key_source(verifier: TokenVerifier, keys: Keys) -> None:
    await verifier.aclose()
    assert keys.closed


class TestRules:
    @pytest.mark.parametrize(
        "unsafe",
        [
            {"issuer": ""},
            {"audiences": frozenset()},
            {"audiences": frozenset({""})},
            {"audiences": frozenset({"plinth", ""})},
        ],
    )
    def test_unsafe_token_rules_are_refused(self, unsafe: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match="issuer"):
            dataclasses.replace(RULES, **unsafe)


class TestKeys:
    def test_derived_keys_differ_by_secret_and_by_purpose(self) -> None:
        derived = {derive_key(secret, purpose) for secret in ("one", "two") for purpose in ("a", "b")}
        assert len(derived) == 4
        assert {len(key) for key in derived} == {32}
        assert derive_key("one", "a") == derive_key("one", "a")

    def test_secret_key_material_is_not_in_the_repr(self) -> None:
        assert "hush" not in repr(VerificationKey(b"hush", frozenset({"HS256"})))
        assert "hush" not in repr(vars(SecretKeys([b"hush"])))

    async def test_secrets_are_the_same_for_every_kid(self) -> None:
        source = SecretKeys([b"s" * 32, b"t" * 32])
        assert await source.keys(None, "HS256") == await source.keys("any", "HS256")
        assert len(await source.keys(None, "HS256")) == 2

    @pytest.mark.parametrize("material", [b"s" * 32, *(SigningKey.make("key-1", alg).public for alg in FAMILIES)])
    def test_key_is_for_the_algorithms_of_its_type_alone(self, material: object) -> None:
        accepted = []
        for alg in (*FAMILIES, "HS256", "none", "ES256K", ""):
            try:
                VerificationKey(material, frozenset({alg}))
            except ValueError:
                continue
            accepted.append(alg)
        assert accepted in (["HS256"], ["RS256", "PS256"], ["ES256"], ["ES384"], ["ES512"], ["EdDSA"])
        with pytest.raises(ValueError, match="not for this type"):
            VerificationKey(material, frozenset({accepted[0], "HS384" if accepted[0] != "HS256" else "RS256"}))

    @pytest.mark.parametrize(
        "material", [None, "text", KEY.private, ec.generate_private_key(ec.SECP256K1()).public_key()]
    )
    @pytest.mark.parametrize("algorithms", [{"RS256"}, {"HS256"}, {"ES256"}, set()])
    def test_other_material_is_no_key(self, material: object, algorithms: set[str]) -> None:
        with pytest.raises(ValueError, match="not for this type"):
            VerificationKey(material, frozenset(algorithms))

    @pytest.mark.parametrize("algorithms", [[], ["none"], ["RS256", "none"], ["ES256K"], ["HS1"]])
    def test_issuer_without_safe_algorithms_is_refused(self, algorithms: list[str]) -> None:
        with pytest.raises(ValueError, match="expected a key source"):
            Issuer(RULES, dict.fromkeys(algorithms, Keys(KEY)))


class TestSecretsBesidePublishedKeys:
    """Supabase while it rotates: HS256 with a shared secret, and published keys of several types."""

    RSA, EC, OKP = (SigningKey.make(alg, alg) for alg in ("RS256", "ES256", "EdDSA"))

    @pytest.fixture
    def verifier(self, clock: Clock) -> TokenVerifier:
        published = Keys()
        published.known = {key.kid: VerificationKey(key.public, frozenset({key.alg})) for key in self.keys}
        sources: dict[str, KeySource] = dict.fromkeys(("RS256", "ES256", "EdDSA"), published)
        return TokenVerifier([Issuer(RULES, sources | {"HS256": SecretKeys(SECRETS)})], now=clock)

    keys = (RSA, EC, OKP)

    @pytest.mark.parametrize("key", keys, ids=lambda key: key.alg)
    async def test_token_of_each_published_key_is_accepted(self, verifier: TokenVerifier, key: SigningKey) -> None:
        assert await verifier.verify(signed(key, claims()))

    @pytest.mark.parametrize("secret", SECRETS)
    @pytest.mark.parametrize("header", [{}, {"kid": "ES256"}, {"kid": "any"}])
    async def test_token_of_each_secret_is_accepted(
        self, verifier: TokenVerifier, secret: bytes, header: dict[str, str]
    ) -> None:
        assert await verifier.verify(compact({"alg": "HS256", **header}, claims(), hs256(secret)))
        assert (
            await refusal(verifier, compact({"alg": "HS256", **header}, claims(), hs256(b"x" * 32)))
            == Reason.BAD_SIGNATURE
        )

    @pytest.mark.parametrize("key", keys, ids=lambda key: key.alg)
    @pytest.mark.parametrize("encoding", [Encoding.PEM, Encoding.DER])
    @pytest.mark.parametrize("trim", [bytes, bytes.strip, lambda pem: pem.replace(b"\n", b"")])
    async def test_published_key_never_passes_for_a_secret(
        self, verifier: TokenVerifier, key: SigningKey, encoding: Encoding, trim: Callable[[bytes], bytes]
    ) -> None:
        forged = compact({"alg": "HS256", "kid": key.kid}, claims(), hs256(trim(key.public_bytes(encoding))))
        assert await refusal(verifier, forged) == Reason.BAD_SIGNATURE

    @pytest.mark.parametrize("key", keys, ids=lambda key: key.alg)
    @pytest.mark.parametrize("member", ["n", "x", "y", "kid"])
    async def test_part_of_a_published_key_never_passes_for_a_secret(
        self, verifier: TokenVerifier, key: SigningKey, member: str
    ) -> None:
        published = key.jwk().get(member, json.dumps(key.jwk()))
        forged = compact({"alg": "HS256", "kid": key.kid}, claims(), hs256(published.encode()))
        assert await refusal(verifier, forged) == Reason.BAD_SIGNATURE

    @pytest.mark.parametrize("key", keys, ids=lambda key: key.alg)
    @pytest.mark.parametrize("alg", ["RS256", "ES256", "EdDSA"])
    async def test_key_is_not_used_for_the_algorithm_of_another(
        self, verifier: TokenVerifier, key: SigningKey, alg: str
    ) -> None:
        if key.alg == alg:
            return
        for sign in (key.sign, hs256(SECRETS[0]), lambda _: b""):
            forged = compact({"alg": alg, "kid": key.kid}, claims(), sign)
            assert await refusal(verifier, forged) == Reason.WRONG_KEY

    @pytest.mark.parametrize("alg", ["HS384", "HS512", "RS512", "PS256", "ES384", "none"])
    async def test_algorithm_without_a_key_source_is_refused(self, verifier: TokenVerifier, alg: str) -> None:
        forged = compact({"alg": alg, "kid": "RS256"}, claims(), hs256(SECRETS[0]))
        assert await refusal(verifier, forged) == Reason.WRONG_ALGORITHM


class TestSeveralIssuers:
    """Each has keys and rules of its own, also where a kid is the same."""

    OTHER = "https://other.test"

    @pytest.fixture
    def sources(self) -> list[Keys]:
        return [Keys(KEY), Keys(SigningKey("key-1", "RS256", ANOTHER_KEY.private))]

    @pytest.fixture
    def verifier(self, clock: Clock, sources: list[Keys]) -> TokenVerifier:
        rules = [RULES, TokenRules(issuer=self.OTHER, audiences=frozenset({"other"}))]
        return TokenVerifier(
            [Issuer(rule, {"RS256": source}) for rule, source in zip(rules, sources, strict=True)], now=clock
        )

    async def test_token_of_each_issuer_is_accepted_as_its_own(self, verifier: TokenVerifier) -> None:
        one, other = token(), signed(ANOTHER_KEY, claims(iss=self.OTHER, aud="other"), kid="key-1")
        assert (await verifier.verify(one)).issuer == ISSUER
        assert (await verifier.verify(other)).issuer == self.OTHER

    async def test_key_of_one_issuer_verifies_no_token_of_another(self, verifier: TokenVerifier) -> None:
        forged = [
            signed(KEY, claims(iss=self.OTHER, aud="other")),
            signed(ANOTHER_KEY, claims(), kid="key-1"),
        ]
        for each in forged:
            assert await refusal(verifier, each) == Reason.BAD_SIGNATURE

    async def test_rules_of_one_issuer_admit_no_token_of_another(self, verifier: TokenVerifier) -> None:
        assert await refusal(verifier, token(aud="other")) == Reason.WRONG_AUDIENCE
        confused = signed(ANOTHER_KEY, claims(iss=self.OTHER, aud="plinth"), kid="key-1")
        assert await refusal(verifier, confused) == Reason.WRONG_AUDIENCE

    @pytest.mark.parametrize("iss", ["https://third.test", [ISSUER, OTHER], {}, 7, True, ...])
    async def test_token_of_no_issuer_asks_for_no_key(
        self, verifier: TokenVerifier, sources: list[Keys], iss: object
    ) -> None:
        assert await refusal(verifier, token(iss=iss)) in (Reason.WRONG_ISSUER, Reason.MISSING_CLAIM)
        assert [source.asked for source in sources] == [0, 0]

    async def test_every_key_source_is_closed(self, verifier: TokenVerifier, sources: list[Keys]) -> None:
        await verifier.aclose()
        assert all(source.closed for source in sources)


def test_refusal_reasons_can_be_metric_labels() -> None:
    assert all(reason.isidentifier() and len(reason) < 20 for reason in Reason)
