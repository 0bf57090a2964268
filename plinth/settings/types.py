"""The types of settings: how each is written, and what is refused.

Every check raises ValueError with what was expected. No message quotes the value, which may be a secret.
"""

import json
import re
from typing import Annotated, Literal
from urllib.parse import unquote

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, WithJsonSchema
from pydantic_settings import NoDecode

from plinth.settings import dsn, urls

MAY_BE_EMPTY = "may be empty"
"""Marks a type that gives an empty value a meaning. For any other type, an empty value counts as not set."""

MIN_SECRET_LENGTH = 32  # HS256 wants a key no shorter than its hash (RFC 7518, 3.2)

_PATH_PREFIX = r"^(/[A-Za-z0-9_.~-]+)+$"

_ALGORITHM_FAMILIES = (
    {"RS256", "RS384", "RS512"},
    {"PS256", "PS384", "PS512"},
    {"ES256", "ES384", "ES512"},
    {"EdDSA"},
)


def _split_list(value: object) -> object:
    if not isinstance(value, str):
        return value
    if not value.startswith("["):
        return [item.strip() for item in value.split(",") if item.strip()]
    try:
        return json.loads(value)
    except ValueError:
        raise ValueError("expected a list, separated by commas or in JSON") from None


def _upper(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


def _check_path_prefix(value: str) -> str:
    if not re.fullmatch(_PATH_PREFIX, value):
        raise ValueError("expected a path such as /api/v1, with no slash at the end")
    return value


def _check_origin(value: str) -> str:
    # Browsers send the scheme and host alone, in lower case.
    origin = value.rstrip("/").lower()
    if not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/@?#*\s]+", origin):
        raise ValueError("expected origins such as https://app.example.com")
    return origin


def _check_cors_origin(value: str) -> str:
    return value if value == "*" else _check_origin(value)


def _check_rate(value: str) -> str:
    if value and not re.fullmatch(r"[1-9]\d*(/| per )([1-9]\d* ?)?(second|minute|hour|day)s?", value):
        raise ValueError("expected a rate such as 600/minute, or nothing to switch it off")
    return value


def _check_url(value: str) -> str:
    urls.check_web_url(value)
    return value


def _check_database_url(value: SecretStr) -> SecretStr:
    url = value.get_secret_value()
    if not url.startswith("sqlite+aiosqlite://"):
        dsn.PostgresURL.parse(url)
    return value


def _check_redis_url(value: SecretStr) -> SecretStr:
    urls.check_redis_url(value.get_secret_value())
    return value


def _check_hmac_secret(value: SecretStr) -> SecretStr:
    if len(value.get_secret_value()) < MIN_SECRET_LENGTH:
        raise ValueError(f"expected at least {MIN_SECRET_LENGTH} characters")
    return value


def _check_name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,99}", value):
        raise ValueError("expected names of 1 to 100 letters, digits and . _ : -")
    return value


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _check_attributes(value: str) -> str:
    # As OTEL_RESOURCE_ATTRIBUTES and baggage are written: separators in a value are percent-encoded.
    if not all(re.fullmatch(r"[^=,\s]+\s*=[^=,]*", pair.strip()) for pair in value.split(",") if pair.strip()):
        raise ValueError("expected name=value pairs, separated by commas")
    return value


def _check_headers(value: SecretStr) -> SecretStr:
    # Stricter than OpenTelemetry's exporter, which drops a header that it cannot read and logs it.
    for pair in value.get_secret_value().split(","):
        name, _, text = pair.partition("=")
        sent = unquote(text.strip())
        if pair.strip() and not (
            re.fullmatch(r"[\w!#$%&'*+.^`|~-]+", name.strip(), re.ASCII)
            and re.fullmatch(r"[ !#-:<-\[\]-~]+", text.strip())
            and re.fullmatch(r"[ -~]+", sent)
        ):
            raise ValueError("expected name=value pairs, separated by commas, with other characters percent-encoded")
    return value


def _check_algorithms(value: tuple[str, ...]) -> tuple[str, ...]:
    # With a symmetric algorithm allowed beside a public key, a caller can sign with the public key as the secret.
    if not value or not any(family.issuperset(value) for family in _ALGORITHM_FAMILIES):
        raise ValueError("expected algorithms of one family: RS256 …, PS256 …, ES256 … or EdDSA")
    return value


LIST = (NoDecode, BeforeValidator(_split_list))
"""Makes a tuple a setting that is written `a,b` or as JSON: `Annotated[tuple[str, ...], *LIST]`."""

# Without the type of the input, the JSON schema would refuse small letters.
_UPPER = BeforeValidator(_upper, json_schema_input_type=str)
_LOWER = BeforeValidator(_lower, json_schema_input_type=str)

Seconds = Annotated[float, Field(ge=0.001, le=3600)]
Days = Annotated[float, Field(gt=0, le=3650)]
LogLevel = Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], _UPPER]
Sampler = Annotated[
    Literal[
        "always_on",
        "always_off",
        "traceidratio",
        "parentbased_always_on",
        "parentbased_always_off",
        "parentbased_traceidratio",
    ],
    _LOWER,
]
Attributes = Annotated[str, AfterValidator(_check_attributes)]
PathPrefix = Annotated[
    str, AfterValidator(_check_path_prefix), WithJsonSchema({"type": "string", "pattern": _PATH_PREFIX})
]
Rate = Annotated[str, AfterValidator(_check_rate), MAY_BE_EMPTY]

# Left as it is: an issuer is compared letter by letter with that of a token, a slash at its end included.
Url = Annotated[str, AfterValidator(_check_url)]
# For URLs that a path is appended to.
BaseUrl = Annotated[Url, AfterValidator(lambda url: url.rstrip("/"))]

Origins = Annotated[tuple[Annotated[str, AfterValidator(_check_origin)], ...], *LIST]
CorsOrigins = Annotated[tuple[Annotated[str, AfterValidator(_check_cors_origin)], ...], *LIST]
Names = Annotated[tuple[Annotated[str, AfterValidator(_check_name)], ...], Field(min_length=1), *LIST]
Components = Annotated[tuple[Literal["database", "redis"], ...], *LIST]
Algorithms = Annotated[tuple[str, ...], *LIST, AfterValidator(_check_algorithms)]

DatabaseUrl = Annotated[SecretStr, AfterValidator(_check_database_url)]
RedisUrl = Annotated[SecretStr, AfterValidator(_check_redis_url)]
Headers = Annotated[SecretStr, AfterValidator(_check_headers)]
HmacSecret = Annotated[SecretStr, AfterValidator(_check_hmac_secret)]
