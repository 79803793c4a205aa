"""A job as it is handed to an engine, and the states of a stored job. Immutable data; any thread."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Literal, TypeAlias

from pipelines.diffusion_interface import Adapter, DiffusionRequest
from pipelines.interface import Request

JobType: TypeAlias = Literal["image", "video", "chat", "embedding"]
# A client waits on its connection for jobs of these types. They are not stored, and end when it disconnects.
UNSTORED: Mapping[JobType, str] = MappingProxyType({"chat": "chat_", "embedding": "embed_"})  # → beginning of their ids


def unstored_type(job_id: str) -> JobType | None:
    """Returns the type of a job that is not stored, by its id; None for any other id."""
    return next((kind for kind, prefix in UNSTORED.items() if job_id.startswith(prefix)), None)


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
    """An image or video job has one request per output; a chat or embedding job has one request."""

    id: str
    owner: str  # id of the API key: the queue is fair between owners
    type: JobType
    model: str
    requests: tuple[Request, ...]
    priority: int = 0  # larger runs sooner
    alone: bool = False  # it may have ended the process before: nothing runs beside it on its device

    @property
    def loras(self) -> dict[tuple[str, int], int]:
        """The LoRA files that the job's requests use: (path, time of its last change) → bytes."""
        return {(lora.path, lora.stamp): lora.n_bytes for request in self._diffusion for lora in request.loras}

    @property
    def lent(self) -> tuple[Adapter, ...]:
        """The adapters that the job's requests borrow besides LoRAs, each once."""
        return tuple(dict.fromkeys(adapter for request in self._diffusion for adapter in request.adapters))

    @property
    def _diffusion(self) -> list[DiffusionRequest]:
        return [request for request in self.requests if isinstance(request, DiffusionRequest)]
