"""Which addresses may be fetched from: those of the public Internet, after resolving the name.

A manifest is untrusted, and a worker is inside a network: a URL could lead to the machine's own ports, to
other machines, or to a cloud's metadata service with credentials.
"""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

from mmray.errors import RecordError

_NAT64 = IPv6Network("64:ff9b::/96")
_UNICAST = IPv6Network("2000::/3")  # all that IANA has allocated


def resolve(host: str, port: int, *, allow_private: bool) -> list[tuple[int, str]]:
    """Families and addresses to connect to. A name is resolved once, so that the answer cannot change.

    Raises:
        RecordError: every address belongs to this machine or a private network.
        OSError: the name does not resolve.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses: list[tuple[int, str]] = [(family, str(address[0])) for family, _, _, _, address in found]
    if allowed := [(f, a) for f, a in addresses if allow_private or is_public(a)]:
        return allowed
    reason = f"{host} is {addresses[0][1]}, an address that is not public"
    raise RecordError(f"{reason}; to fetch from there, set fetch.allow_private=true", "fetch-refused")


def is_public(text: str) -> bool:
    """Whether an address is on the public Internet; for an address that embeds another, whether that is."""
    address = ip_address(text.partition("%")[0])
    inner = _inner(address)
    if inner is not None and not is_public(str(inner)):
        return False
    if isinstance(address, IPv6Address) and address not in _UNICAST:
        return inner is not None
    return address.is_global and not address.is_multicast


def _inner(address: IPv4Address | IPv6Address) -> IPv4Address | None:
    """The IPv4 address embedded in an IPv6 address, if any."""
    if isinstance(address, IPv4Address):
        return None
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
