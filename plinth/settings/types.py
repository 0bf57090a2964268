"""The types of settings: how each is written, and what is refused.

Every check raises ValueError with what was expected. No message quotes the value, which may be a secret.
"""

import json
import re
from collections.abc import Callable, Sequence
from ipaddress import ip_network
from typing import Annotated, Literal
from urllib.parse import unquote

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, WithJsonSchema
from pydantic_settings import NoDecode

from plinth.settings import dsn, urls
from plinth.settings.keys import secrets_in
from plinth.settings.secret_strength import MIN_SECRET_LENGTH
from plinth.settings.sentinel import SentinelURL

MAY_BE_EMPTY = "may be empty"
"""Marks a type that gives an empty value a meaning. For any other type, an empty value counts as not set."""

PATH_PREFIX = r"^(/[A-Za-z0-9_.~-]+)+$"
_PERMISSION = r"^[A-Za-z0-9._:/~+-]{1,200}$"


def _split_list(value: object) -> object:
    if not isinstance(value, str):
        return value
    if not value.startswith("["):
        return [item.strip() for item in value.split(",") if item.strip()]
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise ValueError("expected a list, separated by commas or in JSON") from None


def _cased(change: Callable[[str], str]) -> BeforeValidator:
    # Without the type of the input, the JSON schema would refuse letters of the other case.
    return BeforeValidator(lambda value: change(value) if isinstance(value, str) else value, json_schema_input_type=str)


def _matching(pattern: str, expected: str) -> AfterValidator:
    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(f"expected {expected}")
        return value

    return AfterValidator(check)


def _secret(check: Callable[[str], object]) -> AfterValidator:
    """Check the value of a SecretStr."""

    def checked(value: SecretStr) -> SecretStr:
        check(value.get_secret_value())
        return value

    return AfterValidator(checked)


def _check_database_url(url: str) -> None:
    if not url.startswith("sqlite+aiosqlite://"):
        dsn.PostgresURL.parse(url)


def _check_redis_url(url: str) -> None:
    watched = SentinelURL.parse(url)
    urls.check_redis_url(url if watched is None else watched.server)


def _check_secrets(value: SecretStr) -> SecretStr:
    if not secrets_in(value):
        raise ValueError("expected a secret, or several separated by commas")
    return value


def _check_hmac_secrets(value: SecretStr) -> SecretStr:
    if any(len(secret) < MIN_SECRET_LENGTH for secret in secrets_in(value)):
        raise ValueError(f"expected at least {MIN_SECRET_LENGTH} characters")
    if "-----BEGIN" in value.get_secret_value() or '"kty"' in value.get_secret_value():
        raise ValueError("expected a secret, not a key in PEM or JWK form, which may be public")
    return value


def _check_network(value: str) -> str:
    # Of a proxy, uvicorn takes what it cannot read for the name of a socket, and trusts nothing.
    try:
        return value if value == "*" else str(ip_network(value))
    except ValueError:
        raise ValueError("expected addresses or networks such as 10.0.0.0/8, without bits behind the mask") from None


def _check_attributes(value: str) -> str:
    # As OTEL_RESOURCE_ATTRIBUTES and baggage are written: separators in a value are percent-encoded.
    if not all(re.fullmatch(r"[^=,\s]+\s*=[^,]*", pair.strip()) for pair in value.split(",") if pair.strip()):
        raise ValueError("expected name=value pairs, separated by commas")
    return value


def _check_headers(value: str) -> None:
    # Stricter than OpenTelemetry's exporter, which drops a header that it cannot read and logs it.
    for pair in filter(str.strip, value.split(",")):
        name, _, text = pair.partition("=")
        if not (
            re.fullmatch(r"[\w!#$%&'*+.^`|~-]+", unquote(name.strip()), re.ASCII)
            and re.fullmatch(r"[ !#-:<-\[\]-~]+", text.strip())
            # Without blanks at its ends, of which requests complains in the log, with the value.
            and re.fullmatch(r"[!-~]([ -~]*[!-~])?", unquote(text.strip()))
        ):
            raise ValueError("expected name=value pairs, separated by commas, with other characters percent-encoded")


