"""Notices what is put into and taken out of the models folders, and changes to models.toml. Event loop; looks on a worker thread.

A look every two seconds at names, sizes and times, not the system's events: they are not there on network drives and in
containers, and what matters is that a copy has come to its end: two looks in a row that see the same.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from models.fingerprint import fingerprint

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 2.0


class FolderWatcher:
    def __init__(self, places: Sequence[Path], changed: Callable[[], Awaitable[object]]) -> None:
        """`changed` is called once for every new state that has settled."""
        self._places = places
        self._changed = changed
        self._last: str | None = None
        self._told: str | None = None

    async def run(self, every_s: float = LOOK_EVERY_S) -> None:
        while True:
            await self.look()
            await asyncio.sleep(every_s)

    async def look(self) -> None:
        seen = await asyncio.to_thread(_state, self._places)
        if seen == self._last and seen != self._told:
            self._told = seen
            await self._changed()
        self._last = seen


def _state(places: Sequence[Path]) -> str:
    lines = []
    for place in places:
        try:
            lines.append(fingerprint(place))
        except OSError:  # not there, or going away right now: the next look sees which
            lines.append("-")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
