"""Notices changes in the models folders and in models.toml. Event loop; the folders are read on a worker thread.

Models may also lie elsewhere, on a disk that is away for a while: the library names those places. The watcher compares
names, sizes and times every two seconds. File system events would not do: network drives and containers lack them, and
they do not tell when a copy is complete. Two equal readings in a row do.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from pathlib import Path

from models.fingerprint import fingerprint

logger = logging.getLogger(__name__)

READ_EVERY_S = 2.0


class FolderWatcher:
    def __init__(
        self,
        places: Sequence[Path],
        changed: Callable[[], Awaitable[object]],
        more_places: Callable[[], Collection[Path]] = tuple,
    ) -> None:
        """places: folders and files to watch. changed: called once for every new state that two readings found.

        more_places: asked before each reading; what lies in one of `places` is not read twice.
        """
        self._places = places
        self._more_places = more_places
        self._changed = changed
        self._last: str | None = None
        self._reported: str | None = None

    async def run(self, every_s: float = READ_EVERY_S) -> None:
        """Watch until canceled."""
        while True:
            await self.look()
            await asyncio.sleep(every_s)

    async def look(self) -> None:
        """Read the places once, and report a state that is new and equal to the last reading."""
        more = sorted(path for path in self._more_places() if not any(map(path.is_relative_to, self._places)))
        state = await asyncio.to_thread(_state, [*self._places, *more])
        if state == self._last and state != self._reported:
            self._reported = state
            try:
                await self._changed()
            except Exception:  # a file that vanished while it was read, or a bug: the next change is looked at again
                logger.exception("a change of the models folders was not read")
        self._last = state


def _state(places: Sequence[Path]) -> str:
    """A digest of names, sizes and times."""
    lines = []
    for place in places:
        try:
            lines.append(f"{place} {fingerprint(place)}")
        except OSError:  # does not exist, or is just being removed: the next reading tells
            lines.append(f"{place} -")
    return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()
