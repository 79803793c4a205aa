"""Fetches files from URLs that clients gave, with the checks of `safe_post`: a name's addresses are all checked, and
the connection goes to a checked one. Redirects are followed a few times, each as if the client had named it.

Worker threads.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from http.client import HTTPResponse
from urllib.parse import urljoin

from models.sources.addresses import Network
from server.jobs.safe_post import TIMEOUT_S, PinnedConnection, deadline, look_up, parse, resolve
from server.units import size

MAX_REDIRECTS = 3
REDIRECTS = (301, 302, 303, 307, 308)
PIECE_BYTES = 64 << 10
HEADERS = {"User-Agent": "agentname", "Accept": "image/png, image/jpeg, image/webp, image/gif"}


class NotFetched(Exception):
    """The message may be shown to the client."""


def get(
    url: str,
    *,
    max_bytes: int,
    allowed: Sequence[Network] = (),
    look_up: Callable[[str, int], Sequence[str]] = look_up,
    timeout_s: float = TIMEOUT_S,
) -> bytes:
    """Returns the file. timeout_s: for all of it, redirects included.

    Raises `Refused` for an address that is not called, `NotFetched`, `OSError`, `http.client.HTTPException`.
    """
    ends_at = time.monotonic() + timeout_s
    for _ in range(MAX_REDIRECTS + 1):
        target = parse(url)
        address = resolve(target, allowed, look_up)
        with deadline(PinnedConnection(target, address, _left(ends_at)), _left(ends_at)) as connection:
            connection.request("GET", target.path, headers=HEADERS)
            reply = connection.getresponse()
            if reply.status not in REDIRECTS:
                if reply.status != 200:
                    raise NotFetched(f"its server answered with the status {reply.status}")
                return _body(reply, max_bytes, ends_at)
            url = urljoin(url, reply.getheader("Location") or "").partition("#")[0]
    raise NotFetched(f"it was redirected more than {MAX_REDIRECTS} times")


def _body(reply: HTTPResponse, max_bytes: int, ends_at: float) -> bytes:
    found = bytearray()
    while True:
        piece = reply.read1(PIECE_BYTES)
        _left(ends_at)  # a connection that was ended looks like the end of the file
        found += piece
        if len(found) > max_bytes:
            raise NotFetched(f"it is larger than {size(max_bytes)}")
        if not piece:
            return bytes(found)


def _left(ends_at: float) -> float:
    left = ends_at - time.monotonic()
    if left <= 0:
        raise NotFetched("its server took too long")
    return left
