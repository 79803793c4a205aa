"""The waiting jobs in the order they should start: per-key round robin, then priority, then age. Pure; device thread only."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

from server.jobs import Job


@dataclass(frozen=True, slots=True)
class Waiting:
    job: Job
    since: float  # the engine's clock, seconds


@dataclass(slots=True)
class Line:
    """The jobs of one key: by priority, then by arrival."""

    by_priority: dict[int, dict[str, Waiting]] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Waiting]:
        for priority in sorted(self.by_priority, reverse=True):
            yield from self.by_priority[priority].values()

    def add(self, waiting: Waiting) -> None:
        self.by_priority.setdefault(waiting.job.priority, {})[waiting.job.id] = waiting

    def remove(self, job: Job) -> None:
        jobs = self.by_priority[job.priority]
        del jobs[job.id]
        if not jobs:
            del self.by_priority[job.priority]


class FairQueue:
    """One line per key, keys take turns: a key that floods the queue delays only itself."""

    def __init__(self) -> None:
        self._lines: OrderedDict[str, Line] = OrderedDict()  # the key whose turn is next comes first
        self._arrivals: OrderedDict[str, Waiting] = OrderedDict()  # by job id, oldest first

    def __len__(self) -> int:
        return len(self._arrivals)

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._arrivals

    def add(self, job: Job, now: float) -> None:
        waiting = self._arrivals[job.id] = Waiting(job, now)
        self._lines.setdefault(job.owner, Line()).add(waiting)

    def take(self, job_id: str) -> Waiting:
        """Remove a job that starts now; its key goes to the end of the turn. Raises KeyError."""
        waiting = self.remove(job_id)
        if waiting.job.owner in self._lines:
            self._lines.move_to_end(waiting.job.owner)
        return waiting

    def remove(self, job_id: str) -> Waiting:
        """Remove a job that will not run; turns stay as they are. Raises KeyError."""
        waiting = self._arrivals.pop(job_id)
        line = self._lines[waiting.job.owner]
        line.remove(waiting.job)
        if not line.by_priority:
            del self._lines[waiting.job.owner]
        return waiting

    def oldest(self) -> Waiting | None:
        return next(iter(self._arrivals.values()), None)

    def in_order(self, at_most: int | None = None) -> Iterator[Waiting]:
        """The jobs as they would start if every one could: a turn takes one job of each key."""
        return islice(self._turns(), at_most)

    def of_model(self, model: str) -> list[Waiting]:
        return [waiting for waiting in self._arrivals.values() if waiting.job.model == model]

    def _turns(self) -> Iterator[Waiting]:
        lines = [iter(line) for line in self._lines.values()]
        while lines:
            going = []
            for line in lines:
                waiting = next(line, None)
                if waiting is not None:
                    yield waiting
                    going.append(line)
            lines = going
