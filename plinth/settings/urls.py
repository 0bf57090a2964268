"""URLs that settings hold beside the database's: Redis, identity providers. No error quotes the URL."""

import re
from urllib.parse import SplitResult, quote, urlsplit

MASK = "********"


def check_web_url(url: str) -> None:
    """Raises ValueError unless it is an http or https URL without credentials, query and fragment."""
    parts = _split(url)
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("expected a URL that starts with https://")
    if "@" in parts.netloc or "?" in url or "#" in url:
        raise ValueError("expected a URL without user name, password, query and fragment")


def is_loopback(url: str) -> bool:
    """Whether requests to `url` stay on this machine."""
    host = urlsplit(url).hostname or ""
    return host in ("localhost", "127.0.0.1", "::1") or host.endswith(".localhost")


def check_redis_url(url: str) -> None:
    """Raises ValueError unless redis-py can read it."""
    parts = _split(url)
    if parts is None or parts.scheme not in ("redis", "rediss", "unix"):
        raise ValueError("expected a URL that starts with redis://, rediss:// or unix://")
    if parts.scheme != "unix" and not (parts.hostname and re.fullmatch(r"(/[0-9]*)?", parts.path)):
        raise ValueError(
            "expected redis://user:password@host:port/number, with / ? # @ : in the password percent-encoded"
        )


def masked_redis_url(url: str) -> str:
    """The URL without its password, and without its query, where redis-py takes a password from too."""
    parts = urlsplit(url)
    credentials, at, address = parts.netloc.rpartition("@")
    user, colon, _ = credentials.partition(":")
    shown = f"{user if colon else ''}:{MASK}@" if at else ""
    return f"{parts.scheme}://{shown}{address}{parts.path}"


def upstash_redis_url(url: str, token: str) -> str:
    """The Redis URL, over TLS, of an Upstash database whose REST address and token are given."""
    return f"rediss://default:{quote(token, safe='')}@{urlsplit(url).hostname}:6379"


def _split(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises for a port that is none
    except ValueError:
        return None
    return parts
