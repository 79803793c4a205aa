"""Reads a JSON body that may be large without blocking the event loop. Event loop only."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from server.api.schemas import read_object

Read = TypeVar("Read")

INLINE_BYTES = 1 << 20  # a smaller body is read in a few milliseconds


async def read_json(body: bytes, read: Callable[[dict[str, Any]], Read]) -> Read:
    """Returns what `read` makes of the body's JSON object. Raises `BadRequest`."""
    if len(body) <= INLINE_BYTES:
        return read(read_object(body))
    return await asyncio.to_thread(lambda: read(read_object(body)))
