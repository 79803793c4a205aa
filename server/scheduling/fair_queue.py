"""Orders the waiting jobs: fair between API keys, then by priority, then by age. Device thread only; pure.

This is start-time fair queueing. A key's tag is the device seconds it has used, divided by the weight of its priority.
A job that starts is charged the mean device seconds of jobs of its model; the difference is corrected when it ends. The
key with the lowest tag goes first, and each second of waiting counts as `AGEING` seconds less used, so that no key
starves. A key that comes back starts level with the others: idle time is no credit. Charges that are not corrected yet
do not count for that: they may be a hundred times too high. Each model has its own heap of
keys, so that the cost of finding the next job does not grow with the queue.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

from server.job import Job

AGEING = 0.1  # seconds by which one second of waiting lowers a key's tag
EMA_WEIGHT = 0.3  # exponential moving average of device seconds per request: weight of the newest job
FIRST_GUESS_S = 1.0  # device seconds of a request, for a model that has run none


@dataclass(frozen=True, slots=True)
class Waiting:
    job: Job
    since: float  # when it was accepted, seconds on the engine's clock


@dataclass(slots=True)
class JobList:
    """Waiting jobs of one key, by priority, then by arrival."""

    by_priority: dict[int, OrderedDict[str, Waiting]] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Waiting]:
        for priority in sorted(self.by_priority, reverse=True):
            yield from self.by_priority[priority].values()

    def first(self) -> Waiting:
        return next(iter(self.by_priority[max(self.by_priority)].values()))

    def add(self, waiting: Waiting) -> None:
        self.by_priority.setdefault(waiting.job.priority, OrderedDict())[waiting.job.id] = waiting

    def remove(self, job: Job) -> None:
        jobs = self.by_priority[job.priority]
        del jobs[job.id]
        if not jobs:
            del self.by_priority[job.priority]


@dataclass(slots=True)
class KeyShare:
    """A key with waiting or running jobs."""

    tag: float
    jobs: JobList = field(default_factory=JobList)  # waiting jobs of all models
    running: dict[str, float] = field(default_factory=dict)  # job id → seconds charged when it started
    uncorrected: float = 0.0  # of the tag: what was charged for running jobs


@dataclass(slots=True)
class ModelQueue:
    """The jobs that wait for one model."""

    by_key: dict[str, JobList] = field(default_factory=dict)
    by_arrival: OrderedDict[str, Waiting] = field(default_factory=OrderedDict)
    # Heap of (due, key); outdated entries are dropped or corrected when they come up.
    heads: list[tuple[float, str]] = field(default_factory=list)


class FairQueue:
    def __init__(self) -> None:
        self._keys: dict[str, KeyShare] = {}
        self._models: dict[str, ModelQueue] = {}
        self._by_arrival: OrderedDict[str, Waiting] = OrderedDict()  # by job id, oldest first
        self._alone: dict[str, Waiting] = {}  # by job id: those that run alone, oldest first
        self._job_s: dict[str, float] = {}  # model → mean device seconds of a request
        self._level = 0.0  # tag of the key that was served last: new keys start there, or below
        self._with_running: set[str] = set()  # keys

    def __len__(self) -> int:
        return len(self._by_arrival)

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._by_arrival

    def add(self, job: Job, now: float) -> None:
        waiting = self._by_arrival[job.id] = Waiting(job, now)
        if job.alone:
            self._alone[job.id] = waiting
        key = self._keys.get(job.owner)
        if key is None:
            key = self._keys[job.owner] = KeyShare(self.level)
        key.jobs.add(waiting)
        model_queue = self._models.setdefault(job.model, ModelQueue())
        model_queue.by_arrival[job.id] = waiting
        model_queue.by_key.setdefault(job.owner, JobList()).add(waiting)
        if model_queue.by_key[job.owner].first() is waiting:
            self._push(model_queue, job.owner)

    def take(self, job_id: str) -> Waiting:
        """Remove a job that starts now and charge its key for it. Raises KeyError."""
        job = self._by_arrival[job_id].job
        key = self._keys[job.owner]
        key.running[job_id] = charge = self._job_s.get(job.model, FIRST_GUESS_S) * len(job.requests)
        self._level = max(self._level, key.tag)
        key.uncorrected += charge / weight(job)
        self._with_running.add(job.owner)
        waiting = self.remove(job_id)
        self._charge(job.owner, charge / weight(job))
        return waiting

    def ended(self, job: Job, seconds: float) -> None:
        """Correct the charge of a job that has ended after `seconds` of device time."""
        key = self._keys[job.owner]
        charged = key.running.pop(job.id)
        key.uncorrected -= charged / weight(job)
        if not key.running:
            key.uncorrected = 0.0
            self._with_running.discard(job.owner)
        mean = self._job_s.get(job.model, seconds / len(job.requests))
        self._job_s[job.model] = mean + EMA_WEIGHT * (seconds / len(job.requests) - mean)
        self._charge(job.owner, (seconds - charged) / weight(job))
        if seconds < charged:
            self._level = min(self._level, key.tag)
        self._drop_if_idle(job.owner)

    def remove(self, job_id: str) -> Waiting:
        """Remove a job that will not run. Raises KeyError."""
        waiting = self._by_arrival.pop(job_id)
        self._alone.pop(job_id, None)
        job = waiting.job
        self._keys[job.owner].jobs.remove(job)
        model_queue = self._models[job.model]
        del model_queue.by_arrival[job_id]
        jobs = model_queue.by_key[job.owner]
        jobs.remove(job)
        if not jobs.by_priority:
            del model_queue.by_key[job.owner]
        else:
            self._push(model_queue, job.owner)
        if not model_queue.by_arrival:
            del self._models[job.model]
        self._drop_if_idle(job.owner)
        return waiting

    def models(self) -> Iterator[str]:
        """Returns the models that jobs wait for, in the order in which their first jobs came."""
        return iter(self._models)

    def head(self, model: str) -> Waiting | None:
        """Returns the job of `model` that should start next; None when no job waits for it."""
        model_queue = self._models.get(model)
        return None if model_queue is None else model_queue.by_key[self._first_key(model_queue)].first()

    @property
    def level(self) -> float:
        """The tag with which a new key starts now."""
        running = (self._keys[owner] for owner in self._with_running)
        return min([self._level, *(key.tag - key.uncorrected for key in running)])

    def since(self, job_id: str) -> float:
        """Returns when a waiting job was accepted. Raises KeyError."""
        return self._by_arrival[job_id].since

    def tag(self, owner: str) -> float:
        """Returns the tag of a key with waiting or running jobs. Raises KeyError."""
        return self._keys[owner].tag

    def charge_of(self, job: Job) -> float:
        """Returns by how much the tag of the job's key rises when the job starts."""
        return self._job_s.get(job.model, FIRST_GUESS_S) * len(job.requests) / weight(job)

    def due(self, model: str) -> float:
        """Returns the urgency of the model's next job, smaller is sooner. It does not change as time passes."""
        model_queue = self._models[model]
        self._first_key(model_queue)
        return model_queue.heads[0][0]

    def oldest(self, model: str | None = None) -> Waiting | None:
        """Returns the job that has waited longest, of one model or of all."""
        if model is None:
            return next(iter(self._by_arrival.values()), None)
        model_queue = self._models.get(model)
        return None if model_queue is None else next(iter(model_queue.by_arrival.values()))

    def alone(self) -> list[Waiting]:
        """Returns the waiting jobs that run alone, oldest first."""
        return list(self._alone.values())

    def of_model(self, model: str) -> list[Waiting]:
        model_queue = self._models.get(model)
        return [] if model_queue is None else list(model_queue.by_arrival.values())

    def n_of_model(self, model: str) -> int:
        model_queue = self._models.get(model)
        return 0 if model_queue is None else len(model_queue.by_arrival)

    def in_order(self, at_most: int | None = None) -> Iterator[Waiting]:
        """Yields the jobs in the order in which they would start if fairness alone decided."""
        jobs_of = {owner: iter(key.jobs) for owner, key in self._keys.items()}
        heap: list[tuple[float, int, str, float, Waiting]] = []
        for n, (owner, jobs) in enumerate(jobs_of.items()):
            first = next(jobs, None)
            if first is not None:
                tag = self._keys[owner].tag
                heap.append((tag + AGEING * first.since, n, owner, tag, first))
        heapq.heapify(heap)
        left = len(self._by_arrival) if at_most is None else at_most
        while heap and left > 0:
            _, n, owner, tag, waiting = heapq.heappop(heap)
            yield waiting
            left -= 1
            tag += self.charge_of(waiting.job)
            following = next(jobs_of[owner], None)
            if following is not None:
                heapq.heappush(heap, (tag + AGEING * following.since, n, owner, tag, following))

    def _charge(self, owner: str, seconds: float) -> None:
        key = self._keys.get(owner)
        if key is None or not seconds:
            return
        key.tag += seconds
        if seconds < 0:  # the key's heap entries are now too late; those that are too early are corrected on the way up
            for model_queue in self._models.values():
                if owner in model_queue.by_key:
                    self._push(model_queue, owner)

    def _push(self, model_queue: ModelQueue, owner: str) -> None:
        heapq.heappush(model_queue.heads, (self._due(model_queue, owner), owner))
        if len(model_queue.heads) > 4 * len(model_queue.by_key) + 64:
            model_queue.heads = [(self._due(model_queue, owner), owner) for owner in model_queue.by_key]
            heapq.heapify(model_queue.heads)

    def _due(self, model_queue: ModelQueue, owner: str) -> float:
        return self._keys[owner].tag + AGEING * model_queue.by_key[owner].first().since

    def _first_key(self, model_queue: ModelQueue) -> str:
        heads = model_queue.heads
        while True:
            due, owner = heads[0]
            if owner not in model_queue.by_key:
                heapq.heappop(heads)
                continue
            now_due = self._due(model_queue, owner)
            if now_due <= due:
                return owner
            heapq.heapreplace(heads, (now_due, owner))

    def _drop_if_idle(self, owner: str) -> None:
        key = self._keys.get(owner)
        if key is not None and not key.running and not key.jobs.by_priority:
            del self._keys[owner]


def weight(job: Job) -> float:
    """Returns the job's share of the device, in multiples of that of a job with priority 0."""
    return 1.0 + max(0, job.priority)
