"""The parameters of a libpq URL: which are understood, which have no effect, and which are refused.

libpq's list: https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS
"""

import os
import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from urllib.parse import unquote

__all__ = ["KEEPALIVE", "SSL_FILES", "check_parameter", "read_parameters"]

SSL_FILES = ("sslrootcert", "sslcert", "sslkey")
_TLS_VERSIONS = ("ssl_min_protocol_version", "ssl_max_protocol_version")
_FILES = (*SSL_FILES, "passfile")

# Any text. An empty one counts as left out.
_TEXTS = (
    *("host", "port", "user", "password", "dbname", "sslpassword", *_FILES),
    *("application_name", "options", "krbsrvname", "gsslib"),
    "fallback_application_name",  # of no effect: PROJECT_NAME is the one to fall back to
)
_CHOICES = {
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "sslnegotiation": ("postgres", "direct"),
    "ssl_min_protocol_version": ("", "TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"),
    "ssl_max_protocol_version": ("", "TLSv1.2", "TLSv1.3"),
    "target_session_attrs": ("any", "primary", "standby", "prefer-standby", "read-write", "read-only"),
    "load_balance_hosts": ("disable", "random"),
    "pgbouncer": ("false", "true"),  # Prisma's parameter for a transaction pooler
    # Of no effect: what asyncpg does anyway, or would do as well as it can. Neon writes channel_binding=require.
    "channel_binding": ("disable", "prefer", "require"),
    "gssencmode": ("disable", "prefer"),
    "gssdelegation": ("0",),
    "sslcompression": ("", "0", "1"),  # libpq ignores it as well
    "sslcertmode": ("allow",),
    "sslsni": ("1",),
    "replication": ("", "false", "off", "no", "0"),
    "client_encoding": ("", "UTF8", "utf8", "UTF-8", "utf-8", "unicode", "UNICODE"),
}
# The largest values that Linux takes. Negative ones count as 0, which leaves the value to the system.
KEEPALIVE = {
    "keepalives": 1,
    "keepalives_idle": 32767,
    "keepalives_interval": 32767,
    "keepalives_count": 127,
    "tcp_user_timeout": 2**31 - 1,
}
_UNDERSTOOD = (*_TEXTS, *_CHOICES, *KEEPALIVE, "connect_timeout", "ssl", "requiressl")
# Left out without a word they would promise what is not kept.
_REFUSED = {
    "hostaddr": "write the address as the host",
    "service": "write what it stands for into the URL",
    "servicefile": "write what it stands for into the URL",
    **dict.fromkeys(
        (
            *("require_auth", "requirepeer", "sslcrl", "sslcrldir", "sslkeylogfile"),
            *("scram_client_key", "scram_server_key", "min_protocol_version", "max_protocol_version"),
            *("oauth_issuer", "oauth_client_id", "oauth_client_secret", "oauth_scope"),
        ),
        "leave it out",
    ),
}


def read_parameters(query: str) -> dict[str, str]:
    """Return the parameters of a URL that have a value.

    Raises ValueError with the name of the one that is wrong, and no value.
    """
    parameters: dict[str, str] = {}
    for pair in query.split("&") if query else ():
        given, _, value = pair.partition("=")
        name, value = _usual(given, unquote(value))
        check_parameter(name, value)
        if name in parameters:
            raise ValueError(f"expected the parameter {name!r} once")
        parameters[name] = value
    parameters = {name: value for name, value in parameters.items() if value}
    if parameters.get("sslrootcert") == "system":
        parameters.setdefault("sslmode", "verify-full")  # libpq's default in that case
    _check_tls(parameters)
    return parameters


def _usual(name: str, value: str) -> tuple[str, str]:
    """Return a parameter under the name that libpq gives it today."""
    if name == "ssl":
        # JDBC writes ssl=true, which libpq accepts; SQLAlchemy writes ssl=<mode> for asyncpg.
        return "sslmode", "require" if value == "true" else value
    if name == "requiressl":
        if value not in ("", "0", "1"):
            raise ValueError("expected requiressl to be one of 0, 1")
        return "sslmode", "require" if value == "1" else "prefer"
    return name, value


def check_parameter(name: str, value: str) -> None:
    """Raise ValueError with the name of the parameter unless it may have that value."""
    if name in _REFUSED:
        if value:
            raise ValueError(f"asyncpg has no counterpart for the parameter {name!r}: {_REFUSED[name]}")
    elif name in _CHOICES:
        if value not in _CHOICES[name]:
            raise ValueError(f"expected {name} to be one of {', '.join(filter(None, _CHOICES[name]))}")
    elif name in KEEPALIVE:
        if not re.fullmatch(r"-?[0-9]{1,10}", value) or int(value) > KEEPALIVE[name]:
            raise ValueError(f"expected {name} to be a whole number of at most {KEEPALIVE[name]}")
    elif name == "connect_timeout":
        if not re.fullmatch(r"[1-9][0-9]{0,3}", value):
            # libpq waits for ever at 0, and no request can.
            raise ValueError("expected connect_timeout in whole seconds, from 1 to 9999")
    elif name not in _TEXTS:
        nearest = get_close_matches(name.lower(), _UNDERSTOOD, n=1, cutoff=0.7)
        hint = f"; did you mean {nearest[0]}?" if nearest else ""
        raise ValueError(f"{name!r} is not a parameter of libpq{hint}")
    elif name == "gsslib" and value not in ("", "gssapi", "sspi"):
        raise ValueError("expected gsslib to be one of gssapi, sspi")


def _check_tls(parameters: Mapping[str, str]) -> None:
    mode = parameters.get("sslmode", "prefer")
    root = parameters.get("sslrootcert")
    if mode.startswith("verify-") and root is None:
        # Without it, libpq and asyncpg look into ~/.postgresql, which a container does not have.
        raise ValueError(f"sslmode={mode} needs sslrootcert: a file, or `system` for the system's certificates")
    if root == "system" and mode != "verify-full":
        raise ValueError("sslrootcert=system needs sslmode=verify-full")
    needs_tls = [name for name in (*SSL_FILES, *_TLS_VERSIONS) if name in parameters and parameters[name] != "system"]
    if parameters.get("sslnegotiation") == "direct":
        needs_tls.append("sslnegotiation=direct")
    if needs_tls and mode in ("disable", "allow", "prefer"):
        raise ValueError(f"{needs_tls[0]} needs sslmode=require, verify-ca or verify-full")
    least, most = (parameters.get(name) for name in _TLS_VERSIONS)
    if least and most and least > most:
        raise ValueError("expected ssl_min_protocol_version to be no newer than ssl_max_protocol_version")
    for name in _FILES:
        path = parameters.get(name)
        if path is not None and path != "system" and not (Path(path).is_file() and os.access(path, os.R_OK)):
            raise ValueError(f"{name}: no readable file is there")
