"""Runs the engine jobs of chats and embeddings and routes the engine's events to them. Event loop only.

These are not stored: they end when their client disconnects.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from typing import TypeAlias

from server.fleet.engine_port import Engine
from server.job import Job
from server.protocol import Cancel, JobCanceled, JobEmbedded, JobFailed, JobReplied, JobStarted, JobText

ChatEvent: TypeAlias = JobStarted | JobText | JobReplied | JobEmbedded | JobFailed | JobCanceled


class RunningChats:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.event_queues: dict[str, asyncio.Queue[ChatEvent]] = {}  # by id of the engine's job
        self._owners: dict[str, str] = {}  # id of the engine's job → key id
        self.n_of_key: Counter[str] = Counter()  # by key id: replies that are being made

    @contextmanager
    def count(self, key_id: str, n_replies: int = 1) -> Iterator[None]:
        """Counts more replies of the key, or embeddings, until the block ends."""
        self.n_of_key[key_id] += n_replies
        try:
            yield
        finally:
            self.n_of_key[key_id] -= n_replies
            if not self.n_of_key[key_id]:
                del self.n_of_key[key_id]

    async def run(self, job: Job, need_bytes: int) -> AsyncGenerator[ChatEvent]:
        """Submits a job and yields its events up to its end. Closing the generator earlier cancels the job.

        Raises what `Engine.submit` raises.
        """
        events = self.event_queues[job.id] = asyncio.Queue()
        self._owners[job.id] = job.owner
        ended = False
        try:
            self._engine.submit(job, need_bytes)
            while not ended:
                event = await events.get()
                ended = not isinstance(event, JobStarted | JobText)
                yield event
        finally:
            del self.event_queues[job.id], self._owners[job.id]
            if not ended:
                self._engine.send(Cancel(job.id))

    def key_ids(self) -> AbstractSet[str]:
        """The keys for which something runs."""
        return frozenset(self._owners.values())

    def cancel_all(self, key_id: str) -> int:
        """Cancels all that runs for a key; returns how much there was."""
        jobs = [job_id for job_id, owner in self._owners.items() if owner == key_id]
        for job_id in jobs:
            self._engine.send(Cancel(job_id))
        return len(jobs)

    def deliver(self, event: ChatEvent) -> bool:
        """Passes an event on to its chat; returns False when the event belongs to no running chat."""
        events = self.event_queues.get(event.job_id)
        if events is not None:
            events.put_nowait(event)
        return events is not None
