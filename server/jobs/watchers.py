"""Wakes the event streams and waits that follow a job when the job changes. Event loop only.

A watch records only which jobs changed; its reader then reads the current state from `LiveJobs` and the store. A slow
reader therefore costs one set of job ids, and live states that it missed are skipped, not queued.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from server.errors import TooMany

MAX_PER_KEY = 100  # event streams; each holds a socket


class Watch:
    """The changes that one reader has not read yet, of one job or of all jobs of a key (`job_id` None)."""

    def __init__(self, key_id: str, job_id: str | None, previews: bool) -> None:
        self.key_id = key_id
        self.job_id = job_id
        self.previews = previews
        self.changed_jobs: dict[str, None] = {}  # ids of jobs with a new live state, in the order of their first change
        # Set while the store may have transitions that were not read yet, as it may when the watch begins.
        self.transition_stored = asyncio.Event()
        self.transition_stored.set()
        self.closed = False  # the stream ends: the server stops, or the key was revoked
        self._changed = asyncio.Event()

    async def wait(self, timeout_s: float | None = None) -> bool:
        """Waits for a change; returns False when none came within `timeout_s`. None: waits for ever."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()
        except TimeoutError:
            return False
        self._changed.clear()
        return True

    async def pause(self, seconds: float) -> None:
        """Sleeps until the time is over or a transition is stored."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.transition_stored.wait()

    def wake(self) -> None:
        self._changed.set()

    def note_live_change(self, job_id: str) -> None:
        self.changed_jobs[job_id] = None
        self._changed.set()

    def note_transition(self) -> None:
        self.transition_stored.set()
        self._changed.set()


class Watchers:
    def __init__(self) -> None:
        self._watches: set[Watch] = set()
        self._n_of_key: Counter[str] = Counter()  # streams by id of the key

    def check(self, key_id: str) -> None:
        """Raises `TooMany` when this key has `MAX_PER_KEY` streams, as `stream` does."""
        if self._n_of_key[key_id] >= MAX_PER_KEY:
            raise TooMany(
                f"This key has {MAX_PER_KEY} event streams open, which is the maximum for a key.", retry_after_s=5
            )

    @contextmanager
    def stream(self, key_id: str, job_id: str | None, *, previews: bool = False) -> Iterator[Watch]:
        """A watch for an event stream. The limit is taken as it is checked: streams may come all at once."""
        self.check(key_id)
        self._n_of_key[key_id] += 1
        try:
            with self.watch(key_id, job_id, previews=previews) as watch:
                yield watch
        finally:
            self._n_of_key[key_id] -= 1
            if not self._n_of_key[key_id]:
                del self._n_of_key[key_id]

    @contextmanager
    def watch(self, key_id: str, job_id: str | None, *, previews: bool = False) -> Iterator[Watch]:
        watch = Watch(key_id, job_id, previews)
        self._watches.add(watch)
        try:
            yield watch
        finally:
            self._watches.discard(watch)

    def notify_live_change(self, key_id: str, job_id: str) -> None:
        """The job's live state (position, stage, step or preview) has changed."""
        for watch in self._watching(key_id, job_id):
            watch.note_live_change(job_id)

    def notify_transition(self, key_id: str, job_id: str) -> None:
        """The store has a new transition of the job."""
        for watch in self._watching(key_id, job_id):
            watch.note_transition()

    def all(self) -> set[Watch]:
        return self._watches

    def close(self, key_id: str | None = None) -> None:
        """Ends the streams of a key, or all of them because the server stops. Their clients will try to reconnect."""
        for watch in self._watches:
            if key_id in (None, watch.key_id):
                watch.closed = True
                watch.wake()

    def _watching(self, key_id: str, job_id: str) -> Iterator[Watch]:
        for watch in self._watches:
            if watch.key_id == key_id and watch.job_id in (None, job_id):
                yield watch
