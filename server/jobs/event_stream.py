"""Streams the events of jobs: as they happen, and those a reconnecting client has missed. Event loop only.

There are two kinds. Transitions (`queued`, `completed`, `failed`, `canceled`) are read from the store and have an id: a
client gets each one after the last id it received exactly once, even from another server process. Live events
(`position`, `loading`, `progress`, `preview`) have no id: they report a job's state at the moment the reader is ready.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection

from server.accounts.auth import ApiKey
from server.errors import NotFound
from server.job import State
from server.jobs import job_view
from server.jobs.job_view import JobView
from server.jobs.live_jobs import LiveJobs
from server.jobs.watchers import Watch
from server.store import events as log
from server.store import jobs as store
from server.store.database import Database
from server.store.events import EventRow

MIN_INTERVAL_S = 0.05  # between two rounds of live events: bounds what a stream costs to 20 rounds per second
PAGE_SIZE = 100  # transitions per read


@dataclass(frozen=True, slots=True)
class JobEvent:
    name: str
    job: JobView
    id: int | None = None  # of transitions only
    preview: NDArray[np.uint8] | None = None  # of `preview` only: (H, W, 3)


@dataclass(frozen=True, slots=True)
class StreamStart:
    """The id after which a new stream continues, sent before the first event so that a reconnect misses nothing."""

    id: int


StreamItem: TypeAlias = JobEvent | StreamStart


class JobEvents:
    def __init__(self, database: Database, live_jobs: LiveJobs) -> None:
        self._database = database
        self._live_jobs = live_jobs

    def watch(self, key: ApiKey, job_id: str) -> AbstractContextManager[Watch]:
        """Watches one job of the key for a request that waits for it."""
        return self._live_jobs.watchers.watch(key.id, job_id)

    def open(self, key: ApiKey, job_id: str | None, previews: bool) -> AbstractContextManager[Watch]:
        """Watches one job of the key, or all of them (`job_id` None), for a stream. Entering it raises `TooMany`."""
        return self._live_jobs.watchers.stream(key.id, job_id, previews=previews)

    def check_limit(self, key: ApiKey) -> None:
        """Raises `TooMany` when this key may not open another stream now."""
        self._live_jobs.watchers.check(key.id)

    def close(self) -> None:
        """Ends all streams because the server stops; their clients reconnect to the next process."""
        self._live_jobs.watchers.close()

    async def is_complete(self, key: ApiKey, job_id: str, after: int | None) -> bool:
        """Whether a client that has received event `after` has received all events of this job. Raises `NotFound`."""

        def look_up(conn: Connection) -> bool:
            row = store.get_job(conn, job_id, key.id)
            if row is None:
                raise NotFound("There is no such job.")
            return row.state.terminal and after is not None and not log.after(conn, key.id, job_id, after, 1)

        live = self._live_jobs.get(job_id)
        is_own = live is not None and live.row.key_id == key.id  # another key's is looked up, and not found
        return not is_own and await self._database.read(look_up)

    async def stream(self, key: ApiKey, watch: Watch, after: int | None) -> AsyncGenerator[StreamItem]:
        """Yields the events of a watch: of one job until it has ended, of all the key's jobs for ever.

        after: id of the last transition that the client received. None: the stream of one job starts with the job's
        first transition, the stream of all jobs starts with the state of the live ones.
        """
        if after is None and watch.job_id is None:
            after = await self._database.read(log.last)
            yield StreamStart(after)
        cursor = after or 0
        watch.changed_jobs.update(
            (job.row.id, None) for job in self._live_jobs.of_key(key.id) if watch.job_id in (None, job.row.id)
        )
        sent_states: dict[str, tuple[object, ...]] = {}  # by job id; a state that was sent is not sent again
        sent_previews: dict[str, NDArray[np.uint8]] = {}  # by job id
        while not watch.closed:
            if watch.transition_stored.is_set():
                watch.transition_stored.clear()
                while page := await self._database.read(functools.partial(_page, key, watch.job_id, cursor)):
                    for event in page:
                        cursor = event.id or cursor
                        yield event
                        if event.job.status.terminal and event.name != State.QUEUED:
                            sent_states.pop(event.job.id, None)
                            sent_previews.pop(event.job.id, None)
                            if watch.job_id is not None:
                                return
            for event in self._live_events(watch, sent_states, sent_previews):
                yield event
            await watch.pause(MIN_INTERVAL_S)
            await watch.wait()

    def _live_events(
        self,
        watch: Watch,
        sent_states: dict[str, tuple[object, ...]],
        sent_previews: dict[str, NDArray[np.uint8]],
    ) -> Iterator[JobEvent]:
        """Yields the current state of the changed jobs where it differs from what was sent, and notes it as sent."""
        changed_jobs, watch.changed_jobs = watch.changed_jobs, {}
        for job_id in changed_jobs:
            live = self._live_jobs.get(job_id)
            if live is None or live.end is not None:
                continue
            view = job_view.of_live(live, self._live_jobs)
            queued = view.queue_position
            name = "loading" if view.stage == "loading_model" else "progress" if queued is None else "position"
            detail = (view.stage, view.step) if queued is None else (queued.position, queued.waiting_for)
            if sent_states.get(job_id) != (name, *detail):
                sent_states[job_id] = (name, *detail)
                yield JobEvent(name, view)
            if watch.previews and live.preview is not None and sent_previews.get(job_id) is not live.preview:
                sent_previews[job_id] = live.preview
                yield JobEvent("preview", view, preview=live.preview)


def _page(key: ApiKey, job_id: str | None, after: int, conn: Connection) -> list[JobEvent]:
    return [_transition(conn, key, row) for row in log.after(conn, key.id, job_id, after, PAGE_SIZE)]


def _transition(conn: Connection, key: ApiKey, event: EventRow) -> JobEvent:
    row = store.get_job(conn, event.job_id, key.id)
    assert row is not None, "the events of a job are deleted with the job"
    return JobEvent(event.name, job_view.of_row(row, store.outputs_of(conn, row.id)), event.id)
