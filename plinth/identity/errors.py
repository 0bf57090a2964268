"""Why a bearer token is refused."""

from enum import StrEnum

__all__ = ["KeysUnavailable", "Reason", "TokenError"]


class Reason(StrEnum):
    """The reason for which a token was refused: a fixed set, for logs. Clients see it with ENVIRONMENT=local alone."""

    OVERSIZED = "oversized"  # longer than MAX_TOKEN_LENGTH
    MALFORMED = "malformed"  # not a signed token in compact form, or a part that must be JSON is not
    WRONG_ALGORITHM = "wrong_algorithm"  # not in the issuer's allow-list; "none" never is
    CRITICAL_HEADER = "critical_header"  # has a `crit` header: it requires an extension, and none is supported
    WRONG_TYPE = "wrong_type"  # an ID token or another kind of token instead of an access token
    UNKNOWN_KID = "unknown_kid"  # the issuer has no such key, or several and the token names none
    WRONG_KEY = "wrong_key"  # the key is not for the token's algorithm
    BAD_SIGNATURE = "bad_signature"
    MISSING_CLAIM = "missing_claim"
    INVALID_CLAIM = "invalid_claim"  # a claim of the wrong type or size
    EXPIRED = "expired"
    NOT_YET_VALID = "not_yet_valid"  # `nbf` is ahead of the clock
    ISSUED_IN_FUTURE = "issued_in_future"  # `iat` is ahead of the clock
    LIVES_TOO_LONG = "lives_too_long"  # from `iat` to `exp` it is more than TOKEN_MAX_LIFETIME
    WRONG_ISSUER = "wrong_issuer"
    WRONG_AUDIENCE = "wrong_audience"
    WRONG_PARTY = "wrong_party"  # `azp` is not among the authorized parties
    WRONG_NONCE = "wrong_nonce"  # an ID token of another sign-in
    WRONG_ROLE = "wrong_role"  # not of a signed-in user: an API key, or a token of a service
    BOUND_TO_KEY = "bound_to_key"  # has a `cnf` claim: its bearer alone may not use it
    PENDING_SESSION = "pending_session"  # the sign-in is not complete
    UNKNOWN_API_KEY = "unknown_api_key"  # there is no such API key, or its secret is another
    REVOKED = "revoked"  # the API key was revoked


class TokenError(Exception):
    """The token is not valid. `reason` is for logs; the message contains nothing of the token."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.value)
        self.reason = reason


class KeysUnavailable(Exception):
    """The issuer's keys cannot be fetched, so no token can be verified: an outage (503), not a bad token (401)."""
