"""Reads the URL of a PostgreSQL database as libpq does, and writes it for SQLAlchemy and asyncpg.

Providers give libpq URLs, such as `postgres://…?sslmode=require`. SQLAlchemy expects the driver in the scheme; asyncpg
reads libpq's parameters on TLS by itself, where it is given a DSN.
"""

import os
import re
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlencode

from plinth.settings.urls import MASK

_SCHEME = re.compile(r"postgres(ql)?(\+\w+)?", re.IGNORECASE)
_PLAIN_HOST = re.compile(r"[\w.:-]+", re.ASCII)
_PASSWORD_PARAMETER = re.compile(r"(?<![^&])((?:ssl)?password)=[^&]*")

_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_SSL_FILES = ("sslrootcert", "sslcert", "sslkey")
_SESSION_ATTRIBUTES = ("any", "primary", "standby", "prefer-standby", "read-write", "read-only")

_READ_BY_ASYNCPG = ("sslmode", "sslpassword", *_SSL_FILES, "target_session_attrs", "application_name", "options")
_PARAMETERS = (
    *_READ_BY_ASYNCPG,
    *("host", "port", "user", "password", "dbname", "connect_timeout"),
    "channel_binding",  # for psql; asyncpg has none
    "pgbouncer",  # Prisma's parameter for a transaction pooler
)
_ENCODE = "percent-encode / ? # @ : in the user name and the password (%40 is @)"


@dataclass(frozen=True, slots=True)
class PostgresURL:
    """The hosts of a PostgreSQL database, the credentials and the parameters. Without hosts: the driver's default."""

    user: str | None
    password: str | None = field(repr=False)
    hosts: tuple[tuple[str, int | None], ...]
    database: str | None
    parameters: Mapping[str, str] = field(repr=False)  # libpq's; sslpassword may be among them
    masked: str
    """The URL with its secrets masked."""

    @classmethod
    def parse(cls, url: str) -> "PostgresURL":
        """Read a libpq URL, with or without SQLAlchemy's `+driver` in its scheme.

        Raises ValueError with what was expected. The message quotes only the name of a parameter: any other part of
        a malformed URL may belong to the password.
        """
        scheme, separator, rest = url.partition("://")
        if not separator or not _SCHEME.fullmatch(scheme):
            raise ValueError("expected a URL that starts with postgresql://")
        address, _, query = rest.partition("?")
        authority, _, database = address.partition("/")
        if "@" in database or "@" in query:
            # A / or ? in the password ended the address too early, and the rest was read as something else.
            raise ValueError(f"an @ after the host: {_ENCODE}")
        credentials, at, addresses = authority.rpartition("@")
        user, colon, password = credentials.partition(":")
        shown = f"{user}{colon and colon + MASK}{at}{addresses}/{database}"
        shown_query = _PASSWORD_PARAMETER.sub(rf"\1={MASK}", query)

        parameters = _parameters(query)
        _check(parameters)
        # As in libpq, parameters take precedence.
        return cls(
            user=parameters.get("user") or unquote(user) or None,
            password=parameters.get("password") or unquote(password) or None,
            hosts=_hosts(addresses, parameters.get("host", ""), parameters.get("port", "")),
            database=parameters.get("dbname") or unquote(database) or None,
            parameters=parameters,
            masked=f"postgresql://{shown}" + (f"?{shown_query}" if query else ""),
        )

    @property
    def transaction_pooler(self) -> bool:
        return self.parameters.get("pgbouncer") == "true"

    def for_asyncpg(self) -> str:
        """Return the URL for SQLAlchemy's asyncpg dialect, to be used with `connect_arguments`."""
        from sqlalchemy import URL

        host, port, query = None, None, {}
        if len(self.hosts) == 1 and _PLAIN_HOST.fullmatch(self.hosts[0][0]):
            ((host, port),) = self.hosts
        elif self.hosts:
            query["host"] = ",".join(name for name, _ in self.hosts)
            query["port"] = ",".join(str(number or 5432) for _, number in self.hosts)
        if "sslmode" in self.parameters:
            query["ssl"] = self.parameters["sslmode"]
        user = self.user or (None if self.password is None else "")
        url = URL.create("postgresql+asyncpg", user, self.password, host, port, self.database, query)
        return url.render_as_string(hide_password=False)

    def connect_arguments(self) -> dict[str, Any]:
        """Return the arguments of `asyncpg.connect` besides the URL."""
        arguments: dict[str, Any] = {}
        if "connect_timeout" in self.parameters:
            arguments["timeout"] = float(self.parameters["connect_timeout"])
        given = {name: value for name, value in self.parameters.items() if name in _READ_BY_ASYNCPG}
        if given.get("sslrootcert") == "system":  # which asyncpg would take for a file
            arguments["ssl"] = ssl.create_default_context()
            if "sslcert" in given:
                password = given.get("sslpassword", "")
                arguments["ssl"].load_cert_chain(given["sslcert"], given.get("sslkey"), lambda: password)
        if given:
            arguments["dsn"] = f"postgresql://?{urlencode(given, quote_via=quote)}"
        return arguments


