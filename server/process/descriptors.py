"""How many files and sockets this process may open, and how many of them are kept for other things than connections."""

from __future__ import annotations

import resource

MOST = 65_536  # more is of no use, and some programs look at each descriptor that they may have
FEWEST = 96  # a server with a model takes 20; a job, a decoder or a child a few more for a moment
_RESERVED = range(32, 257)  # for files, the store and children


class TooFewDescriptors(Exception):
    """The message says what to change."""


def raise_limit() -> int:
    """Raise the soft limit to the hard one and return it; children inherit it. Raises `TooFewDescriptors`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST if hard == resource.RLIM_INFINITY else min(hard, MOST)
    if soft == resource.RLIM_INFINITY:
        return MOST
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    limit = max(soft, wanted)
    if limit < FEWEST:
        raise TooFewDescriptors(
            f"This process may open {limit} files and sockets, and needs at least {FEWEST}. Raise the limit, as with "
            "ulimit -n or LimitNOFILE."
        )
    return limit


def for_connections(limit: int) -> int:
    """Descriptors below this number may become connections; the rest is for files, the store and children."""
    return limit - min(_RESERVED[-1], max(_RESERVED[0], limit // 4))
