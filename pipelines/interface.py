"""What goes into a lane and what comes out of it. Plain data, no torch: the scheduler, the engine and the fakes use it.

A lane is one resident model that takes requests and is stepped. Everything here is used on the device thread;
requests and updates are immutable and may cross threads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Stage: TypeAlias = Literal["waiting", "loading_model", "encoding", "denoising", "decoding", "saving", "done"]
Merging: TypeAlias = Literal["on", "off", "unproven"]
FinishReason: TypeAlias = Literal["stop", "length"]
FailureCode: TypeAlias = Literal["bad_request", "out_of_memory", "invalid_output", "model_error", "context_overflow"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffusionRequest:
    """One picture or one clip."""

    id: str  # unique in the process: "<job id>/<output index>"
    prompt: str
    negative_prompt: str | None
    width: int  # pixels
    height: int  # pixels
    num_frames: int | None  # None for a picture
    fps: int | None = None  # told to pipelines that take a frame rate
    steps: int
    guidance_scale: float | None  # None: the pipeline's own
    seed: int  # of torch.Generator("cpu"), 0 … 2^63-1
    deterministic: bool = False  # never merged: bit-identical to a run alone
    call: Mapping[str, object] = field(default_factory=dict)  # further arguments of the pipeline's __call__


@dataclass(frozen=True, slots=True)
class Message:
    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """One reply. `temperature` 0 is greedy; every sampling setting is this request's alone."""

    id: str
    messages: tuple[Message, ...]
    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0  # 0: all
    seed: int = 0
    stop: tuple[str, ...] = ()
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0


Request: TypeAlias = DiffusionRequest | ChatRequest


@dataclass(frozen=True, slots=True)
class Progressed:
    request_id: str
    stage: Stage
    step: int
    total_steps: int


@dataclass(frozen=True, slots=True)
class Rendered:
    """A finished picture or clip. frames: (F, H, W, 3) float32 in [0, 1], F = 1 for a picture."""

    request_id: str
    frames: NDArray[np.float32]
    batch_peak: int  # most rows any merged call of this request ran with; 1 = never merged
    scheduler: str  # class name of the noise scheduler that ran


@dataclass(frozen=True, slots=True)
class TextDelta:
    request_id: str
    text: str  # whole characters, never part of a stop string


@dataclass(frozen=True, slots=True)
class Replied:
    request_id: str
    text: str
    prompt_tokens: int
    completion_tokens: int
    finish_reason: FinishReason


@dataclass(frozen=True, slots=True)
class Failed:
    """`message` may be shown to the client: facts, no exception text. `detail` is for the log."""

    request_id: str
    code: FailureCode
    message: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Canceled:
    request_id: str


Update: TypeAlias = Progressed | Rendered | TextDelta | Replied | Failed | Canceled


@dataclass(frozen=True, slots=True)
class StepCost:
    """What one forward took: seconds of the device, by the shape that was run."""

    shape: str  # e.g. "denoising 128x128x1", "decode"
    rows: int
    seconds: float
    request_ids: tuple[str, ...] = ()  # who shared it


class Lane(Protocol):
    """One resident model on one device. Device thread only."""

    @property
    def kind(self) -> Literal["image", "video", "chat"]: ...
    @property
    def weight_bytes(self) -> int:
        """Bytes of parameters and buffers on the device, KV cache not counted."""

    @property
    def cache_bytes(self) -> int:
        """Bytes held for a KV cache; 0 for diffusion."""

    @property
    def merging(self) -> Merging: ...

    def admit(self, request: Request) -> None:
        """Take the request in; it makes its first progress in the next `step`. Never raises for a bad request: `Failed` comes out of `step`."""

    def cancel(self, request_id: str) -> None:
        """End the request before its next step; `Canceled` comes out of the next `step`. Unknown ids are ignored."""

    def has_work(self) -> bool: ...

    def step(self) -> Sequence[Update]:
        """Run one quantum: one forward of one merged group, and what it sets free. Ends of requests included, exactly one per request."""

    def take_costs(self) -> Sequence[StepCost]:
        """What was measured since the last call."""

    def close(self) -> None:
        """Let go of the model; nothing may be running."""