def _hosts(addresses: str, names: str, ports: str) -> tuple[tuple[str, int | None], ...]:
    """Return the hosts of a URL, or those of its parameters `host` and `port`."""
    hosts = []
    if names:
        hosts = [(name.strip("[]"), "") for name in names.split(",")]
        if any(host.count(":") == 1 for host, _ in hosts):
            raise ValueError("expected the ports in the parameter port, not behind the names in host")
    else:
        for address in addresses.split(",") if addresses else ():
            if address.startswith("["):  # IPv6
                host, _, port = address[1:].partition("]")
                port = port.removeprefix(":")
            else:
                host, _, port = address.partition(":")
            hosts.append((unquote(host) or "localhost", port))
    if ports:
        hosts = hosts or [("localhost", "")]
        numbers = ports.split(",")
        if len(numbers) not in (1, len(hosts)):
            raise ValueError("expected one port, or as many as there are hosts")
        numbers *= len(hosts) // len(numbers)
        hosts = [(host, number) for (host, _), number in zip(hosts, numbers, strict=True)]
    return tuple((host, _port(number)) for host, number in hosts)


def _port(text: str) -> int | None:
    if not text:
        return None
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 0 < int(text) < 65536:
        raise ValueError(f"expected a port from 1 to 65535 after the host; {_ENCODE}")
    return int(text)


def _parameters(query: str) -> dict[str, str]:
    parameters: dict[str, str] = {}
    for pair in query.split("&") if query else ():
        name, _, value = pair.partition("=")
        value = unquote(value)
        if name == "ssl":
            # JDBC writes ssl=true, which libpq accepts; SQLAlchemy writes ssl=<mode> for asyncpg.
            name, value = "sslmode", "require" if value == "true" else value
        if name not in _PARAMETERS:
            raise ValueError(f"asyncpg has no counterpart for the parameter {name!r}: leave it out")
        if name in parameters:
            raise ValueError(f"expected the parameter {name!r} once")
        parameters[name] = value
    if parameters.get("sslrootcert") == "system":
        parameters.setdefault("sslmode", "verify-full")  # libpq's default in that case
    return parameters


def _check(parameters: Mapping[str, str]) -> None:
    _check_one_of("pgbouncer", parameters, ("false", "true"))
    _check_one_of("sslmode", parameters, _SSL_MODES)
    _check_one_of("target_session_attrs", parameters, _SESSION_ATTRIBUTES)
    if not re.fullmatch(r"[1-9][0-9]{0,3}", parameters.get("connect_timeout", "1")):
        raise ValueError("expected connect_timeout in whole seconds, from 1 to 9999")
    _check_files(parameters)


def _check_one_of(name: str, parameters: Mapping[str, str], allowed: Sequence[str]) -> None:
    if parameters.get(name, allowed[0]) not in allowed:
        raise ValueError(f"expected {name} to be one of {', '.join(allowed)}")


def _check_files(parameters: Mapping[str, str]) -> None:
    mode = parameters.get("sslmode", "prefer")
    given = {name: parameters[name] for name in _SSL_FILES if name in parameters}
    if mode.startswith("verify-") and "sslrootcert" not in given:
        # Without it, libpq and asyncpg look into ~/.postgresql, which a container does not have.
        raise ValueError(f"sslmode={mode} needs sslrootcert: a file, or `system` for the system's certificates")
    if given.get("sslrootcert") == "system":
        if mode != "verify-full":
            raise ValueError("sslrootcert=system needs sslmode=verify-full")
        del given["sslrootcert"]
    for name, path in given.items():
        if mode in ("disable", "allow", "prefer"):
            raise ValueError(f"{name} needs sslmode=require, verify-ca or verify-full")
        if not (Path(path).is_file() and os.access(path, os.R_OK)):
            raise ValueError(f"{name}: no readable file is there")
