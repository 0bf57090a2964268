"""Reads the URL of a PostgreSQL database and writes it for each driver.

Providers give libpq URLs, such as `postgres://…?sslmode=require`. SQLAlchemy expects the driver in the scheme, and
asyncpg takes other parameters than libpq.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from plinth.settings.urls import MASK

_SCHEME = re.compile(r"postgres(ql)?(\+\w+)?", re.IGNORECASE)
_PLAIN_HOST = re.compile(r"[\w.-]+", re.ASCII)

_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_SSL_FILES = ("sslrootcert", "sslcert", "sslkey")
_SESSION_ATTRIBUTES = ("any", "primary", "standby", "prefer-standby", "read-write", "read-only")

_PARAMETERS = (
    *("host", "port", "user", "password", "dbname"),
    *("sslmode", "sslpassword", *_SSL_FILES),
    *("application_name", "options", "connect_timeout", "target_session_attrs"),
    "channel_binding",  # for psql; asyncpg has none
    "pgbouncer",  # Prisma's parameter for a transaction pooler
)
_ENCODE = "percent-encode / ? # @ : in the user name and the password (%40 is @)"

Host = tuple[str, int | None]


@dataclass(frozen=True, slots=True)
class PostgresURL:
    """The hosts of a PostgreSQL database, the credentials and the parameters. Without hosts: the driver's default."""

    user: str | None
    password: str | None = field(repr=False)
    hosts: tuple[Host, ...]
    database: str | None
    transaction_pooler: bool
    parameters: Mapping[str, str] = field(repr=False)  # libpq's; sslpassword may be among them

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
        credentials, _, addresses = authority.rpartition("@")
        user, _, password = credentials.partition(":")
        hosts = tuple(_hosts(addresses))

        parameters = _parameters(query)
        _check(parameters)
        # As in libpq, parameters take precedence.
        return cls(
            user=parameters.pop("user", "") or unquote(user) or None,
            password=parameters.pop("password", "") or unquote(password) or None,
            hosts=_override(hosts, parameters.pop("host", ""), parameters.pop("port", "")),
            database=parameters.pop("dbname", "") or unquote(database) or None,
            transaction_pooler=parameters.pop("pgbouncer", "false") == "true",
            parameters=parameters,
        )

    @property
    def encryption_is_stated(self) -> bool:
        """Whether the URL says how connections are encrypted. Those to a unix socket need not be."""
        return "sslmode" in self.parameters or (
            bool(self.hosts) and all(host.startswith("/") for host, _ in self.hosts)
        )

    def for_asyncpg(self) -> str:
        """Return the URL for SQLAlchemy's asyncpg dialect, to be used with `connect_arguments`."""
        netloc = _netloc(*self.hosts[0]) if len(self.hosts) == 1 else ""
        query = {}
        if self.hosts and not netloc:
            # Of the dialect's two forms, only this one accepts IPv6 addresses and sockets.
            query["host"] = ",".join(host for host, _ in self.hosts)
            query["port"] = ",".join(str(port or 5432) for _, port in self.hosts)
        if "sslmode" in self.parameters:
            query["ssl"] = self.parameters["sslmode"]
        return self._render("postgresql+asyncpg", netloc, query)

    def for_libpq(self) -> str:
        """Return the URL for psql and pg_dump."""
        return self._render("postgresql", self._libpq_hosts(), self.parameters)

    def masked(self) -> str:
        """Return the URL with its secrets masked."""
        shown = {name: MASK if name == "sslpassword" else value for name, value in self.parameters.items()}
        return self._render("postgresql", self._libpq_hosts(), shown, mask=True)

    def connect_arguments(self) -> dict[str, Any]:
        """Return the arguments of `asyncpg.connect` besides the URL.

        Raises ValueError when a certificate cannot be loaded.
        """
        arguments: dict[str, Any] = {}
        if "connect_timeout" in self.parameters:
            arguments["timeout"] = float(self.parameters["connect_timeout"])
        if "target_session_attrs" in self.parameters:
            arguments["target_session_attrs"] = self.parameters["target_session_attrs"]
        # `options` is part of the protocol, and some proxies choose the database by it.
        session = {name: self.parameters[name] for name in ("application_name", "options") if name in self.parameters}
        if session:
            arguments["server_settings"] = session
        if any(name in self.parameters for name in _SSL_FILES):
            from plinth.settings.tls import client_context

            arguments["ssl"] = client_context(self.parameters)
        return arguments

    def _libpq_hosts(self) -> str:
        return ",".join(
            _netloc(host, port) or quote(host, safe="") + (f":{port}" if port else "") for host, port in self.hosts
        )

    def _render(self, scheme: str, netloc: str, query: Mapping[str, str], *, mask: bool = False) -> str:
        credentials = quote(self.user or "", safe="")
        if self.password is not None:
            credentials += ":" + (MASK if mask else quote(self.password, safe=""))
        # Not urlencode: it writes a space as +, which libpq reads as a plus.
        parameters = "&".join(f"{name}={quote(value, safe='/,:*')}" for name, value in query.items())
        return "".join(
            (
                f"{scheme}://",
                credentials and f"{credentials}@",
                netloc,
                "/" + quote(self.database or "", safe=""),
                parameters and f"?{parameters}",
            )
        )


def _hosts(addresses: str) -> Iterator[Host]:
    for address in addresses.split(",") if addresses else ():
        if address.startswith("["):  # IPv6
            host, _, port = address[1:].partition("]")
            port = port.removeprefix(":")
        else:
            host, _, port = address.partition(":")
        yield unquote(host) or "localhost", _port(port)


def _override(hosts: tuple[Host, ...], names: str, ports: str) -> tuple[Host, ...]:
    if names:
        hosts = tuple((name.strip("[]"), None) for name in names.split(","))
        if any(host.count(":") == 1 for host, _ in hosts):
            raise ValueError("expected the ports in the parameter port, not behind the names in host")
    if not ports:
        return hosts
    hosts = hosts or (("localhost", None),)
    numbers = [_port(port) for port in ports.split(",")]
    if len(numbers) not in (1, len(hosts)):
        raise ValueError("expected one port, or as many as there are hosts")
    if len(numbers) == 1:
        numbers *= len(hosts)
    return tuple((host, number) for (host, _), number in zip(hosts, numbers, strict=True))


def _port(text: str) -> int | None:
    if not text:
        return None
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 0 < int(text) < 65536:
        raise ValueError(f"expected a port from 1 to 65535 after the host; {_ENCODE}")
    return int(text)


def _netloc(host: str, port: int | None) -> str:
    """Return `host:port`, or nothing if a URL cannot hold the host unquoted, such as the path of a socket."""
    if ":" in host:
        host = f"[{host}]"
    elif not _PLAIN_HOST.fullmatch(host):
        return ""
    return f"{host}:{port}" if port else host


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
