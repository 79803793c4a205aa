"""What the event loop may ask of the device thread. Immutable messages; the engine's inbox carries nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from server.jobs import Job


@dataclass(frozen=True, slots=True)
class Submit:
    job: Job
    at: float  # the engine's clock when it was submitted, seconds


@dataclass(frozen=True, slots=True)
class Cancel:
    job_id: str


@dataclass(frozen=True, slots=True)
class Recall:
    """Give a job that still waits back as `JobReturned`. One that runs or has ended stays: nothing is told."""

    job_id: str


@dataclass(frozen=True, slots=True)
class LoadModel:
    """A person asks for the model: as urgent as a job that has waited longest. Loaded already: its idle time starts anew."""

    model: str


@dataclass(frozen=True, slots=True)
class UnloadModel:
    """Once its running jobs are done; until then it takes no new ones: they wait. A pinned model stays."""

    model: str


@dataclass(frozen=True, slots=True)
class Forget:
    """The catalogue lost it: its waiting jobs fail, its running ones end, then it is evicted. No pin holds it."""

    model: str


@dataclass(frozen=True, slots=True)
class Pin:
    """A pinned model is never evicted, whatever waits."""

    model: str
    pinned: bool


@dataclass(frozen=True, slots=True)
class KeepAlive:
    """Idle seconds until the model is evicted, instead of what its entry says: 0 at once, inf never; None as the entry says."""

    model: str
    seconds: float | None


@dataclass(frozen=True, slots=True)
class WasRead:
    """The files of the model on its way are in memory, as far as reading them helps."""


@dataclass(frozen=True, slots=True)
class Drain:
    """Start nothing more; go on with what runs."""


@dataclass(frozen=True, slots=True)
class Stop:
    pass


Message: TypeAlias = (
    Submit | Cancel | Recall | LoadModel | UnloadModel | Forget | Pin | KeepAlive | WasRead | Drain | Stop
)
