"""The only door out: a POST to an address a client gave, which may be no way into the owner's network. Worker threads.

The host is resolved once, every address it has is checked, and the connection goes to a checked one, whatever the name says a
moment later. TLS is checked against the name. Redirects are not followed.
"""

from __future__ import annotations

import http.client
import ipaddress
import re
import socket
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

TIMEOUT_S = 10.0
# Plain enough that no two programs read it differently: no user, no fragment, no backslash.
URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]{2,45}\])(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<path>[/?][\x21\x22\x24-\x5b\x5d-\x7e]*)?"
)

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
# Ways into IPv4 that the library calls global.
TRANSLATED = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("2002::/16"))


class Refused(Exception):
    """The address is not one this server calls. Trying again will not help; the message may be shown."""


@dataclass(frozen=True, slots=True)
class Target:
    scheme: str
    host: str  # without brackets
    port: int
    path: str


def parse(url: str) -> Target:
    """Raises `Refused`."""
    match = URL.fullmatch(url) if len(url) <= 2000 else None
    if match is None or not 0 < int(match["port"] or 443) < 65536:
        raise Refused("an http or https URL of at most 2000 characters, without user, fragment or spaces")
    default = 443 if match["scheme"] == "https" else 80
    path = match["path"] or "/"
    return Target(
        match["scheme"],
        match["host"].strip("[]"),
        int(match["port"] or default),
        path if path[0] == "/" else f"/{path}",
    )


def may_call(address: Address, allowed: Sequence[Network]) -> bool:
    """Whether it is anybody's address on the internet, or in a network the owner allows."""
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if any(address.version == network.version and address in network for network in allowed):
        return True
    return address.is_global and not address.is_multicast and not any(address in network for network in TRANSLATED)


def check(url: str, allowed: Sequence[Network]) -> None:
    """What can be told without asking for the name. Raises `Refused`."""
    host = parse(url).host
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return
    if not may_call(address, allowed):
        raise Refused("an address outside this server's own network")


def resolve(target: Target, allowed: Sequence[Network], look_up: Callable[[str, int], Sequence[str]]) -> str:
    """The address to connect to. One forbidden address among a name's refuses it whole. Raises `Refused`, `OSError`."""
    found = look_up(target.host, target.port)
    if not found or not all(may_call(ipaddress.ip_address(address), allowed) for address in found):
        raise Refused("an address outside this server's own network")
    return found[0]


def look_up(host: str, port: int) -> list[str]:
    """Every address of a name. Raises `OSError`."""
    return [str(entry[4][0]).partition("%")[0] for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


def post(target: Target, address: str, body: bytes, headers: Mapping[str, str]) -> int:
    """The status of the reply; what it says is not read. Raises `OSError`, `http.client.HTTPException`."""
    connection = _Pinned(target, address)
    try:
        connection.request("POST", target.path, body, dict(headers))
        return connection.getresponse().status
    finally:
        connection.close()


class _Pinned(http.client.HTTPConnection):
    """Connects to the address that was checked; the name is only said in Host and in TLS."""

    def __init__(self, target: Target, address: str) -> None:
        super().__init__(target.host, target.port, timeout=TIMEOUT_S)
        self.default_port = 443 if target.scheme == "https" else 80  # then Host names no port
        self._target = target
        self._address = address

    def connect(self) -> None:
        plain = socket.create_connection((self._address, self._target.port), TIMEOUT_S)
        if self._target.scheme == "http":
            self.sock = plain
        else:
            self.sock = ssl.create_default_context().wrap_socket(plain, server_hostname=self._target.host)
