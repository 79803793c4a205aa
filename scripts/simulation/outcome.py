"""Results of a policy on a trace: start and end of each job, and the times that an even share of the device gives."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from statistics import mean, quantiles

from scripts.simulation.traces import SimJob, Trace


@dataclass(slots=True)
class Outcome:
    policy: str
    started: dict[str, float] = field(default_factory=dict)  # job id → seconds
    ended: dict[str, float] = field(default_factory=dict)
    loads: int = 0
    evictions: int = 0
    busy_s: float = 0.0  # seconds in which the device ran a forward
    decision_s: list[float] = field(default_factory=list)  # wall-clock seconds of each call of `next_action`

    @property
    def makespan_s(self) -> float:
        return max(self.ended.values())

    @property
    def utilisation(self) -> float:
        return self.busy_s / self.makespan_s

    def swaps(self, trace: Trace) -> int:
        """Counts the loads beyond the first of each model."""
        return self.loads - len({job.model for job in trace.jobs})

    def missed(self, trace: Trace) -> int:
        return sum(self.ended[job.id] > job.deadline for job in trace.jobs)

    def waits(self, trace: Trace) -> dict[str, float]:
        """Returns the mean seconds from arrival to end, by key."""
        return by_key(trace, {job.id: self.ended[job.id] - job.at for job in trace.jobs})

    def p95_wait_s(self, trace: Trace, kind: str) -> float:
        """Returns the 95th percentile of the seconds from arrival to start, over jobs of one type."""
        waits = [self.started[job.id] - job.at for job in trace.jobs if trace.models[job.model].type == kind]
        return quantiles(waits, n=20)[-1] if len(waits) > 1 else 0.0


def by_key(trace: Trace, seconds: dict[str, float]) -> dict[str, float]:
    """Averages seconds by job to seconds by key."""
    lists: dict[str, list[float]] = defaultdict(list)
    for job in trace.jobs:
        lists[job.key].append(seconds[job.id])
    return {key: mean(values) for key, values in sorted(lists.items())}


def fair_shares(trace: Trace) -> dict[str, float]:
    """Returns each job's seconds from arrival to end if the device were divided evenly among the keys that have work.

    Each key runs its jobs one after another, unbatched. A key's first job of a model pays for the load. Where the
    models do not all fit, so does each job whose model differs from that of the key's job before: a key that had the
    device to itself would have to load there as well.
    """
    waiting: dict[str, list[SimJob]] = defaultdict(list)
    left: dict[str, float] = {}
    loaded_by: dict[str, set[str]] = defaultdict(set)  # key → models whose load it has paid for
    tight = sum(model.weight_bytes for model in trace.models.values()) > trace.capacity_bytes
    fair: dict[str, float] = {}
    arrivals = list(trace.jobs)
    now, i = 0.0, 0
    while i < len(arrivals) or waiting:
        if not waiting:
            now = max(now, arrivals[i].at)
        while i < len(arrivals) and arrivals[i].at <= now:
            waiting[arrivals[i].key].append(arrivals[i])
            loaded = loaded_by[arrivals[i].key]
            model = trace.models[arrivals[i].model]
            left[arrivals[i].id] = model.job_s + (model.load_s if model.name not in loaded else 0.0)
            if tight:
                loaded.clear()
            loaded.add(model.name)
            i += 1
        n = len(waiting)
        until = min(left[jobs[0].id] for jobs in waiting.values()) * n
        if i < len(arrivals):
            until = min(until, arrivals[i].at - now)
        now += until
        for key, jobs in list(waiting.items()):
            job = jobs[0]
            left[job.id] -= until / n
            if left[job.id] <= 1e-9:
                fair[job.id] = now - job.at
                jobs.pop(0)
                if not jobs:
                    del waiting[key]
    return fair
