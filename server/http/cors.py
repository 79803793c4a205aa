"""The headers by which a browser lets a page of another origin use the API. Pure functions.

A preflight gets whatever headers it asks for: the libraries that run in pages send many of their own, none of them
changes what a request may do, and only pages of the allowed origins get this far.
"""

from __future__ import annotations

from collections.abc import Mapping

from starlette.datastructures import Headers

METHODS = "GET, POST, PATCH, DELETE"
MAX_AGE_S = 86_400  # browsers cap it, Chrome at two hours
EXPOSED = (
    "x-request-id",
    "retry-after",
    "ratelimit",
    "ratelimit-policy",
    "x-ratelimit-limit",
    "x-ratelimit-remaining",
    "x-ratelimit-reset",
    "content-disposition",
)


def is_preflight(method: str, headers: Headers) -> bool:
    return method == "OPTIONS" and "origin" in headers and "access-control-request-method" in headers


def preflight_headers(headers: Headers) -> Mapping[str, str]:
    """Returns what the reply to a preflight has beside the headers of every reply to that origin."""
    reply = {"access-control-allow-methods": METHODS, "access-control-max-age": str(MAX_AGE_S)}
    if asked := headers.get("access-control-request-headers"):
        reply["access-control-allow-headers"] = asked
    if "access-control-request-private-network" in headers:  # Chrome, from a public page to this machine
        reply["access-control-allow-private-network"] = "true"
    return reply


def reply_headers(origin: str) -> Mapping[str, str]:
    """Returns what every reply to a page of an allowed origin has, errors too."""
    return {"access-control-allow-origin": origin, "access-control-expose-headers": ", ".join(EXPOSED)}
