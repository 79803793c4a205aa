"""Everything that crosses between the event loop and a device thread: messages in, events out. Immutable data.

Messages go into an engine's inbox and are handled between two actions. Events are delivered on the event loop, in
order. Each submitted job has one end: JobReplied, JobEmbedded, JobFailed, JobCanceled, JobReturned, or its last
OutputReady.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pipelines.chat_interface import CallDelta, Section, TokenLogprobs, ToolCall
from pipelines.interface import FailureCode, FinishReason, Sound, Stage
from server.engine_status import EngineStatus, LoadError
from server.job import Job


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
    call: CallDelta | None = None  # instead of a text: the next part of a call


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
    tool_calls: tuple[ToolCall, ...] = ()
    stop_text: str | None = None  # the one of the request's stop strings that ended the reply


@dataclass(frozen=True, slots=True)
class JobEmbedded:
    """vectors: (number of texts, dimensions), in the order of the texts."""

    job_id: str
    vectors: NDArray[np.float32]
    n_tokens: int  # of all texts
    warnings: tuple[str, ...] = ()  # for the client: how the model is held


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


Event: TypeAlias = (
    JobStarted
    | JobProgressed
    | JobPreviewed
    | OutputReady
    | JobText
    | JobReplied
    | JobEmbedded
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
class SetAside:
    """Do not load the model for some time, as after a failed load: it has ended the process again and again."""

    model: str
    seconds: float
    error: LoadError


@dataclass(frozen=True, slots=True)
class Settled:
    """The end of a job that ran alone is in the store, and its outputs on disk: others may run again."""

    job_id: str


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


ModelMessage: TypeAlias = LoadModel | UnloadModel | Forget | Pin | KeepAlive | SetAside | Settled
PolicyMessage: TypeAlias = ModelMessage | FilesRead | Drain  # the scheduler handles these
Message: TypeAlias = Submit | Cancel | Recall | PolicyMessage | Stop
