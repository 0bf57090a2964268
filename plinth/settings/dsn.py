"""Reads the URL of a PostgreSQL database and writes it for each driver.

Providers give libpq URLs, such as `postgres://…?sslmode=require`. SQLAlchemy expects the driver in the scheme, and
asyncpg takes other parameters than libpq.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote

from plinth.settings.libpq import KEEPALIVE, SSL_FILES, read_parameters
from plinth.settings.urls import MASK, is_host

_SCHEME = re.compile(r"postgres(ql)?(\+\w+)?", re.IGNORECASE)
_PLAIN_HOST = re.compile(r"[\w.-]+", re.ASCII)

# libpq's parameters that are asyncpg's under the same name.
_SAME = ("target_session_attrs", "passfile", "krbsrvname", "gsslib")
_TLS = (*SSL_FILES, "ssl_min_protocol_version", "ssl_max_protocol_version")
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
        if "%00" in rest:  # it ends a string in PostgreSQL's protocol; libpq refuses it as well
            raise ValueError("expected no %00")
        address, _, query = rest.partition("?")
        authority, _, database = address.partition("/")
        if "@" in database or "@" in query:
            # A / or ? in the password ended the address too early, and the rest was read as something else.
            raise ValueError(f"an @ after the host: {_ENCODE}")
        credentials, _, addresses = authority.rpartition("@")
        user, _, password = credentials.partition(":")
        hosts = tuple(_hosts(addresses))

        parameters = read_parameters(query)
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
        """Return the arguments of `plinth.database.hosts.connect` besides the URL.

        Raises ValueError when a certificate cannot be loaded.
        """
        arguments: dict[str, Any] = {}
        if "connect_timeout" in self.parameters:
            arguments["timeout"] = float(self.parameters["connect_timeout"])
        arguments |= {name: self.parameters[name] for name in _SAME if name in self.parameters}
        if self.parameters.get("load_balance_hosts") == "random":
            arguments["shuffle"] = True
        if self.parameters.get("sslnegotiation") == "direct":
            arguments["direct_tls"] = True
        if keepalive := {name: int(self.parameters[name]) for name in KEEPALIVE if name in self.parameters}:
            arguments["keepalive"] = keepalive
        # `options` is part of the protocol, and some proxies choose the database by it.
        session = {name: self.parameters[name] for name in ("application_name", "options") if name in self.parameters}
        if session:
            arguments["server_settings"] = session
        if any(name in self.parameters for name in _TLS):
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
        yield _host(unquote(host) or "localhost"), _port(port)


def _host(name: str) -> str:
    # The path of a socket's folder is no name, and @ begins the name of one without a path.
    if not name.startswith(("/", "@")) and not is_host(name):
        raise ValueError("expected a host name, an address or the path of a socket's folder")
    return name


def _override(hosts: tuple[Host, ...], names: str, ports: str) -> tuple[Host, ...]:
    if names:
        hosts = tuple((_host(name.strip("[]")), None) for name in names.split(","))
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