def _check_digits(value: object) -> object:
    # As the SDK reads it at its import, where anything else is a traceback.
    if isinstance(value, bool | float) or not re.fullmatch(r"[0-9]{1,9}", str(value)):
        raise ValueError("expected a whole number, 0 or more")
    return value


def _split_permissions(value: object) -> tuple[tuple[str, tuple[str, ...]], ...]:
    try:
        return tuple((name, tuple(permissions)) for name, permissions in _permissions(value).items())
    except (TypeError, ValueError, RecursionError):
        raise ValueError(
            "expected role=permission permission, with commas between roles, or a JSON object of lists; "
            "a permission has letters, digits and . _ : / ~ + -"
        ) from None


def _permissions(value: object) -> dict[str, Sequence[str]]:
    if isinstance(value, str) and value.startswith("{"):
        value = json.loads(value, object_pairs_hook=_unique)
    elif isinstance(value, str):
        granted: dict[str, list[str]] = {}
        for part in filter(str.strip, value.split(",")):
            name, _, permissions = part.partition("=")
            granted.setdefault(name.strip(), []).extend(permissions.split() or [""])
        value = granted
    elif isinstance(value, tuple):  # as it is here
        value = dict(value)
    if not isinstance(value, dict):
        raise TypeError
    for name, permissions in value.items():
        named = isinstance(name, str) and name and isinstance(permissions, list | tuple) and permissions
        if not named or not all(is_permission(permission) for permission in permissions):
            raise ValueError
    return value


def _unique(members: list[tuple[str, object]]) -> dict[str, object]:
    """Make a JSON object, in which no name comes twice: the last one would take what the others grant."""
    found = dict(members)
    if len(found) != len(members):
        raise ValueError
    return found


def is_permission(value: object) -> bool:
    """Whether a permission may be called this. Scopes of OAuth (RFC 6749) may; there are no wildcards."""
    return isinstance(value, str) and re.fullmatch(_PERMISSION, value) is not None


def _not_empty(value: tuple[str, ...]) -> tuple[str, ...]:
    if not value:
        raise ValueError("expected one or more")
    return value


LIST = (NoDecode, BeforeValidator(_split_list))
"""Makes a tuple a setting that is written `a,b` or as JSON: `Annotated[tuple[str, ...], *LIST]`."""

Seconds = Annotated[float, Field(ge=0.001, le=3600)]
Days = Annotated[float, Field(gt=0, le=3650)]
LogLevel = Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], _cased(str.upper)]
# What OpenTelemetry's specification says of the values of its variables: enumerations in letters of any case, switches
# that only `true` turns on, times in whole milliseconds.
Switch = Annotated[bool, BeforeValidator(lambda value: value.lower() == "true" if isinstance(value, str) else value)]
Milliseconds = Annotated[int, Field(ge=0, le=2**31 - 1)]
Exporter = Annotated[Literal["otlp", "none"], _cased(str.lower)]
Protocol = Annotated[str, _cased(str.lower)]
Compression = Annotated[Literal["none", "gzip", "deflate"], _cased(str.lower)]
Propagators = Annotated[tuple[Annotated[str, _cased(str.lower)], ...], *LIST]
Limit = Annotated[int, Field(ge=0), BeforeValidator(_check_digits)]
Sampler = Annotated[
    Literal[
        "always_on",
        "always_off",
        "traceidratio",
        "parentbased_always_on",
        "parentbased_always_off",
        "parentbased_traceidratio",
    ],
    _cased(str.lower),
]
Attributes = Annotated[str, AfterValidator(_check_attributes)]
PathPrefix = Annotated[
    str,
    _matching(PATH_PREFIX, "a path such as /api/v1, with no slash at the end"),
    WithJsonSchema({"type": "string", "pattern": PATH_PREFIX}),
]
Rate = Annotated[
    str,
    _matching(
        r"([1-9]\d*(/| per )([1-9]\d* ?)?(second|minute|hour|day)s?)?",
        "a rate such as 600/minute, or nothing to switch it off",
    ),
    MAY_BE_EMPTY,
]

