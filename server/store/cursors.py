"""Where a page of a list ends, as its reader gives it back: opaque, and never anything but a number to us."""

from __future__ import annotations

import re

from server.errors import BadRequest


def write_cursor(seq: int) -> str:
    return f"c{seq:x}"


def read_cursor(cursor: str) -> int:
    """Raises `BadRequest`."""
    if not re.fullmatch(r"c[0-9a-f]{1,15}", cursor):
        raise BadRequest("cursor must be one that an earlier page of this list returned")
    return int(cursor[1:], 16)
