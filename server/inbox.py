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
class Drain:
    """Start nothing more; go on with what runs."""


@dataclass(frozen=True, slots=True)
class Stop:
    pass


Message: TypeAlias = Submit | Cancel | Drain | Stop