# Left as it is: an issuer is compared letter by letter with that of a token, a slash at its end included.
Url = Annotated[str, AfterValidator(urls.check_web_url)]
Urls = Annotated[tuple[Url, ...], *LIST]
# For URLs that a path is appended to.
BaseUrl = Annotated[Url, AfterValidator(lambda url: url.rstrip("/"))]

TraceUrl = Annotated[
    str,
    _matching(
        r"https?://[^\s{}]+\{trace_id\}[^\s{}]*",
        "a URL with {trace_id} in it, such as https://jaeger.example.com/trace/{trace_id}",
    ),
]

# Browsers send the scheme and host alone, in lower case.
_ORIGIN = AfterValidator(lambda origin: origin.rstrip("/").lower())
_ORIGIN_PATTERN = r"[a-z][a-z0-9+.-]*://[^/@?#*\s]+"
_ORIGIN_EXPECTED = "origins such as https://app.example.com"
Origins = Annotated[tuple[Annotated[str, _ORIGIN, _matching(_ORIGIN_PATTERN, _ORIGIN_EXPECTED)], ...], *LIST]
# Not *.com: that any stranger's page may call is said with *.
_SUBDOMAINS_PATTERN = r"[a-z][a-z0-9+.-]*://\*\.(localhost|[a-z0-9_-]+(\.[a-z0-9_-]+)+)(:[0-9]+)?"
_CORS_ORIGIN = _matching(
    rf"\*|{_ORIGIN_PATTERN}|{_SUBDOMAINS_PATTERN}",
    "origins such as https://app.example.com or https://*.example.com",
)
CorsOrigins = Annotated[tuple[Annotated[str, _ORIGIN, _CORS_ORIGIN], ...], *LIST]
# Not *, which browsers take for a header of that name where credentials are sent.
_HEADER_NAME = _matching(r"[\w!#$%&'+.^`|~-]+", "names of headers such as X-Tenant")
HeaderNames = Annotated[tuple[Annotated[str, _HEADER_NAME], ...], *LIST]

Networks = Annotated[tuple[Annotated[str, AfterValidator(_check_network)], ...], *LIST]

_NAME = _matching(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,99}", "names of 1 to 100 letters, digits and . _ : -")
Names = Annotated[tuple[Annotated[str, _NAME], ...], Field(min_length=1), *LIST]
Texts = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], *LIST]
Components = Annotated[tuple[Literal["database", "redis"], ...], *LIST]
# Not HMAC: the keys of a JWKS are public.
Algorithms = Annotated[
    tuple[Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"], ...],
    *LIST,
    AfterValidator(_not_empty),
]

# Pairs of a role or scope and its permissions: settings are hashable.
Permissions = Annotated[
    tuple[tuple[str, tuple[str, ...]], ...],
    NoDecode,
    BeforeValidator(_split_permissions),
    WithJsonSchema(
        {
            "type": "object",
            "additionalProperties": {
                "type": "array",
                "items": {"type": "string", "pattern": _PERMISSION},
                "minItems": 1,
            },
        }
    ),
]

DatabaseUrl = Annotated[SecretStr, _secret(_check_database_url)]
RedisUrl = Annotated[SecretStr, _secret(_check_redis_url)]
Headers = Annotated[SecretStr, _secret(_check_headers)]
Secrets = Annotated[SecretStr, AfterValidator(_check_secrets)]
HmacSecrets = Annotated[Secrets, AfterValidator(_check_hmac_secrets)]
