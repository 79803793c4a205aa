"""Everything that crosses between the event loop and a device thread: messages in, events out. Immutable data; any thread.

Messages go into an engine's inbox and are handled between two actions. Events are delivered on the event loop, in the order in which they
happened; each job has exactly one end (JobReplied, JobFailed, JobCanceled, or all of its outputs ready).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pipelines.interface import FailureCode, FinishReason, Merging, Sound, Stage
from server.job import Job

WaitingFor: TypeAlias = Literal["turn", "gpu_memory", "model_load"]
ModelState: TypeAlias = Literal["available", "loading", "resident", "parked", "failed"]


@dataclass(frozen=True, slots=True)
class Peak:
    """One row of what is known; `failed`: it did not fit into `peak_bytes`."""

    model: str  # fingerprint of the checkpoint
    entry: str  # "<component>.<entry point>"
    shape: str
    units: int  # of one row
    rows: int
    peak_bytes: int
    failed: bool = False


# Events: device thread → event loop, in order. One end (Replied, Failed, Canceled, or all outputs ready) per job.


@dataclass(frozen=True, slots=True)
class JobStarted:
    job_id: str
    queue_ms: int
    load_ms: int  # of that, spent loading its model


@dataclass(frozen=True, slots=True)
class JobProgressed:
    job_id: str
    stage: Stage
    step: int
    total_steps: int


@dataclass(frozen=True, slots=True)
class JobPreviewed:
    """How its first output looks by now. colours: (H, W, 3), small."""

    job_id: str
    colours: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class OutputReady:
    """frames: (F, H, W, 3) float32 in [0, 1]."""

    job_id: str
    index: int
    frames: NDArray[np.float32]
    batch_peak: int
    scheduler: str
    peak_bytes: int | None = None  # most that one of its forwards held beside the weights; None: not measured
    warnings: tuple[str, ...] = ()  # what was not done quite as asked
    sound: Sound | None = None


@dataclass(frozen=True, slots=True)
class JobText:
    job_id: str
    text: str
    at: float  # the engine's clock when the step ended that it came out of


@dataclass(frozen=True, slots=True)
class JobReplied:
    job_id: str
    text: str
    prompt_tokens: int
    completion_tokens: int
    finish_reason: FinishReason


@dataclass(frozen=True, slots=True)
class JobFailed:
    job_id: str
    code: FailureCode | Literal["model_load_failed", "engine_stopped"]
    message: str
    retryable: bool


@dataclass(frozen=True, slots=True)
class JobCanceled:
    job_id: str


@dataclass(frozen=True, slots=True)
class JobReturned:
    """Recalled while it waited: it is the caller's again, as it was."""

    job: Job


@dataclass(frozen=True, slots=True)
class RanOutOfMemory:
    """A forward did not fit; what it was part of has gone on with less, or failed alone."""

    model: str


@dataclass(frozen=True, slots=True)
class PeaksLearned:
    """What steps were seen to hold, worth keeping for the next start."""

    peaks: tuple[Peak, ...]


@dataclass(frozen=True, slots=True)
class VerdictsReached:
    """Which calls of a checkpoint were proved to merge, worth keeping for its next lane."""

    fingerprint: str
    verdicts: dict[str, bool]


@dataclass(frozen=True, slots=True)
class QueueEntry:
    job_id: str
    waiting_for: WaitingFor
    need_bytes: int
    eta_s: float | None  # seconds until done; None while the model's step time at that shape is not yet measured


@dataclass(frozen=True, slots=True)
class RunningEntry:
    job_id: str
    eta_s: float | None


@dataclass(frozen=True, slots=True)
class ModelStatus:
    model: str
    state: ModelState
    weight_bytes: int
    cache_bytes: int
    merging: Merging
    running: int  # jobs on it now
    idle_unload_in_s: float | None
    requests: int = 0  # outputs under way: a job may have several
    waiting: int = 0  # jobs that wait for it
    pinned: bool = False
    keep_alive_s: float = math.inf
    parked_bytes: int = 0  # weights that rest in host memory
    components: tuple[tuple[str, int], ...] = ()  # bytes on the device by component
    step_s: tuple[tuple[str, int, float], ...] = ()  # (shape, rows, seconds) of what was measured
    retry_in_s: float | None = None  # after a failed load, until the next one is tried


@dataclass(frozen=True, slots=True)
class MemoryHolder:
    name: str
    kind: Literal["weights", "kv_cache", "activations", "leaked", "other"]
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
    """The whole picture, sent whenever it changed: waiting jobs in the order they will start, running jobs, models, device."""

    queue: tuple[QueueEntry, ...]
    running: tuple[RunningEntry, ...]
    models: tuple[ModelStatus, ...]
    device: DeviceStatus


Event: TypeAlias = (
    JobStarted
    | JobProgressed
    | JobPreviewed
    | OutputReady
    | JobText
    | JobReplied
    | JobFailed
    | JobCanceled
    | JobReturned
    | RanOutOfMemory
    | PeaksLearned
    | VerdictsReached
    | EngineStatus
)


# Messages: event loop → device thread


@dataclass(frozen=True, slots=True)
class Submit:
    job: Job
    at: float  # when the job was accepted, seconds on the engine's clock


@dataclass(frozen=True, slots=True)
class Cancel:
    job_id: str


@dataclass(frozen=True, slots=True)
class Recall:
    """Take a waiting job back: it is returned as `JobReturned`. A job that runs or has ended stays, and nothing is reported."""

    job_id: str


@dataclass(frozen=True, slots=True)
class LoadModel:
    """A person asks for the model, which is more urgent than any waiting job. If it is loaded, its idle time starts anew."""

    model: str
    need_bytes: int = 0  # on the device; a fleet chooses a device by it


@dataclass(frozen=True, slots=True)
class UnloadModel:
    """Evict the model once its running jobs are done; until then it admits no new ones. A pinned model stays."""

    model: str


@dataclass(frozen=True, slots=True)
class Forget:
    """The model left the catalogue: its waiting jobs fail, its running jobs end, then it is evicted, pinned or not."""

    model: str


@dataclass(frozen=True, slots=True)
class Pin:
    """A pinned model is never evicted."""

    model: str
    pinned: bool


@dataclass(frozen=True, slots=True)
class KeepAlive:
    """Idle seconds after which the model is evicted: 0 at once, inf never, None as its catalogue entry says."""

    model: str
    seconds: float | None


@dataclass(frozen=True, slots=True)
class FilesRead:
    """The files of the model that is being loaded are in the page cache, as far as reading ahead helps. Sent by the reading thread."""

    model: str
    seconds: float  # spent reading


@dataclass(frozen=True, slots=True)
class Drain:
    """Start nothing more; finish what runs."""


@dataclass(frozen=True, slots=True)
class Stop:
    """End the device thread now."""


ModelMessage: TypeAlias = LoadModel | UnloadModel | Forget | Pin | KeepAlive
PolicyMessage: TypeAlias = ModelMessage | FilesRead | Drain  # those that change only what the scheduler knows
Message: TypeAlias = Submit | Cancel | Recall | PolicyMessage | Stop
