"""What became of a trace under a policy, and what a fair share of the device would have given each key."""

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
    load_times: int = 0
    evictions: int = 0
    busy_s: float = 0.0  # of the device, in forwards
    decision_s: list[float] = field(default_factory=list)
    etas: list[tuple[str, float, float]] = field(default_factory=list)  # (job id, when said, when it said to be done)

    @property
    def makespan_s(self) -> float:
        return max(self.ended.values())

    @property
    def utilisation(self) -> float:
        return self.busy_s / self.makespan_s

    def swaps(self, trace: Trace) -> int:
        """Loads of a model that had been there before."""
        return self.load_times - len({job.model for job in trace.jobs})

    def missed(self, trace: Trace) -> int:
        return sum(self.ended[job.id] > job.deadline for job in trace.jobs)

    def waits(self, trace: Trace) -> dict[str, float]:
        """Mean seconds from arrival to end, by key."""
        return by_key(trace, {job.id: self.ended[job.id] - job.at for job in trace.jobs})

    def p95_wait_s(self, trace: Trace, kind: str) -> float:
        """To the start, of jobs of one type."""
        waits = [self.started[job.id] - job.at for job in trace.jobs if trace.models[job.model].type == kind]
        return quantiles(waits, n=20)[-1] if len(waits) > 1 else 0.0


def by_key(trace: Trace, seconds: dict[str, float]) -> dict[str, float]:
    lists: dict[str, list[float]] = defaultdict(list)
    for job in trace.jobs:
        lists[job.key].append(seconds[job.id])
    return {key: mean(values) for key, values in sorted(lists.items())}


def fair_shares(trace: Trace) -> dict[str, float]:
    """Seconds from arrival to end of each job, were the device divided evenly among the keys that have work at the time.

    Each key runs its jobs one after another, unmerged. A load is counted the first time; where the models do not all fit, also
    whenever a key's job is of another model than the one before: with the device to itself it could not do without either.
    """
    waiting: dict[str, list[SimJob]] = defaultdict(list)
    left: dict[str, float] = {}
    at_hand: dict[str, set[str]] = defaultdict(set)  # models, by key
    tight = sum(model.weight_bytes for model in trace.models.values()) > trace.capacity_bytes
    fair: dict[str, float] = {}
    model_loads = list(trace.jobs)
    now, i = 0.0, 0
    while i < len(model_loads) or waiting:
        if not waiting:
            now = max(now, model_loads[i].at)
        while i < len(model_loads) and model_loads[i].at <= now:
            waiting[model_loads[i].key].append(model_loads[i])
            loaded = at_hand[model_loads[i].key]
            model = trace.models[model_loads[i].model]
            left[model_loads[i].id] = model.job_s + (model.load_s if model.name not in loaded else 0.0)
            if tight:
                loaded.clear()
            loaded.add(model.name)
            i += 1
        n = len(waiting)
        until = min(left[jobs[0].id] for jobs in waiting.values()) * n
        if i < len(model_loads):
            until = min(until, model_loads[i].at - now)
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
