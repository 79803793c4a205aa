"""Runs the engine jobs of chats and embeddings and routes the engine's events to them. Event loop only.

These are not stored: they end when their client disconnects.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from typing import TypeAlias

from server.fleet.engine_port import Engine
from server.job import Job
from server.protocol import Cancel, JobCanceled, JobEmbedded, JobFailed, JobReplied, JobStarted, JobText

ChatEvent: TypeAlias = JobStarted | JobText | JobReplied | JobEmbedded | JobFailed | JobCanceled


class RepliesTaken:
    """Some of the replies that a key may have at once. They are free again after `give_back`, which may be called more
    than once, and at the latest when nothing holds this object any more.
    """

    def __init__(self, n_of_key: Counter[str], lock: threading.Lock, key_id: str, n_replies: int) -> None:
        with lock:
            n_of_key[key_id] += n_replies
        self.give_back = weakref.finalize(self, _give_back, n_of_key, lock, key_id, n_replies)
        self.give_back.atexit = False


def _give_back(n_of_key: Counter[str], lock: threading.Lock, key_id: str, n_replies: int) -> None:
    with lock:
        n_of_key[key_id] -= n_replies
        if not n_of_key[key_id]:
            del n_of_key[key_id]


class RunningChats:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.event_queues: dict[str, asyncio.Queue[ChatEvent]] = {}  # by id of the engine's job
        self._owners: dict[str, str] = {}  # id of the engine's job → key id
        self._models: dict[str, str] = {}  # by id of the engine's job
        self.n_of_key: Counter[str] = Counter()  # by key id: replies that are being made
        self._lock = threading.Lock()  # what nothing holds any more is given back on whatever thread finds it

    def take(self, key_id: str, n_replies: int = 1) -> RepliesTaken:
        """Counts more replies of the key, or embeddings. Called when the limit was checked, before anything is awaited:
        of many requests that come together, each one then sees those before it.
        """
        return RepliesTaken(self.n_of_key, self._lock, key_id, n_replies)

    @contextmanager
    def count(self, key_id: str, n_replies: int = 1) -> Iterator[None]:
        """As `take`, until the block ends."""
        taken = self.take(key_id, n_replies)
        try:
            yield
        finally:
            taken.give_back()

    async def run(self, job: Job, need_bytes: int) -> AsyncGenerator[ChatEvent]:
        """Submits a job and yields its events up to its end. Closing the generator earlier cancels the job.

        Raises what `Engine.submit` raises.
        """
        events = self.event_queues[job.id] = asyncio.Queue()
        self._owners[job.id] = job.owner
        self._models[job.id] = job.model
        ended = False
        try:
            self._engine.submit(job, need_bytes)
            while not ended:
                event = await events.get()
                ended = not isinstance(event, JobStarted | JobText)
                yield event
        finally:
            del self.event_queues[job.id], self._owners[job.id], self._models[job.id]
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

    def model_of(self, job_id: str) -> str | None:
        return self._models.get(job_id)

    def fail_all(self, message: str) -> None:
        """Ends all chats and embeddings: the process is about to end. Their clients get an answer and are refunded."""
        for job_id, events in self.event_queues.items():
            events.put_nowait(JobFailed(job_id, "engine_stopped", message, True))

    def deliver(self, event: ChatEvent) -> bool:
        """Passes an event on to its chat; returns False when the event belongs to no running chat."""
        events = self.event_queues.get(event.job_id)
        if events is not None:
            events.put_nowait(event)
        return events is not None
