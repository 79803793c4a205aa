"""What happens to a job, told as it happens and again to who comes back. Event loop only.

Two kinds. Transitions (`queued`, `completed`, `failed`, `canceled`) have an id, are read from the store, and are told each
exactly once after the id a reader last had, whatever server process told it that. The rest (`position`, `loading`, `progress`,
`preview`) have none: they tell how a job stands when its reader is ready to hear it.
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

KEEP_ALIVE_S = 15.0  # proxies close what is silent for 30 s or 60 s
PACE_S = 0.05  # between two looks at progress: twenty a second are as good as live, and bound what a stream costs
PAGE = 100  # transitions read at once


@dataclass(frozen=True, slots=True)
class JobEvent:
    name: str
    job: JobView
    id: int | None = None  # of transitions
    preview: NDArray[np.uint8] | None = None  # (H, W, 3)


@dataclass(frozen=True, slots=True)
class Bookmark:
    """Where a reader stands who was told nothing yet."""

    id: int


@dataclass(frozen=True, slots=True)
class KeepAlive:
    pass


Told: TypeAlias = JobEvent | Bookmark | KeepAlive


class JobEvents:
    def __init__(self, database: Database, live_jobs: LiveJobs) -> None:
        self._database = database
        self._live_jobs = live_jobs

    def watch(self, key: ApiKey, job_id: str | None, previews: bool = False) -> AbstractContextManager[Watch]:
        """To be told of one job or of all the key's."""
        return self._live_jobs.watchers.watch(key.id, job_id, previews=previews)

    def check_room(self, key: ApiKey) -> None:
        """Raises `TooMany` when this key may not open another stream."""
        self._live_jobs.watchers.check(key.id)

    def close(self) -> None:
        """The server stops: readers are sent away to come back."""
        self._live_jobs.watchers.close()

    async def is_over(self, key: ApiKey, job_id: str, after: int | None) -> bool:
        """Whether a reader who had event `after` of this job has heard it all. Raises `NotFound`."""

        def look(conn: Connection) -> bool:
            row = store.get_job(conn, job_id, key.id)
            if row is None:
                raise NotFound("There is no such job.")
            return row.state.terminal and after is not None and not log.after(conn, key.id, job_id, after, 1)

        return self._live_jobs.view(job_id) is None and await self._database.read(look)

    async def tell(self, key: ApiKey, watch: Watch, after: int | None) -> AsyncGenerator[Told]:
        """Until the one job that is watched has ended, or for ever when it is all the key's jobs.

        `after` None begins with how things are: a single job is told from its beginning, of all jobs only the live ones.
        """
        if after is None and watch.job_id is None:
            after = await self._database.read(log.last)
            yield Bookmark(after)
        cursor = after or 0
        watch.moved.update(
            (job.row.id, None) for job in self._live_jobs.of_key(key.id) if watch.job_id in (None, job.row.id)
        )
        told: dict[str, tuple[object, ...]] = {}  # what each job's reader heard last, so that nothing is told twice
        shown: dict[str, NDArray[np.uint8]] = {}  # the preview each job's reader had last
        while not watch.closed:
            if watch.committed.is_set():
                watch.committed.clear()
                while page := await self._database.read(functools.partial(_page, key, watch.job_id, cursor)):
                    for event in page:
                        cursor = event.id or cursor
                        yield event
                        if event.job.status.terminal and event.name != State.QUEUED:
                            told.pop(event.job.id, None)
                            shown.pop(event.job.id, None)
                            if watch.job_id is not None:
                                return
            for event in self._news(watch, told, shown):
                yield event
            await watch.pause(PACE_S)
            if not await watch.changed(KEEP_ALIVE_S):
                yield KeepAlive()

    def _news(
        self, watch: Watch, told: dict[str, tuple[object, ...]], shown: dict[str, NDArray[np.uint8]]
    ) -> Iterator[JobEvent]:
        moved, watch.moved = watch.moved, {}
        for job_id in moved:
            live = self._live_jobs.view(job_id)
            if live is None or live.end is not None:
                continue
            view = job_view.of_live(live, self._live_jobs)
            name = "loading" if view.stage == "loading_model" else "position" if view.place is not None else "progress"
            where = (view.place.position, view.place.waiting_for) if view.place is not None else (view.stage, view.step)
            if told.get(job_id) != (name, *where):
                told[job_id] = (name, *where)
                yield JobEvent(name, view)
            if watch.previews and live.preview is not None and shown.get(job_id) is not live.preview:
                shown[job_id] = live.preview
                yield JobEvent("preview", view, preview=live.preview)


def _page(key: ApiKey, job_id: str | None, after: int, conn: Connection) -> list[JobEvent]:
    return [_transition(conn, key, row) for row in log.after(conn, key.id, job_id, after, PAGE)]


def _transition(conn: Connection, key: ApiKey, event: EventRow) -> JobEvent:
    row = store.get_job(conn, event.job_id, key.id)
    assert row is not None, "a job's events go with it"
    return JobEvent(event.name, job_view.of_row(row, store.outputs_of(conn, row.id)), event.id)
