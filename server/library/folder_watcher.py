"""Notices changes in the models folders and in models.toml. Event loop; the folders are read on a worker thread.

Models may also lie elsewhere, on a disk that is away for a while: the library names those places. The watcher compares
names, sizes and times every two seconds. File system events would not do: network drives and containers lack them, and
they do not tell when a copy is complete. Two equal readings in a row do.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from pathlib import Path

from models.fingerprint import state_of

logger = logging.getLogger(__name__)

READ_EVERY_S = 2.0
MAX_ENTRIES = 100_000  # files and folders in one place whose changes are noticed


class FolderWatcher:
    def __init__(
        self,
        places: Sequence[Path],
        changed: Callable[[], Awaitable[object]],
        more_places: Callable[[], Collection[Path]] = tuple,
        *,
        states: Callable[[Sequence[Path]], Sequence[str]] | None = None,
        is_settled: Callable[[], bool] = lambda: True,
    ) -> None:
        """places: folders and files to watch. changed: called once for every new state that two readings found.

        more_places: asked before each reading, on the worker thread; what lies in one of `places` is not read twice.
        states: returns a digest of names, sizes and times in each place, and may raise OSError; None: this process
        reads them. is_settled: False asks for `changed` again, although nothing has changed.
        """
        self._states = states or _states
        self._is_settled = is_settled
        self._places = places
        self._more_places = more_places
        self._changed = changed
        self._last: Sequence[str] | None = None
        self._reported: Sequence[str] | None = None

    async def run(self, every_s: float = READ_EVERY_S) -> None:
        """Watch until canceled."""
        while True:
            await self.look()
            await asyncio.sleep(every_s)

    async def look(self) -> None:
        """Read the places once, and report a state that is new and equal to the last reading."""
        try:
            state = await asyncio.to_thread(self._state_of_all)
        except OSError as error:  # the next look tells
            logger.warning("the models folders were not looked at", extra={"reason": str(error)})
            return
        if state == self._last and (state != self._reported or not self._is_settled()):
            self._reported = state
            try:
                await self._changed()
            except Exception:  # a file that vanished while it was read, or a bug: the next change is looked at again
                logger.exception("a change of the models folders was not read")
        self._last = state

    def _state_of_all(self) -> Sequence[str]:
        more = sorted(path for path in self._more_places() if not any(map(path.is_relative_to, self._places)))
        return self._states([*self._places, *more])


def _states(places: Sequence[Path]) -> Sequence[str]:
    return [_state(place) for place in places]


def _state(place: Path) -> str:
    try:
        return state_of(place, MAX_ENTRIES)
    except OSError:  # does not exist, or is just being removed: the next look tells
        return ""
