"""Bearer tokens: what makes one good, whoever issued it.

`TokenVerifier` opens a JSON Web Token, checks its signature with a key from a `KeySource` and holds its
claims against `TokenRules`. Each provider's rules, and the fetching of keys, are in `plinth.identity`.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol, TypeAlias

MAX_TOKEN_LENGTH = 8192  # characters; access tokens have some 500 to 2,000
MAX_KID_LENGTH = 255
MAX_SUBJECT_LENGTH = 255
MAX_LEEWAY = 60  # seconds
MAX_TIME = 253_402_300_799  # the last second of the year 9999

# Within a family every algorithm takes the same kind of key; a mixture is what lets a forger choose.
ALGORITHM_FAMILIES = (
    frozenset({"RS256", "RS384", "RS512"}),
    frozenset({"PS256", "PS384", "PS512"}),
    frozenset({"ES256", "ES384", "ES512"}),
    frozenset({"EdDSA"}),
    frozenset({"HS256", "HS384", "HS512"}),
)

# What OpenID Connect puts only into tokens that are not meant for an API: ID tokens and logout tokens.
NOT_FOR_AN_API = ("nonce", "at_hash", "c_hash", "events")

Claims: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls, as a verified token says. `expires_at` is in Unix seconds."""

    subject: str
    issuer: str
    scopes: frozenset[str]
    roles: frozenset[str]
    expires_at: int


class Reason(StrEnum):
    """Why a token was refused: a fixed set, fit for a metric's label. The client is not told which."""

    OVERSIZED = "oversized"  # longer than MAX_TOKEN_LENGTH
    MALFORMED = "malformed"  # not a signed token in compact form, or not JSON where JSON is due
    WRONG_ALGORITHM = "wrong_algorithm"  # not in the issuer's allow-list; "none" never is
    CRITICAL_HEADER = "critical_header"  # has a `crit` header: asks for an extension that nobody here knows
    WRONG_TYPE = "wrong_type"  # an ID token or another kind of token where an access token is due
    UNKNOWN_KID = "unknown_kid"  # the issuer has no such key, or several and the token names none
    WRONG_KEY = "wrong_key"  # the key is not meant for the token's algorithm
    BAD_SIGNATURE = "bad_signature"
    MISSING_CLAIM = "missing_claim"
    INVALID_CLAIM = "invalid_claim"  # a claim of the wrong type or size
    EXPIRED = "expired"
    NOT_YET_VALID = "not_yet_valid"  # `nbf` is ahead of the clock
    ISSUED_IN_FUTURE = "issued_in_future"  # `iat` is ahead of the clock
    WRONG_ISSUER = "wrong_issuer"
    WRONG_AUDIENCE = "wrong_audience"
    WRONG_PARTY = "wrong_party"  # `azp` is not among the authorized parties
    WRONG_ROLE = "wrong_role"  # not a signed-in user: an API key, or a service's own token
    PENDING_SESSION = "pending_session"  # the sign-in is not complete


class TokenError(Exception):
    """The token does not hold. `reason` is for logs and metrics; nothing of the token is in the message."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.value)
        self.reason = reason


class KeysUnavailable(Exception):
    """The issuer's keys cannot be had, so no token can be judged: an outage (503), not a bad token (401)."""


@dataclass(slots=True, eq=False)
class VerificationKey:
    """A key, in the form PyJWT takes it, and the algorithms it may verify.

    Its source sets `retired` when the issuer withdraws the key; verdicts reached with it end there and then.
    """

    material: Any = field(repr=False)
    algorithms: frozenset[str]
    retired: bool = False


class KeySource(Protocol):
    async def key(self, kid: str | None, alg: str) -> VerificationKey:
        """Find the key that a token names. Raises TokenError (unknown_kid) or KeysUnavailable."""

    async def aclose(self) -> None: ...


class FixedKey:
    """The key source of an issuer with one shared secret. A token's `kid` has nothing to choose from."""

    def __init__(self, secret: bytes, algorithms: Iterable[str]) -> None:
        self._key = VerificationKey(secret, frozenset(algorithms))

    async def key(self, kid: str | None, alg: str) -> VerificationKey:
        return self._key

    async def aclose(self) -> None:
        pass


def strings(value: object) -> frozenset[str]:
    """Read a claim that holds a string or a list of strings; anything else is as good as absent."""
    if isinstance(value, str):
        return frozenset({value})
    if isinstance(value, list):
        return frozenset(item for item in value if isinstance(item, str))
    return frozenset()


