"""Cursors of paged lists: an opaque text for the client, the sequence number of a row for the store. Pure functions."""

from __future__ import annotations

import re

from server.errors import BadRequest


def write_cursor(seq: int) -> str:
    return f"c{seq:x}"


def read_cursor(cursor: str) -> int:
    """Returns the sequence number in a cursor. Raises `BadRequest`."""
    if not re.fullmatch(r"c[0-9a-f]{1,15}", cursor):
        raise BadRequest("cursor must be one that an earlier page of this list returned")
    return int(cursor[1:], 16)
