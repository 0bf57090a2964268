"""The rules for the claims of a bearer token, for all providers.

`TokenVerifier` reads a JSON Web Token, checks its signature with a key from a `KeySource` and its claims with
`TokenRules`.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from plinth.identity.errors import Reason, TokenError
from plinth.identity.principal import Principal

__all__ = ["Claims", "TokenRules", "common_roles", "is_subject", "strings"]

MAX_SUBJECT_LENGTH = 255
LEEWAY = 30  # seconds by which the issuer's clock may differ from ours
MAX_TIME = 253_402_300_799  # the last second of the year 9999

# Claims of OpenID Connect that only tokens not meant for an API have: ID tokens and logout tokens.
NOT_FOR_AN_API = ("nonce", "at_hash", "c_hash", "events")

# Half of a character, such as JSON may spell: no UTF-8, so no response could name such a role.
_SURROGATE = re.compile(r"[\ud800-\udfff]")

Claims: TypeAlias = Mapping[str, Any]


def strings(value: object) -> frozenset[str]:
    """Read a claim that holds a string or a list of strings; anything else counts as absent."""
    items = value if isinstance(value, list) else [value]
    return frozenset(item for item in items if isinstance(item, str) and not _SURROGATE.search(item))


def is_subject(value: object) -> bool:
    """Whether a token may have this `sub`."""
    # Printable: PostgreSQL takes no NUL, UTF-8 no surrogate, and a log line no line break.
    return isinstance(value, str) and 0 < len(value) <= MAX_SUBJECT_LENGTH and value.isprintable()


def common_roles(claims: Claims) -> frozenset[str]:
    """Read `roles` and `role`, the claims that most issuers use."""
    return strings(claims.get("roles")) | strings(claims.get("role"))


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRules:
    """The rules for the claims of one issuer's access tokens, or of its ID tokens for one client.

    `exp`, `iat`, `sub` and `iss` are always required. Raises ValueError for unsafe rules.
    """

    issuer: str
    audiences: frozenset[str] | None = None
    """One of them is required in `aud`. If None, a token that has an `aud` is refused: it is for another service."""
    authorized_parties: frozenset[str] | None = None
    """If set, `azp` is required and must be one of them."""
    max_lifetime: int | None = None
    """If set, `exp` may be so many seconds after `iat`."""
    only_typed: bool = False
    """Whether the header has to say that the token is an access token (RFC 9068)."""
    id_token: bool = False
    """Whether they are for ID tokens of OpenID Connect. `check` then compares the nonce."""
    check: Callable[[Claims], None] | None = None
    """A check of this provider's own. Raises TokenError."""
    roles: Callable[[Claims], frozenset[str]] = common_roles
    """Reads the roles from this provider's claims."""

    def __post_init__(self) -> None:
        if not self.issuer or (self.audiences is not None and not all(self.audiences or [""])):
            raise ValueError("the issuer must be named, and an audience must not be empty")

    def admit(self, claims: Claims, *, typed: bool, now: float) -> Principal:
        """Check the claims of a token whose signature is valid, at `now` in Unix seconds. Raises TokenError.

        `typed`: the token's header says that it is an access token (RFC 9068).
        """
        expires_at = self._check_times(claims, now)
        self._check_audience(claims)
        if not is_subject(_required(claims, "sub")):
            raise TokenError(Reason.INVALID_CLAIM)
        if _required(claims, "iss") != self.issuer:
            raise TokenError(Reason.WRONG_ISSUER)
        party = claims.get("azp")
        if self.authorized_parties is not None and not (isinstance(party, str) and party in self.authorized_parties):
            raise TokenError(Reason.WRONG_PARTY)
        # Bound to a key of the client (DPoP, RFC 9449; mutual TLS, RFC 8705): as a plain bearer token it may be stolen.
        if "cnf" in claims:
            raise TokenError(Reason.BOUND_TO_KEY)
        if self._is_of_another_type(claims, typed=typed):
            raise TokenError(Reason.WRONG_TYPE)
        if self.check is not None:
            self.check(claims)
        return Principal(
            subject=claims["sub"],
            issuer=self.issuer,
            scopes=_scopes(claims),
            roles=self.roles(claims),
            expires_at=expires_at,
        )

    def _is_of_another_type(self, claims: Claims, *, typed: bool) -> bool:
        if self.id_token:
            return typed
        return not typed and (self.only_typed or _is_no_access_token(claims))

    def _check_times(self, claims: Claims, now: float) -> int:
        expires_at = _time(_required(claims, "exp"))
        issued_at = _time(_required(claims, "iat"))
        if now >= expires_at + LEEWAY:
            raise TokenError(Reason.EXPIRED)
        if issued_at > now + LEEWAY:
            raise TokenError(Reason.ISSUED_IN_FUTURE)
        if self.max_lifetime is not None and expires_at - issued_at > self.max_lifetime:
            raise TokenError(Reason.LIVES_TOO_LONG)
        if "nbf" in claims and _time(claims["nbf"]) > now + LEEWAY:
            raise TokenError(Reason.NOT_YET_VALID)
        return int(expires_at)

    def _check_audience(self, claims: Claims) -> None:
        # Cognito's access tokens name the application that they are for in `client_id`. Others name the one there that
        # asked for the token.
        name = "client_id" if "aud" not in claims and claims.get("token_use") == "access" else "aud"
        if self.audiences is not None:
            named = _required(claims, name)
            named = [named] if isinstance(named, str) else named
            if not isinstance(named, list) or not all(isinstance(one, str) for one in named):
                raise TokenError(Reason.WRONG_AUDIENCE)
            if self.audiences.isdisjoint(named):
                raise TokenError(Reason.WRONG_AUDIENCE)
        elif "aud" in claims:
            raise TokenError(Reason.WRONG_AUDIENCE)


def _required(claims: Claims, name: str) -> Any:
    value = claims.get(name)
    if value is None:
        raise TokenError(Reason.MISSING_CLAIM)
    return value


def _time(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):  # True is an int
        raise TokenError(Reason.INVALID_CLAIM)
    if not 0 <= value <= MAX_TIME:  # Python's JSON parser accepts Infinity and NaN
        raise TokenError(Reason.INVALID_CLAIM)
    return value


def _is_no_access_token(claims: Claims) -> bool:
    # Keycloak up to 24 puts `nonce` into access tokens as well, and says by `typ` which of them a token is.
    tells = set(NOT_FOR_AN_API) - ({"nonce"} if claims.get("typ") == "Bearer" else set())
    return (
        any(name in claims for name in tells)
        or claims.get("token_use") == "id"  # Cognito
        or claims.get("typ") == "ID"  # Keycloak
    )


def _scopes(claims: Claims) -> frozenset[str]:
    return frozenset(
        word for value in strings(claims.get("scope")) | strings(claims.get("scp")) for word in value.split()
    )
