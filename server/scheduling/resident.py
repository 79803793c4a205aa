"""A loaded model as the scheduler sees it: what runs on it, what its next step is, where its weights are. Device thread only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from pipelines.interface import NextStep
from server.job import Job
from server.scheduling.actions import ModelFacts


@dataclass(slots=True)
class Resident:
    """All times are seconds on the engine's clock."""

    facts: ModelFacts
    since: float  # when it was loaded or last came back from host memory
    load_s: float
    last_used: float
    components: Mapping[str, int] = field(default_factory=dict)  # bytes on the device
    parked: Mapping[str, int] = field(default_factory=dict)  # bytes in host memory
    running: dict[str, int] = field(default_factory=dict)  # job id → its unfinished requests
    requests: int = 0  # the sum of `running`
    device_s: float = 0.0  # device seconds used, for taking turns
    next_step: NextStep | None = None  # what its next step would run
    parkable: bool = True  # its lane freed memory when it was last parked
    mid_forward: bool = False  # its lane is suspended inside a forward
    slice_s: float = 0.0  # with work, it keeps the device for so long after `since`
    served: bool = False  # a job was admitted since `since`
    adapters: set[tuple[str, int]] = field(default_factory=set)  # LoRA files that jobs have loaded since `since`
    cache_cut_at: float = (
        math.inf
    )  # when its KV cache was last made smaller than it should be; inf: it has its full size
    cache_floor: int = -1  # bytes below which its KV cache could not shrink; -1: unknown since a chat ended

    @property
    def name(self) -> str:
        return self.facts.name

    @property
    def key(self) -> str:
        """The key under which measurements of this model are kept."""
        return self.facts.fingerprint or self.facts.name

    @property
    def is_chat(self) -> bool:
        return self.facts.type == "chat"

    @property
    def away(self) -> tuple[str, ...]:
        """Parked components that must come back before it can work: all when it is idle, else the one its next step needs."""
        if not self.parked:
            return ()
        if not self.running:
            return tuple(self.parked)
        if self.next_step is not None and self.next_step.component in self.parked:
            return (self.next_step.component,)
        return ()

    @property
    def spare(self) -> dict[str, int]:
        """Components on the device that its next step does not need, with their bytes."""
        if self.mid_forward or self.next_step is None:
            return {}
        return {name: n for name, n in self.components.items() if name != self.next_step.component}

    def has_room(self, job: Job) -> bool:
        """Whether the job's requests fit the lane; an idle lane takes any job."""
        return not self.running or self.requests + len(job.requests) <= self.facts.max_running

    def bytes_to_bring(self, job: Job) -> int:
        """Bytes of the job's adapters that are not loaded yet; loaded ones are booked already."""
        return sum(n_bytes for adapter, n_bytes in job.adapters.items() if adapter not in self.adapters)

    def victim_score(self, now: float) -> float:
        """A model with a larger score is evicted sooner: idle for long, and quick to load again."""
        return (now - self.last_used) / max(self.load_s, 1e-3)
