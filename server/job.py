"""A job: what the engine is handed, and the states it goes through. Immutable data."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, TypeAlias

from pipelines.interface import DiffusionRequest, Request

JobType: TypeAlias = Literal["image", "video", "chat"]


class State(StrEnum):
    QUEUED = "queued"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELED = "canceled"

    @property
    def terminal(self) -> bool:
        return self in (State.COMPLETED, State.FAILED, State.CANCELED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What the engine is handed. A picture job with n outputs has n requests; all others have one."""

    id: str
    owner: str  # key id: the unit of fairness
    type: JobType
    model: str
    requests: tuple[Request, ...]
    priority: int = 0  # larger runs sooner
    attempt: int = 1

    @property
    def adapters(self) -> dict[tuple[str, int], int]:
        """(file, when it was written) → bytes"""
        loras = (lora for it in self.requests if isinstance(it, DiffusionRequest) for lora in it.loras)
        return {(lora.path, lora.stamp): lora.n_bytes for lora in loras}