def is_subject(value: object) -> bool:
    # Printable, because PostgreSQL takes no NUL, UTF-8 no surrogate, and a log line no line break.
    return isinstance(value, str) and 0 < len(value) <= MAX_SUBJECT_LENGTH and value.isprintable()


def _anything_goes(claims: Claims) -> None:
    pass


def common_roles(claims: Claims) -> frozenset[str]:
    """Read `roles` and `role`, where most issuers write them."""
    return strings(claims.get("roles")) | strings(claims.get("role"))


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRules:
    """What the claims of one issuer's access tokens must say.

    `exp`, `iat`, `sub` and `iss` are always required. Raises ValueError for rules that would be unsafe.
    """

    issuer: str
    algorithms: frozenset[str]
    """Allow-list, of one family."""
    audience: str | None = None
    """Required in `aud`. Where it is None, a token that has an `aud` is meant for somebody else."""
    authorized_parties: frozenset[str] | None = None
    """Where set, `azp` must be there and be one of them."""
    leeway: int = 30
    """Seconds by which the issuer's clock may differ from ours."""
    check: Callable[[Claims], None] = _anything_goes
    """What only this provider demands. Raises TokenError."""
    roles: Callable[[Claims], frozenset[str]] = common_roles
    """Where this provider writes roles."""

    def __post_init__(self) -> None:
        if not self.issuer or self.audience == "":
            raise ValueError("the issuer must be named, and an audience must not be empty")
        if not self.algorithms or not any(self.algorithms <= family for family in ALGORITHM_FAMILIES):
            raise ValueError("algorithms must be of one family")
        if not 0 <= self.leeway <= MAX_LEEWAY:
            raise ValueError(f"leeway must be 0 to {MAX_LEEWAY} seconds")

    def admit(self, claims: Claims, *, typed: bool, now: float) -> Principal:
        """Judge the claims of a token whose signature holds, at `now` in Unix seconds. Raises TokenError.

        `typed`: the token's header says that it is an access token (RFC 9068).
        """
        expires_at = self._check_times(claims, now)
        self._check_audience(claims)
        if not is_subject(_required(claims, "sub")):
            raise TokenError(Reason.INVALID_CLAIM)
        if _required(claims, "iss") != self.issuer:
            raise TokenError(Reason.WRONG_ISSUER)
        parties = self.authorized_parties
        if parties is not None and parties.isdisjoint(strings(claims.get("azp"))):
            raise TokenError(Reason.WRONG_PARTY)
        if not typed and _is_no_access_token(claims):
            raise TokenError(Reason.WRONG_TYPE)
        self.check(claims)
        return Principal(
            subject=claims["sub"],
            issuer=self.issuer,
            scopes=_scopes(claims),
            roles=self.roles(claims),
            expires_at=expires_at,
        )

    def _check_times(self, claims: Claims, now: float) -> int:
        expires_at = _time(_required(claims, "exp"))
        issued_at = _time(_required(claims, "iat"))
        if now >= expires_at + self.leeway:
            raise TokenError(Reason.EXPIRED)
        if issued_at > now + self.leeway:
            raise TokenError(Reason.ISSUED_IN_FUTURE)
        if "nbf" in claims and _time(claims["nbf"]) > now + self.leeway:
            raise TokenError(Reason.NOT_YET_VALID)
        return int(expires_at)

    def _check_audience(self, claims: Claims) -> None:
        if self.audience is not None:
            _required(claims, "aud")
        if "aud" in claims and self.audience not in strings(claims["aud"]):
            raise TokenError(Reason.WRONG_AUDIENCE)


def _required(claims: Claims, name: str) -> Any:
    value = claims.get(name)
    if value is None:
        raise TokenError(Reason.MISSING_CLAIM)
    return value


def _time(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):  # True is an int
        raise TokenError(Reason.INVALID_CLAIM)
    if not 0 <= value <= MAX_TIME:  # JSON as Python reads it has Infinity and NaN
        raise TokenError(Reason.INVALID_CLAIM)
    return value


def _is_no_access_token(claims: Claims) -> bool:
    return (
        any(name in claims for name in NOT_FOR_AN_API)
        or claims.get("token_use") == "id"  # Cognito
        or claims.get("typ") == "ID"  # Keycloak
    )


def _scopes(claims: Claims) -> frozenset[str]:
    return frozenset(
        word for value in strings(claims.get("scope")) | strings(claims.get("scp")) for word in value.split()
    )
