"""A snapshot of a device thread: what waits and runs, which models are loaded, who holds the memory. Immutable data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from pipelines.interface import Merging

WaitingFor: TypeAlias = Literal["turn", "gpu_memory", "model_load"]
ModelState: TypeAlias = Literal["available", "loading", "resident", "parked", "failed"]


@dataclass(frozen=True, slots=True)
class QueueEntry:
    job_id: str
    waiting_for: WaitingFor
    need_bytes: int  # bytes that its model still needs on the device
    eta_s: float | None  # seconds until the job ends; None until a job of its model and shape has ended


@dataclass(frozen=True, slots=True)
class RunningEntry:
    job_id: str
    eta_s: float | None


@dataclass(frozen=True, slots=True)
class LoadError:
    message: str  # for clients
    detail: str  # for admins: paths and the text of libraries
    retryable: bool = True  # False: the files are at fault, so another load ends the same until they change


@dataclass(frozen=True, slots=True)
class ModelStatus:
    model: str
    state: ModelState
    weight_bytes: int
    cache_bytes: int
    merging: Merging
    running: int  # running jobs
    idle_unload_in_s: float | None  # seconds until it is evicted if it stays idle; None: it is not idle, or is kept
    requests: int = 0  # running requests: a job has one for each output
    waiting: int = 0  # waiting jobs
    pinned: bool = False
    keep_alive_s: float = math.inf
    parked_bytes: int = 0  # weights in host memory
    components: tuple[tuple[str, int], ...] = ()  # (component, bytes on the device)
    step_s: tuple[tuple[str, int, float], ...] = ()  # (stage and shape, rows, measured seconds of a forward)
    retry_in_s: float | None = None  # after a failed load: seconds until the model may be loaded again
    load_error: LoadError | None = None  # of the last load, if it failed
    notes: tuple[str, ...] = ()  # sentences about what of its files was left out or changed


@dataclass(frozen=True, slots=True)
class MemoryHolder:
    name: str
    kind: Literal["weights", "kv_cache", "activations", "cached", "leaked", "other"]
    n_bytes: int


@dataclass(frozen=True, slots=True)
class DeviceStatus:
    name: str
    total_bytes: int
    used_bytes: int
    others_bytes: int  # other programs' use: the driver's figure minus ours
    reserve_bytes: int
    free_bytes: int
    holders: Sequence[MemoryHolder]


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """A snapshot of the engine, sent after it has changed."""

    queue: tuple[QueueEntry, ...]  # in the order in which they will start
    running: tuple[RunningEntry, ...]
    models: tuple[ModelStatus, ...]
    device: DeviceStatus
