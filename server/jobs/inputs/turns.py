"""Lets one file of each API key be decoded at a time, so that no key keeps the others waiting. Event loop only."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from server.errors import TooMany

MAX_WAITING = 16  # files of one key, the one that is decoded among them


class Turns:
    def __init__(self) -> None:
        self._waiting: Counter[str] = Counter()  # by id of the key
        self._locks: dict[str, asyncio.Lock] = {}

    @asynccontextmanager
    async def turn_of(self, key_id: str) -> AsyncIterator[None]:
        """Waits until no other file of the key is decoded. Raises `TooMany` when too many wait already."""
        if self._waiting[key_id] >= MAX_WAITING:
            raise TooMany(f"{MAX_WAITING} files of this key wait to be decoded.", retry_after_s=1)
        self._waiting[key_id] += 1
        try:
            async with self._locks.setdefault(key_id, asyncio.Lock()):
                yield
        finally:
            self._waiting[key_id] -= 1
            if not self._waiting[key_id]:
                del self._waiting[key_id], self._locks[key_id]
