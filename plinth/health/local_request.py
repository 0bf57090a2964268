"""Tells requests of this machine's own programs from those that others have sent through it."""

from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

__all__ = ["is_local"]

# A browser sends the first three, each with every request that could change something; a proxy one of the others.
_SENT_BY_OTHERS = (
    "HTTP_ORIGIN",
    "HTTP_SEC_FETCH_SITE",
    "HTTP_SEC_FETCH_MODE",
    "HTTP_FORWARDED",
    "HTTP_X_FORWARDED_FOR",
    "HTTP_X_FORWARDED_HOST",
    "HTTP_X_FORWARDED_PROTO",
    "HTTP_X_REAL_IP",
    "HTTP_VIA",
)


def is_local(environ: Mapping[str, Any]) -> bool:
    """Whether a program beside this process made a request, given as a WSGI environment.

    Beside it means in the same container, or at least in the same pod. A page in a browser of this machine comes from a
    loopback address as well, so requests do not count that have a browser's headers, or are for a name that has been
    pointed to this machine.
    """
    return (
        _is_loopback(environ["REMOTE_ADDR"])
        and not any(name in environ for name in _SENT_BY_OTHERS)
        and _is_own_name(environ.get("HTTP_HOST", ""))
    )


def _is_own_name(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname
    except ValueError:
        return False
    return name is None or name == "localhost" or _is_loopback(name)


def _is_loopback(address: str) -> bool:
    """Not the rest of 127.0.0.0/8, from which sidecars forward requests of others."""
    try:
        remote = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    return str(getattr(remote, "ipv4_mapped", None) or remote) in ("127.0.0.1", "::1")
