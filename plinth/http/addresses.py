"""Addresses of clients: how they are read, and whether they lie within given networks."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

__all__ = ["network_check", "read_address"]


def read_address(host: str) -> IPv4Address | IPv6Address | None:
    """The address of a client; an IPv4 address in IPv6 form as itself. None: it is no address, as of a Unix socket."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def network_check(networks: Sequence[str]) -> Callable[[tuple[str, int] | None], bool]:
    """Make the function that says whether a client of a scope lies within these networks; `*`: any client does."""
    if "*" in networks:
        return lambda client: True
    within = [ip_network(network) for network in networks]

    @lru_cache(maxsize=4096)
    def contains(host: str) -> bool:
        address = read_address(host)
        return address is not None and any(address in network for network in within)

    return lambda client: client is not None and contains(client[0])
