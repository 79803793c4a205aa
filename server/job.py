"""A job as it is handed to an engine, and the states of a stored job. Immutable data; any thread."""

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
    """An image or video job has one request per output; a chat job has one request."""

    id: str
    owner: str  # id of the API key: the queue is fair between owners
    type: JobType
    model: str
    requests: tuple[Request, ...]
    priority: int = 0  # larger runs sooner

    @property
    def adapters(self) -> dict[tuple[str, int], int]:
        """The LoRA files that the job's requests use: (path, time of its last change) → bytes."""
        diffusion = (request for request in self.requests if isinstance(request, DiffusionRequest))
        return {(lora.path, lora.stamp): lora.n_bytes for request in diffusion for lora in request.loras}
