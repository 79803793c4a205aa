"""A loaded model as the policy sees it: what runs on it, what its next quantum is, where its weights are. Device thread only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from pipelines.interface import NextStep
from server.job import Job
from server.scheduling.actions import ModelFacts


@dataclass(slots=True)
class Resident:
    facts: ModelFacts
    since: float  # when it was loaded or came back
    load_s: float
    last_used: float
    components: Mapping[str, int] = field(default_factory=dict)  # bytes on the device
    parked: Mapping[str, int] = field(default_factory=dict)  # bytes in host memory
    running: dict[str, int] = field(default_factory=dict)  # job id → its unfinished requests
    requests: int = 0  # their sum
    device_s: float = 0.0  # time used, as of the lane's last turn
    next_step: NextStep | None = None  # what its next step would run
    parkable: bool = True  # its lane let go of something when it was last told to park
    mid_forward: bool = False  # inside a forward that gave way
    slice_s: float = 0.0  # so long it stays with work, since it came
    served: bool = False  # it took a job since it came
    adapters: set[tuple[str, int]] = field(default_factory=set)  # that jobs have brought since then
    cache_cut_at: float = math.inf  # when its KV cache was last made smaller than it should be; inf: it is not
    cache_floor: int = -1  # the KV cache could not shrink below this; -1: not tried since a chat ended

    @property
    def name(self) -> str:
        return self.facts.name

    @property
    def key(self) -> str:
        """Under which what was measured of it is kept."""
        return self.facts.fingerprint or self.facts.name

    @property
    def is_chat(self) -> bool:
        return self.facts.type == "chat"

    @property
    def away(self) -> tuple[str, ...]:
        """Components to bring back before it can go on: all when it is idle, else the one its next quantum needs."""
        if not self.parked:
            return ()
        if not self.running:
            return tuple(self.parked)
        return (
            (self.next_step.component,)
            if self.next_step is not None and self.next_step.component in self.parked
            else ()
        )

    @property
    def spare(self) -> dict[str, int]:
        """Components on the device that its next quantum does not need, with their bytes."""
        if self.mid_forward or self.next_step is None:
            return {}
        return {name: n for name, n in self.components.items() if name != self.next_step.component}

    def has_room(self, job: Job) -> bool:
        return not self.running or self.requests + len(job.requests) <= self.facts.max_running

    def bytes_to_bring(self, job: Job) -> int:
        """Of the adapters that no job before it has brought: they are booked once they are there."""
        return sum(n_bytes for adapter, n_bytes in job.adapters.items() if adapter not in self.adapters)

    def victim_score(self, now: float, weight: float) -> float:
        """Larger goes sooner: idle long, cheap to bring back. `weight`: how much it is wanted."""
        return (now - self.last_used) / (max(self.load_s, 1e-3) * weight)
