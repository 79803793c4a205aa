"""Everything that crosses between the event loop and a device thread: messages in, events out. Immutable data.

Messages go into an engine's inbox and are handled between two actions. Events are delivered on the event loop, in
order. Each submitted job has one end: JobReplied, JobFailed, JobCanceled, JobReturned, or its last OutputReady.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pipelines.chat_interface import Section, TokenLogprobs
from pipelines.interface import FailureCode, FinishReason, Merging, Sound, Stage
from server.job import Job

WaitingFor: TypeAlias = Literal["turn", "gpu_memory", "model_load"]
ModelState: TypeAlias = Literal["available", "loading", "resident", "parked", "failed"]


@dataclass(frozen=True, slots=True)
class Peak:
    """The measured activation memory of a forward."""

    model: str  # fingerprint of the checkpoint
    entry: str  # "<component>.<entry point>"
    shape: str  # of one row, as `pipelines.interface.NextStep` names it
    units: int  # of one row: width * height * frames, or tokens
    rows: int
    peak_bytes: int  # held beside the weights; if `failed`, the free bytes that did not suffice
    failed: bool = False  # the forward ran out of memory


# Events: device thread → event loop


@dataclass(frozen=True, slots=True)
class JobStarted:
    job_id: str
    queue_ms: int  # from acceptance to start
    load_ms: int  # the part of `queue_ms` in which its model was loaded


@dataclass(frozen=True, slots=True)
class JobProgressed:
    job_id: str
    stage: Stage
    step: int
    total_steps: int


@dataclass(frozen=True, slots=True)
class JobPreviewed:
    """A preview of the job's first output. colours: (H, W, 3), as small as the latents."""

    job_id: str
    colours: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class OutputReady:
    """One finished picture or clip. frames: (F, H, W, 3) float32 in [0, 1]."""

    job_id: str
    index: int  # among the job's outputs
    frames: NDArray[np.float32]
    batch_peak: int  # most rows that one of its forwards merged
    scheduler: str  # class name of the noise scheduler
    peak_bytes: int | None = None  # most that one of its forwards held beside the weights; None: not measured
    warnings: tuple[str, ...] = ()  # deviations from the request, for the client
    sound: Sound | None = None
    flagged: bool = False  # a safety checker blacked it out


@dataclass(frozen=True, slots=True)
class JobText:
    job_id: str
    text: str  # the next characters of a reply
    at: float  # when the step that made them ended, on the engine's clock
    section: Section = "content"
    logprobs: tuple[TokenLogprobs, ...] = ()  # of the tokens behind `text`, if requested


@dataclass(frozen=True, slots=True)
class JobReplied:
    job_id: str
    text: str  # the whole reply of a chat
    prompt_tokens: int
    completion_tokens: int
    finish_reason: FinishReason
    thinking: str = ""
    thinking_tokens: int = 0
    warnings: tuple[str, ...] = ()  # deviations from the request, for the client


@dataclass(frozen=True, slots=True)
class JobFailed:
    job_id: str
    code: FailureCode | Literal["model_load_failed", "engine_stopped"]
    message: str  # for the client
    retryable: bool


@dataclass(frozen=True, slots=True)
class JobCanceled:
    job_id: str


@dataclass(frozen=True, slots=True)
class JobReturned:
    """Answers `Recall`: the job was still waiting, and the engine has dropped it."""

    job: Job


@dataclass(frozen=True, slots=True)
class RanOutOfMemory:
    """A forward ran out of memory. It was run again with fewer rows, or its one request has failed."""

    model: str


@dataclass(frozen=True, slots=True)
class PeaksLearned:
    peaks: tuple[Peak, ...]  # new measurements, to be stored for the next start


@dataclass(frozen=True, slots=True)
class VerdictsReached:
    """Which calls of a checkpoint were proved to merge or not to merge, to be stored for its next lane."""

    fingerprint: str
    verdicts: dict[str, bool]  # call → whether it merges


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
    """A snapshot of the engine, sent after it has changed."""

    queue: tuple[QueueEntry, ...]  # in the order in which they will start
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


# Messages: event loop → device thread (`FilesRead`: reading thread → device thread)


@dataclass(frozen=True, slots=True)
class Submit:
    job: Job
    at: float  # when the job was accepted, on the engine's clock


@dataclass(frozen=True, slots=True)
class Cancel:
    job_id: str


@dataclass(frozen=True, slots=True)
class Recall:
    """Drop a waiting job and return it by `JobReturned`. Jobs that run, have ended or are unknown are left alone."""

    job_id: str


@dataclass(frozen=True, slots=True)
class LoadModel:
    """Load the model before any model that only jobs wait for. If it is loaded, its idle time starts anew."""

    model: str
    need_bytes: int = 0  # on the device; a fleet chooses the device by it


@dataclass(frozen=True, slots=True)
class UnloadModel:
    """Evict the model once its running jobs have ended; until then it admits no new ones. A pinned model stays.

    Ends the cooldown after a failed load: the files may be others now.
    """

    model: str


@dataclass(frozen=True, slots=True)
class Forget:
    """The model left the catalogue: its waiting jobs fail, its running jobs end, then it is evicted, pinned or not."""

    model: str


@dataclass(frozen=True, slots=True)
class Pin:
    model: str
    pinned: bool  # a pinned model is never evicted


@dataclass(frozen=True, slots=True)
class KeepAlive:
    """Set the idle seconds after which the model is evicted."""

    model: str
    seconds: float | None  # 0: at once; inf: never; None: as its catalogue entry says


@dataclass(frozen=True, slots=True)
class FilesRead:
    """The model's files have been read into the page cache, so that its load is short. Sent by the reading thread."""

    model: str
    seconds: float  # that reading took


@dataclass(frozen=True, slots=True)
class Drain:
    """Start no more jobs, and end the device thread once the running jobs have ended."""


@dataclass(frozen=True, slots=True)
class Stop:
    """End the device thread now."""


ModelMessage: TypeAlias = LoadModel | UnloadModel | Forget | Pin | KeepAlive
PolicyMessage: TypeAlias = ModelMessage | FilesRead | Drain  # the scheduler handles these
Message: TypeAlias = Submit | Cancel | Recall | PolicyMessage | Stop
