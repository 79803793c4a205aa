"""Sends POST requests to URLs that clients gave, without letting them reach the server's own network (SSRF).

Worker threads. The host name is resolved once, all of its addresses are checked, and the connection goes to a checked
address, so a later change of the name's DNS entry has no effect. The TLS certificate is checked against the name.
Redirects are not followed.
"""

from __future__ import annotations

import http.client
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from models.sources.addresses import Network, all_may_be_opened, may_open, read_address

TIMEOUT_S = 10.0
# Restricted so that no two URL parsers disagree: no user, no fragment, no backslash.
URL = re.compile(
    r"(?P<scheme>https?)://"
    r"(?P<host>[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]{2,45}\])"
    r"(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<path>[/?][\x21\x22\x24-\x5b\x5d-\x7e]*)?"
)


class Refused(Exception):
    """The server does not call this address, now or later. The message may be shown to the client."""


@dataclass(frozen=True, slots=True)
class Target:
    scheme: str
    host: str  # without brackets
    port: int
    path: str


def parse(url: str) -> Target:
    """Splits a URL. Raises `Refused`."""
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


def check(url: str, allowed: Sequence[Network]) -> None:
    """Checks everything that needs no name look-up. Raises `Refused`."""
    address = read_address(parse(url).host)
    if address is not None and not may_open(address, allowed):
        raise Refused("an address outside this server's own network")


def resolve(target: Target, allowed: Sequence[Network], look_up: Callable[[str, int], Sequence[str]]) -> str:
    """The address to connect to. Raises `Refused` when any address of the name is not allowed; `OSError`."""
    found = look_up(target.host, target.port)
    if not all_may_be_opened(found, allowed):
        raise Refused("an address outside this server's own network")
    return found[0]


def look_up(host: str, port: int) -> list[str]:
    """All addresses of a name. Raises `OSError`."""
    return [str(entry[4][0]).partition("%")[0] for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


def post(target: Target, address: str, body: bytes, headers: Mapping[str, str]) -> int:
    """Sends the request; returns the HTTP status of the reply. Raises `OSError`, `http.client.HTTPException`."""
    with deadline(PinnedConnection(target, address), TIMEOUT_S) as connection:
        connection.request("POST", target.path, body, dict(headers))
        return connection.getresponse().status


class PinnedConnection(http.client.HTTPConnection):
    """Connects to the checked address; the name is used only for the Host header and for TLS."""

    def __init__(self, target: Target, address: str, timeout_s: float = TIMEOUT_S) -> None:
        super().__init__(target.host, target.port, timeout=timeout_s)
        self.default_port = 443 if target.scheme == "https" else 80  # the Host header then omits the port
        self._target = target
        self._address = address
        self._connected: socket.socket | None = None  # also when a reply has taken the place of `sock`
        self._is_aborted = False

    def connect(self) -> None:
        self.sock = self._connected = socket.create_connection((self._address, self._target.port), self.timeout)
        if self._is_aborted:
            raise TimeoutError
        if self._target.scheme == "https":
            secure = ssl.create_default_context().wrap_socket(
                self.sock, server_hostname=self._target.host, do_handshake_on_connect=False
            )
            self.sock = self._connected = secure
            secure.do_handshake()

    def abort(self) -> None:
        """End all that waits for the peer, from any thread. Each timeout of a socket is for its next bytes only."""
        self._is_aborted = True
        if self._connected is not None:
            with suppress(OSError):  # it is closed already
                socket.socket.shutdown(self._connected, socket.SHUT_RDWR)


@contextmanager
def deadline(connection: PinnedConnection, seconds: float) -> Iterator[PinnedConnection]:
    """Ends the connection with the block, and everything in the block that waits for the peer after so many seconds."""
    timer = threading.Timer(seconds, connection.abort)
    timer.daemon = True
    timer.start()
    try:
        yield connection
    finally:
        timer.cancel()
        connection.close()
