"""Reads the URL of a Redis that Sentinels watch, such as `redis+sentinel://one:26379,two:26379/service/0`."""

import re
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from plinth.settings.urls import is_host

__all__ = ["SentinelURL"]

# TLS is for both: the Sentinels and the servers.
_SCHEMES = {"redis+sentinel": "redis", "rediss+sentinel": "rediss"}
_PORT = 26379
_OWN = ("sentinel_username", "sentinel_password")
_EXPECTED = (
    "expected redis+sentinel://user:password@host:26379,host:26379/service/number, with / ? # @ : in the password "
    "percent-encoded"
)


@dataclass(frozen=True, slots=True)
class SentinelURL:
    """The Sentinels, their credentials, and the name under which they know the primary."""

    sentinels: tuple[tuple[str, int], ...]
    service: str
    server: str = field(repr=False)
    """A URL of the primary for redis-py. Its host stands for the one that the Sentinels name."""
    username: str | None
    password: str | None = field(repr=False)

    @classmethod
    def parse(cls, url: str) -> "SentinelURL | None":
        """Read the URL; None for one that names a server.

        Raises ValueError with what was expected. What is wrong in `server` is left to its own check.
        """
        scheme, _, rest = url.partition("://")
        if (plain := _SCHEMES.get(scheme.lower())) is None:
            return None
        address, _, query = rest.partition("?")
        credentials, at, place = address.rpartition("@")
        hosts, _, path = place.partition("/")
        # Sentinel takes no other characters in a name.
        found = re.fullmatch(r"([A-Za-z0-9._-]+)(/[0-9]*)?", path)
        if found is None or re.search("[/#]", credentials):
            raise ValueError(_EXPECTED)
        parameters = parse_qsl(query, keep_blank_values=True)
        own = {name: value for name, value in parameters if name in _OWN}
        others = urlencode([pair for pair in parameters if pair[0] not in _OWN], quote_via=quote)
        return cls(
            sentinels=tuple(_sentinel(host) for host in hosts.split(",")),
            service=found[1],
            server=f"{plain}://{credentials}{at}primary{found[2] or ''}{others and f'?{others}'}",
            username=own.get("sentinel_username") or None,
            password=own.get("sentinel_password") or None,
        )


def _sentinel(address: str) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{address}")
        host, port = parts.hostname, parts.port
    except ValueError:  # a bracket that is open, or no number
        raise ValueError(_EXPECTED) from None
    if not host or "@" in address or not is_host(host):
        raise ValueError(_EXPECTED)
    return host, port or _PORT
