"""What goes into a lane and what comes out of it. Plain data, no torch: the scheduler, the engine and the fakes use it.

A lane is one resident model that takes requests and is stepped. Everything here is used on the device thread;
requests and updates are immutable and may cross threads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Stage: TypeAlias = Literal["waiting", "loading_model", "encoding", "denoising", "decoding", "saving", "done"]
LaneStage: TypeAlias = Literal["encoding", "denoising", "decoding", "prefill", "decode"]
Merging: TypeAlias = Literal["on", "off", "unproven"]
FinishReason: TypeAlias = Literal["stop", "length"]
FailureCode: TypeAlias = Literal["bad_request", "out_of_memory", "invalid_output", "model_error", "context_overflow"]


@dataclass(frozen=True, slots=True)
class Lora:
    name: str  # as the client knows it
    path: str  # a safetensors file
    weight: float
    stamp: int = 0  # when it was written: a file written anew is another LoRA
    n_bytes: int = 0  # about what it holds beside the model's weights


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffusionRequest:
    """One picture or one clip."""

    id: str  # unique in the process: "<job id>/<output index>"
    owner: str = ""  # whose it is: what is kept of a prompt is only used for prompts of the same owner
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
    preview: bool = False  # show it now and then while it is made
    call: Mapping[str, object] = field(default_factory=dict)  # further arguments of the pipeline's __call__
    scheduler: str | None = None  # class of the noise scheduler; None: the checkpoint's own
    clip_skip: int | None = None  # last layers of CLIP that are left out
    loras: tuple[Lora, ...] = ()

    @property
    def shape(self) -> str:
        """What times and peaks are kept by: "176x96x16"."""
        return f"{self.width}x{self.height}x{self.num_frames or 1}"

    @property
    def units(self) -> int:
        return self.width * self.height * (self.num_frames or 1)


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
    owner: str = ""  # whose it is: what is kept of a prompt is only used for prompts of the same owner
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
class Previewed:
    """How a request looks by now. colours: (H, W, 3), as small as the latents; the middle frame of a clip."""

    request_id: str
    colours: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Sound:
    """What goes with a clip. samples: (channels, N) float32 in [-1, 1]."""

    samples: NDArray[np.float32]
    rate: int  # Hz


@dataclass(frozen=True, slots=True)
class Rendered:
    """A finished picture or clip. frames: (F, H, W, 3) float32 in [0, 1], F = 1 for a picture."""

    request_id: str
    frames: NDArray[np.float32]
    batch_peak: int  # most rows any merged call of this request ran with; 1 = never merged
    scheduler: str  # class name of the noise scheduler that ran
    warnings: tuple[str, ...] = ()  # what was not done quite as asked
    sound: Sound | None = None


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


Update: TypeAlias = Progressed | Previewed | Rendered | TextDelta | Replied | Failed | Canceled


@dataclass(frozen=True, slots=True)
class NextStep:
    """What a lane's next step would run, before it runs."""

    component: str  # "transformer", "text_encoder", "vae"; "model" of a chat
    entry: str  # "forward", "encode", "decode"
    stage: LaneStage
    shape: str  # "128x128x1"; "prefill" or "decode" of a chat
    units: int  # width * height * frames of one row; tokens of one row of a chat
    rows: int  # most calls that could share the forward now
    request_ids: tuple[str, ...]  # of those, oldest first


@dataclass(frozen=True, slots=True)
class StepCost:
    """What one quantum took of the device. Named as its `NextStep` was, with the rows that did run."""

    shape: str
    rows: int
    seconds: float
    request_ids: tuple[str, ...] = ()  # who shared it
    stage: LaneStage = "denoising"
    component: str = ""
    entry: str = "forward"
    units: int = 0
    peak_bytes: int | None = None  # held on top of what was held before it; None: not measured this time


@dataclass(frozen=True, slots=True)
class OutOfMemory:
    """A quantum that did not fit at this width. The lane has gone on with less; the width is to be remembered."""

    component: str
    entry: str
    shape: str
    units: int
    rows: int
    request_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WeightsChanged:
    """The lane holds other weights than before: adapters came or went. `components` says how many bytes."""


Note: TypeAlias = StepCost | OutOfMemory | WeightsChanged


def never_yield() -> bool:
    """The `should_yield` of those who have nobody to give way to."""
    return False


class Lane(Protocol):
    """One resident model on one device. Device thread only."""

    @property
    def kind(self) -> Literal["image", "video", "chat"]: ...
    @property
    def components(self) -> Mapping[str, int]:
        """Bytes of parameters and buffers each component holds on the device; a tensor two share is counted for one. Parked ones: absent."""

    @property
    def parked(self) -> Mapping[str, int]:
        """Bytes of each component that waits in host memory: what `unpark` would take."""

    @property
    def weight_bytes(self) -> int:
        """The sum of `components`; KV cache not counted."""

    @property
    def cache_bytes(self) -> int:
        """Bytes held for a KV cache; 0 for diffusion."""

    @property
    def merging(self) -> Merging: ...

    @property
    def verdicts(self) -> Mapping[str, bool]:
        """Which calls have been proved to merge or not, to be kept for the next lane of the same checkpoint."""

    @property
    def warnings(self) -> Sequence[str]:
        """What a client should know of how the model is held, such as that it does not fit the device whole."""

    @property
    def mid_forward(self) -> bool:
        """The last `step` gave way inside a forward; the next one goes on there."""

    def admit(self, request: Request) -> None:
        """Take the request in; it makes its first progress in the next `step`. Never raises for a bad request: `Failed` comes out of `step`."""

    def cancel(self, request_id: str) -> None:
        """End the request before its next step; `Canceled` comes out of the next `step`. Unknown ids are ignored."""

    def has_work(self) -> bool: ...

    def next_step(self) -> NextStep | None:
        """The next step's work; None when it would run no forward (nothing to do, or a request that only has to start)."""

    def step(self, max_rows: int | None = None, should_yield: Callable[[], bool] = never_yield) -> Sequence[Update]:
        """Run one quantum: one forward of at most `max_rows` merged calls, and what it sets free. Ends of requests included, exactly one per request.

        With `max_rows` 0 no forward runs: only the ends of canceled requests are returned, and no weights need to be on the device.
        Inside a long forward `should_yield` is asked at every repeated block; when it is true, the step ends there (`mid_forward`).
        """

    def take_costs(self) -> Sequence[Note]:
        """What was measured since the last call, and what ran out of memory."""

    def park(self, names: Sequence[str]) -> int:
        """Move idle components to host memory; returns the bytes freed. Those in use by a forward that gave way, or unknown, stay."""

    def unpark(self, names: Sequence[str]) -> int:
        """Bring parked components back; returns the bytes taken. Out of memory passes through, and leaves them parked."""

    def resize_cache(self, n_bytes: int) -> int:
        """Grow or shrink the KV cache towards `n_bytes`, as far as running chats allow; returns what it holds then. 0 for diffusion."""

    def close(self) -> None:
        """Let go of the model; nothing may be running."""
