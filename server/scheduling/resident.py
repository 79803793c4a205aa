"""The scheduler's record of a loaded model: its running jobs, its next step, its memory. Device thread only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from pipelines.diffusion_interface import Adapter
from pipelines.interface import NextStep
from server.job import Job
from server.scheduling.actions import ModelFacts


@dataclass(slots=True)
class Lent:
    """An adapter that a model holds, or is about to load, for its jobs."""

    adapter: Adapter
    last_used: float  # when the last job that used it ended
    jobs: set[str] = field(default_factory=set)  # ids of running jobs that use it


@dataclass(slots=True)
class Resident:
    """All times are seconds on the engine's clock."""

    facts: ModelFacts
    since: float  # when it was loaded or last came back from host memory
    load_s: float
    last_used: float
    components: Mapping[str, int] = field(default_factory=dict)  # bytes on the device
    parked: Mapping[str, int] = field(default_factory=dict)  # bytes in host memory
    running: dict[str, int] = field(default_factory=dict)  # job id → number of its unfinished requests
    requests: int = 0  # the sum of `running`
    device_s: float = 0.0  # device seconds used: the lane with the fewest of its class steps next
    next_step: NextStep | None = None  # what its next step would run; None: no forward
    parkable: bool = True  # its lane freed memory when it was last parked
    mid_forward: bool = False  # its lane is suspended inside a forward
    waits: bool = False  # its lane can do nothing before the files of its jobs have been read
    slice_s: float = 0.0  # time slice: while it has work, it keeps its memory for so long after `since`
    served: bool = False  # a job was admitted since `since`
    loras: set[tuple[str, int]] = field(default_factory=set)  # LoRA files that jobs have loaded since `since`
    lent: dict[str, Lent] = field(default_factory=dict)  # adapters by component
    cache_cut_at: float = math.inf  # when its KV cache was last cut below its full size; inf: it has its full size
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
    def to_unpark(self) -> tuple[str, ...]:
        """The parked components that must come back before it can work.

        All of them when it is idle, else the one that its next step needs.
        """
        if not self.parked:
            return ()
        if not self.running:
            return tuple(self.parked)
        if self.next_step is not None and self.next_step.component in self.parked:
            return (self.next_step.component,)
        return ()

    @property
    def unneeded(self) -> dict[str, int]:
        """The components on the device that its next step does not need, with their bytes."""
        if self.mid_forward or self.next_step is None:
            return {}
        return {name: n for name, n in self.components.items() if name != self.next_step.component}

    def has_room(self, job: Job) -> bool:
        """Whether the job's requests fit the lane; an idle lane takes any job."""
        return not self.running or self.requests + len(job.requests) <= self.facts.max_running

    def holds(self, component: str) -> bool:
        """Whether its lane has the component, on the device or in host memory."""
        return component in self.components or component in self.parked

    @property
    def idle_adapters(self) -> dict[str, int]:
        """The adapters on the device that no running job uses, with their bytes."""
        idle = (name for name, lent in self.lent.items() if not lent.jobs)
        return {name: self.components[name] for name in idle if name in self.components}

    def victim_score(self, now: float) -> float:
        """Returns a score that is larger for models to evict sooner: idle for long, and quick to load again."""
        return (now - self.last_used) / max(self.load_s, 1e-3)
