"""Which network addresses the server may open for somebody else: webhooks, pictures and pulls by URL. Pure functions.

A client or a name server must not lead the server into its own network (server-side request forgery). One rule for all.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from typing import TypeAlias

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

# What `ipaddress` counts as global although it may lead to any IPv4 address, or to the site's own network.
NOT_PUBLIC = tuple(
    ipaddress.ip_network(network)
    for network in (
        "64:ff9b::/96",  # translated to IPv4 (NAT64, RFC 6052)
        "64:ff9b:1::/48",  # the same with a prefix of the site's own (RFC 8215)
        "2002::/16",  # 6to4: an IPv4 address is in it
        "2001::/32",  # Teredo: likewise
        "::/96",  # IPv4-compatible, deprecated
        "fec0::/10",  # site-local, deprecated, still routed in places
        "5f00::/16",  # segment routing inside one domain (RFC 9602)
        "100::/64",  # discarded
        "192.88.99.0/24",  # relays of 6to4
    )
)


def read_address(text: str) -> Address | None:
    """The address that a host in a URL is, with every spelling that resolvers take: 127.1, 0x7f.1, 2130706433, ::1%1.

    None: it is a name.
    """
    try:
        return ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        pass
    try:
        return ipaddress.IPv4Address(socket.inet_aton(text))
    except (OSError, ValueError):  # ValueError: a NUL in it
        return None


def may_open(address: Address, allowed: Sequence[Network] = ()) -> bool:
    """Whether the address is public, or in one of the allowed networks."""
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if any(address.version == network.version and address in network for network in allowed):
        return True
    if not address.is_global or address.is_multicast or address.is_reserved or address.is_unspecified:
        return False
    return not any(address.version == network.version and address in network for network in NOT_PUBLIC)


def all_may_be_opened(addresses: Sequence[str], allowed: Sequence[Network] = ()) -> bool:
    """Whether a name has addresses, and every one of them may be opened: an attacker chooses which comes first."""
    found = [read_address(address) for address in addresses]
    return bool(found) and all(address is not None and may_open(address, allowed) for address in found)
