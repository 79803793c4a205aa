"""The waiting jobs in the order they should start: keys by what they have used, then priority, then age. Pure; device thread only.

Start-time fair queueing. A key's tag is the device seconds it has used, over the weight of its plan; a job that starts
is charged what such jobs took so far, and the difference when it ends. The key with the lowest tag goes first, and a second of
waiting counts as `AGEING` seconds less used, so that nobody starves. A key that comes back starts level with
the others: idle time is no credit. Each model has its own heap of keys, so that finding the next job costs the same however long the queue.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

from server.job import Job

AGEING = 0.1
MEMORY = 0.3  # weight of the newest job in the running mean of what jobs take
FIRST_GUESS_S = 1.0  # device seconds of a job of a model nothing is known of


@dataclass(frozen=True, slots=True)
class Waiting:
    job: Job
    since: float  # the engine's clock, seconds


@dataclass(slots=True)
class Line:
    """Jobs of one key: by priority, then by arrival."""

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
class Key:
    """An owner of jobs that has something waiting or running."""

    tag: float
    line: Line = field(default_factory=Line)  # all that waits, of every model
    running: dict[str, float] = field(default_factory=dict)  # job id → seconds it was charged when it started


@dataclass(slots=True)
class ModelLine:
    """What waits for one model."""

    by_key: dict[str, Line] = field(default_factory=dict)
    model_loads: OrderedDict[str, Waiting] = field(default_factory=OrderedDict)
    heads: list[tuple[float, str]] = field(default_factory=list)  # (due, key): a heap; a key's valid entry has its due


class FairQueue:
    def __init__(self) -> None:
        self._keys: dict[str, Key] = {}
        self._models: dict[str, ModelLine] = {}
        self._arrivals: OrderedDict[str, Waiting] = OrderedDict()  # by job id, oldest first
        self._job_s: dict[str, float] = {}  # model → mean device seconds of a job
        self._level = 0.0  # tag of the key that was served last: where newcomers start

    def __len__(self) -> int:
        return len(self._arrivals)

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._arrivals

    def add(self, job: Job, now: float) -> None:
        waiting = self._arrivals[job.id] = Waiting(job, now)
        key = self._keys.get(job.owner)
        if key is None:
            key = self._keys[job.owner] = Key(self._level)
        key.line.add(waiting)
        models = self._models.setdefault(job.model, ModelLine())
        models.model_loads[job.id] = waiting
        models.by_key.setdefault(job.owner, Line()).add(waiting)
        if models.by_key[job.owner].first() is waiting:
            self._push(models, job.owner)

    def take(self, job_id: str) -> Waiting:
        """Remove a job that starts now; its key is charged. Raises KeyError."""
        job = self._arrivals[job_id].job
        key = self._keys[job.owner]
        key.running[job_id] = charge = self._job_s.get(job.model, FIRST_GUESS_S) * len(job.requests)
        self._level = max(self._level, key.tag)
        waiting = self.remove(job_id)
        self._charge(job.owner, charge / weight(job))
        return waiting

    def ended(self, job: Job, seconds: float) -> None:
        """A job that was taken has ended; it took `seconds` of the device."""
        key = self._keys[job.owner]
        charged = key.running.pop(job.id)
        mean = self._job_s.get(job.model, seconds / len(job.requests))
        self._job_s[job.model] = mean + MEMORY * (seconds / len(job.requests) - mean)
        self._charge(job.owner, (seconds - charged) / weight(job))
        self._drop_if_idle(job.owner)

    def remove(self, job_id: str) -> Waiting:
        """Remove a job that will not run. Raises KeyError."""
        waiting = self._arrivals.pop(job_id)
        job = waiting.job
        self._keys[job.owner].line.remove(job)
        models = self._models[job.model]
        del models.model_loads[job_id]
        line = models.by_key[job.owner]
        line.remove(job)
        if not line.by_priority:
            del models.by_key[job.owner]
        else:
            self._push(models, job.owner)
        if not models.model_loads:
            del self._models[job.model]
        self._drop_if_idle(job.owner)
        return waiting

    def models(self) -> Iterator[str]:
        """Those that a job waits for, in the order they were first asked for."""
        return iter(self._models)

    def head(self, model: str) -> Waiting | None:
        """The job of `model` that should start next."""
        models = self._models.get(model)
        return None if models is None else models.by_key[self._first_key(models)].first()

    @property
    def level(self) -> float:
        """The tag a key starts with that comes now."""
        return self._level

    def since(self, job_id: str) -> float:
        """When a waiting job came. Raises KeyError."""
        return self._arrivals[job_id].since

    def tag(self, owner: str) -> float:
        """What a key with jobs has used, as far as its turn goes."""
        return self._keys[owner].tag

    def charge_of(self, job: Job) -> float:
        """By how much its key's tag rises when it starts."""
        return self._job_s.get(job.model, FIRST_GUESS_S) * len(job.requests) / weight(job)

    def due(self, model: str) -> float:
        """Smaller is sooner: comparable between models, constant as time goes by."""
        models = self._models[model]
        self._first_key(models)
        return models.heads[0][0]

    def oldest(self, model: str | None = None) -> Waiting | None:
        if model is None:
            return next(iter(self._arrivals.values()), None)
        models = self._models.get(model)
        return None if models is None else next(iter(models.model_loads.values()))

    def of_model(self, model: str) -> list[Waiting]:
        models = self._models.get(model)
        return [] if models is None else list(models.model_loads.values())

    def n_of_model(self, model: str) -> int:
        models = self._models.get(model)
        return 0 if models is None else len(models.model_loads)

    def in_order(self, at_most: int | None = None) -> Iterator[Waiting]:
        """The jobs as they would start if every one could."""
        lines = {owner: iter(key.line) for owner, key in self._keys.items()}
        heap: list[tuple[float, int, str, float, Waiting]] = []
        for n, (owner, line) in enumerate(lines.items()):
            first = next(line, None)
            if first is not None:
                tag = self._keys[owner].tag
                heap.append((tag + AGEING * first.since, n, owner, tag, first))
        heapq.heapify(heap)
        left = len(self._arrivals) if at_most is None else at_most
        while heap and left > 0:
            _, n, owner, tag, waiting = heapq.heappop(heap)
            yield waiting
            left -= 1
            tag += self.charge_of(waiting.job)
            following = next(lines[owner], None)
            if following is not None:
                heapq.heappush(heap, (tag + AGEING * following.since, n, owner, tag, following))

    def _charge(self, owner: str, seconds: float) -> None:
        key = self._keys.get(owner)
        if key is None or not seconds:
            return
        key.tag += seconds
        if seconds < 0:  # it goes sooner than its entries say; one that goes later is put right when it comes up
            for models in self._models.values():
                if owner in models.by_key:
                    self._push(models, owner)

    def _push(self, models: ModelLine, owner: str) -> None:
        heapq.heappush(models.heads, (self._due(models, owner), owner))
        if len(models.heads) > 4 * len(models.by_key) + 64:
            models.heads = [(self._due(models, owner), owner) for owner in models.by_key]
            heapq.heapify(models.heads)

    def _due(self, models: ModelLine, owner: str) -> float:
        return self._keys[owner].tag + AGEING * models.by_key[owner].first().since

    def _first_key(self, models: ModelLine) -> str:
        heads = models.heads
        while True:
            due, owner = heads[0]
            if owner not in models.by_key:
                heapq.heappop(heads)
                continue
            now_due = self._due(models, owner)
            if now_due <= due:
                return owner
            heapq.heapreplace(heads, (now_due, owner))

    def _drop_if_idle(self, owner: str) -> None:
        key = self._keys.get(owner)
        if key is not None and not key.running and not key.line.by_priority:
            del self._keys[owner]


def weight(job: Job) -> float:
    """How many times the share of a plain key this job's key gets."""
    return 1.0 + max(0, job.priority)
