"""Who waits to hear of a job's changes. Event loop only.

A watch remembers that something changed, never what: whoever looks reads the board and the store. So a reader that is
slow costs one set of ids, and what it missed in between is not sent late but not at all.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from server.errors import TooMany

MAX_PER_KEY = 100  # streams; each holds a socket


class Watch:
    """One reader of one job, or of all jobs of a key (`job_id` None)."""

    def __init__(self, key_id: str, job_id: str | None, previews: bool) -> None:
        self.key_id = key_id
        self.job_id = job_id
        self.previews = previews
        self.moved: dict[str, None] = {}  # ids of jobs that went on, oldest first
        self.committed = asyncio.Event()  # the store has transitions not read yet; at the beginning it may
        self.committed.set()
        self.closed = False  # the server stops: the reader is to come back
        self._changed = asyncio.Event()

    async def changed(self, timeout_s: float) -> bool:
        """False when nothing changed for so long."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()
        except TimeoutError:
            return False
        self._changed.clear()
        return True

    async def pause(self, seconds: float) -> None:
        """Sleep, but not through a transition."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.committed.wait()

    def wake(self) -> None:
        self._changed.set()

    def note_moved(self, job_id: str) -> None:
        self.moved[job_id] = None
        self._changed.set()

    def note_committed(self) -> None:
        self.committed.set()
        self._changed.set()


class Watchers:
    def __init__(self) -> None:
        self._watches: set[Watch] = set()
        self._of_key: Counter[str] = Counter()

    def check(self, key_id: str) -> None:
        """Raises `TooMany` when this key has its share."""
        if self._of_key[key_id] >= MAX_PER_KEY:
            raise TooMany(f"This key has {MAX_PER_KEY} event streams open, the most it may have.", retry_after_s=5)

    @contextmanager
    def watch(self, key_id: str, job_id: str | None, *, previews: bool = False) -> Iterator[Watch]:
        watch = Watch(key_id, job_id, previews)
        self._watches.add(watch)
        self._of_key[key_id] += 1
        try:
            yield watch
        finally:
            self._watches.discard(watch)
            self._of_key[key_id] -= 1
            if not self._of_key[key_id]:
                del self._of_key[key_id]

    def moved(self, key_id: str, job_id: str) -> None:
        for watch in self._watching(key_id, job_id):
            watch.note_moved(job_id)

    def committed(self, key_id: str, job_id: str) -> None:
        for watch in self._watching(key_id, job_id):
            watch.note_committed()

    def all(self) -> set[Watch]:
        return self._watches

    def close(self) -> None:
        """The server stops: streams end, so that their readers come back to the next one."""
        for watch in self._watches:
            watch.closed = True
            watch.wake()

    def _watching(self, key_id: str, job_id: str) -> Iterator[Watch]:
        for watch in self._watches:
            if watch.key_id == key_id and watch.job_id in (None, job_id):
                yield watch
