"""URLs of Redis and of identity providers. No error quotes the URL."""

import re
from collections.abc import Iterator
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit

MASK = "********"

# redis-sentinel, rediss+cluster, sentinel and others: each client library has its own.
_SEVERAL_SERVERS = re.compile(r"(rediss?[+-])?(sentinel|cluster)([+-]rediss?)?")
_REDIS_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_REDIS_PARAMETERS = ("username", "password", "db", "protocol", "ssl_cert_reqs", "ssl_check_hostname", *_REDIS_FILES)


def check_web_url(url: str) -> str:
    """Return `url`. Raise ValueError unless it is an http or https URL without credentials, query and fragment."""
    parts = _split(url)
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("expected a URL that starts with https://")
    if not is_host(parts.hostname) or not url.isprintable() or " " in url:
        raise ValueError("expected a URL with a host name or an address, and without blanks")
    if "@" in parts.netloc or "?" in url or "#" in url:
        raise ValueError("expected a URL without user name, password, query and fragment")
    return url


def is_host(name: str) -> bool:
    """Return whether `name` can be looked up: no part of it is empty or longer than DNS allows."""
    try:
        name.encode("idna")
    except UnicodeError:
        return False
    return True


def is_loopback(url: str) -> bool:
    """Return whether requests to `url` stay on this machine."""
    return is_loopback_host(urlsplit(url).hostname or "")


def is_loopback_host(host: str) -> bool:
    """Return whether a name or an address, IPv6 without brackets, is this machine's alone. No name is looked up."""
    try:
        address = ip_address(host)
    except ValueError:
        return host.lower() == "localhost" or host.lower().endswith(".localhost")
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback


def check_redis_url(url: str) -> None:
    """Raise ValueError unless it names a server in a form that redis-py can read."""
    scheme, _, rest = url.partition("://")
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    if _SEVERAL_SERVERS.fullmatch(scheme.lower()) or "," in authority.rpartition("@")[2]:
        raise ValueError(
            "Redis Cluster and lists of servers are not supported: expected redis://, rediss:// or unix:// with the "
            "address of the primary, or redis+sentinel://host:26379,host:26379/service/number"
        )
    parts = _split(url)
    if parts is None or parts.scheme not in ("redis", "rediss", "unix"):
        raise ValueError("expected a URL that starts with redis://, rediss:// or unix://")
    if parts.scheme != "unix" and not (parts.hostname and re.fullmatch(r"(/[0-9]*)?", parts.path)):
        raise ValueError(
            "expected redis://user:password@host:port/number, with / ? # @ : in the password percent-encoded"
        )
    if parts.hostname and not is_host(parts.hostname):
        raise ValueError("expected a host name or an address after the @")
    if parts.query:
        _check_redis_parameters(url, parts.query)


def _check_redis_parameters(url: str, query: str) -> None:
    """Have redis-py make a connection of them, which connects later: it would refuse them in each request."""
    from redis.asyncio import ConnectionPool

    # The rest is what the settings decide, or takes no text.
    unknown = [name for name, _ in parse_qsl(query, keep_blank_values=True) if name not in _REDIS_PARAMETERS]
    if unknown:
        raise ValueError(f"expected no parameters but {', '.join(_REDIS_PARAMETERS)}")
    for name, value in parse_qsl(query):
        if name in _REDIS_FILES and not Path(value).is_file():
            raise ValueError(f"expected a file in {name}")
    try:
        pool = ConnectionPool.from_url(url)
        pool.connection_class(**pool.connection_kwargs)
    except Exception:  # noqa: BLE001 - of redis-py's own errors, ValueError, TypeError and AttributeError
        raise ValueError("expected parameters that redis-py can read") from None


def redis_credentials(url: str) -> Iterator[tuple[str | None, str]]:
    """Yield the user and the password of a Redis URL, of its address and of its query."""
    parts, query = urlsplit(url), dict(parse_qsl(urlsplit(url).query))
    in_query = [(query.get(f"{of}username"), query.get(f"{of}password")) for of in ("", "sentinel_")]
    for user, password in ((parts.username, parts.password), *in_query):
        if password is not None:
            yield user and unquote(user), unquote(password)


def masked_redis_url(url: str) -> str:
    """Return the URL without its password and without its query, in which redis-py accepts a password too."""
    parts = urlsplit(url)
    credentials, at, address = parts.netloc.rpartition("@")
    user, colon, _ = credentials.partition(":")
    shown = f"{user if colon else ''}:{MASK}@" if at else ""
    return f"{parts.scheme}://{shown}{address}{parts.path}"


def upstash_redis_url(url: str, token: str) -> str:
    """Return the Redis URL, over TLS, of the Upstash database with this REST address and token."""
    return f"rediss://default:{quote(token, safe='')}@{urlsplit(url).hostname}:6379"


def _split(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises ValueError unless it is a number
    except ValueError:
        return None
    return parts
