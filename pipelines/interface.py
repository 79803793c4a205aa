"""Defines what goes into a lane and what comes out of it. Plain data, no torch: scheduler, engine and fakes use it too.

A lane is one resident model that takes requests and advances them step by step. A lane is used on the device thread
only; requests and updates are immutable and may cross threads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pipelines.chat_interface import CallDelta, ChatRequest, Section, TokenLogprobs, ToolCall
from pipelines.diffusion_interface import DiffusionRequest
from pipelines.embedding_interface import EmbeddingRequest

Stage: TypeAlias = Literal["waiting", "loading_model", "encoding", "denoising", "decoding", "saving", "done"]
LaneStage: TypeAlias = Literal["encoding", "denoising", "decoding", "prefill", "decode"]
Merging: TypeAlias = Literal["on", "off", "unproven"]
FinishReason: TypeAlias = Literal["stop", "length", "tool_calls"]
FailureCode: TypeAlias = Literal["bad_request", "out_of_memory", "invalid_output", "model_error", "context_overflow"]
Request: TypeAlias = DiffusionRequest | ChatRequest | EmbeddingRequest

# Among the components of a lane: recorded forwards, which may be dropped at any time, like an adapter that is idle.
GRAPHS = "graphs"


@dataclass(frozen=True, slots=True)
class Progressed:
    request_id: str
    stage: Stage
    step: int
    total_steps: int


@dataclass(frozen=True, slots=True)
class Previewed:
    """A preview of a picture, or of the middle frame of a clip. colours: (H, W, 3), with one pixel per latent."""

    request_id: str
    colours: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Sound:
    """The sound track of a clip. samples: (channels, N) float32 in [-1, 1]."""

    samples: NDArray[np.float32]
    rate: int  # Hz


@dataclass(frozen=True, slots=True)
class Rendered:
    """A finished picture or clip. frames: (F, H, W, 3) float32 in [0, 1], F = 1 for a picture."""

    request_id: str
    frames: NDArray[np.float32]
    batch_peak: int  # most calls in a forward that this request shared; 1: it shared none
    scheduler: str  # class name of the noise scheduler that ran
    warnings: tuple[str, ...] = ()  # for the client: where the result differs from what was asked for
    sound: Sound | None = None
    flagged: bool = False  # a safety checker blacked it out


@dataclass(frozen=True, slots=True)
class TextDelta:
    request_id: str
    text: str  # whole characters, never part of a stop string
    section: Section = "content"
    # Of the tokens behind `text`, in the section content; in the section prompt, of all of its tokens.
    logprobs: tuple[TokenLogprobs, ...] = ()
    call: CallDelta | None = None  # instead of a text: the next part of a call


@dataclass(frozen=True, slots=True)
class Replied:
    request_id: str
    text: str
    prompt_tokens: int
    completion_tokens: int  # also those that the model spent on thinking
    finish_reason: FinishReason
    thinking: str = ""
    thinking_tokens: int = 0
    warnings: tuple[str, ...] = ()  # for the client: where the reply differs from the request
    tool_calls: tuple[ToolCall, ...] = ()  # `finish_reason` is "tool_calls" then, unless the reply was cut off
    stop_text: str | None = None  # the one of `ChatRequest.stop` that ended the reply


@dataclass(frozen=True, slots=True)
class Embedded:
    """The vectors of a request's texts, in their order. vectors: (number of texts, dimensions)."""

    request_id: str
    vectors: NDArray[np.float32]
    n_tokens: int  # of all texts


@dataclass(frozen=True, slots=True)
class Failed:
    """The request failed. `message` is for the client: facts, no exception text. `detail` is for the log."""

    request_id: str
    code: FailureCode
    message: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Canceled:
    request_id: str


Update: TypeAlias = Progressed | Previewed | Rendered | TextDelta | Replied | Embedded | Failed | Canceled


IN_TILES = " in tiles"  # after the entry of a forward that was split to save memory


@dataclass(frozen=True, slots=True)
class NextStep:
    """The forward that a lane's next step would run."""

    component: str  # "transformer", "text_encoder", "vae"; "model" of a chat or an embedding
    entry: str  # "forward", "encode", "decode"
    stage: LaneStage
    shape: str  # "128x128x1"; "prefill", "score" (a prefill that reports log probabilities) or "decode" of a chat
    units: int  # width * height * frames of one row; tokens of one row of a chat or an embedding
    rows: int  # calls that could share the forward now
    request_ids: tuple[str, ...]  # of those calls, oldest first


@dataclass(frozen=True, slots=True)
class StepCost:
    """The time and memory that one forward took. Its fields are those of the `NextStep`, with the rows that ran."""

    shape: str
    rows: int
    seconds: float
    request_ids: tuple[str, ...] = ()  # the requests that shared the forward
    stage: LaneStage = "denoising"
    component: str = ""
    entry: str = "forward"
    units: int = 0
    peak_bytes: int | None = None  # peak activation memory, on top of what was held before; None: not measured


@dataclass(frozen=True, slots=True)
class OutOfMemory:
    """A forward that did not fit into memory at this width. The lane has gone on with fewer rows."""

    component: str
    entry: str
    shape: str
    units: int
    rows: int
    request_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WeightsChanged:
    """The lane holds other weights than before, because adapters were loaded or dropped. See `Lane.components`."""


Note: TypeAlias = StepCost | OutOfMemory | WeightsChanged


def never_yield() -> bool:
    """Default callback: never yield."""
    return False


class Lane(Protocol):
    """One resident model on one device. Device thread only."""

    @property
    def kind(self) -> Literal["image", "video", "chat", "embedding"]: ...
    @property
    def components(self) -> Mapping[str, int]:
        """Bytes that each component holds on the device; a shared tensor counts once. Parked components are absent.

        `GRAPHS` is among them where forwards are recorded.
        """

    @property
    def parked(self) -> Mapping[str, int]:
        """Bytes of each component in host memory: what `unpark` would take on the device."""

    @property
    def weight_bytes(self) -> int:
        """The sum of `components`, without the KV cache."""

    @property
    def cache_bytes(self) -> int:
        """Bytes that the KV cache holds; 0 for diffusion."""

    @property
    def merging(self) -> Merging: ...

    @property
    def verdicts(self) -> Mapping[str, bool]:
        """Whether each kind of call was proved to merge or not, for the next lane of the same checkpoint."""

    @property
    def warnings(self) -> Sequence[str]:
        """For clients: what to know about how the model is held, such as that it does not fit the device whole."""

    @property
    def notes(self) -> Sequence[str]:
        """For people who run the server: what of the model's files was left out or changed at its load."""

    @property
    def mid_forward(self) -> bool:
        """Whether the last `step` yielded inside a forward that the next one resumes."""

    def admit(self, request: Request) -> None:
        """Take the request in; it makes its first progress in the next `step`.

        Never raises for a bad request: its `Failed` comes out of `step`.
        """

    def cancel(self, request_id: str) -> None:
        """End the request before its next forward; `Canceled` comes out of the next `step`. Unknown ids are ignored."""

    def has_work(self) -> bool: ...

    @property
    def waits(self) -> bool:
        """Whether all its work waits for something beside the device, such as files that are being read."""

    def next_step(self) -> NextStep | None:
        """The forward that the next step would run; None when nothing is to be done, or requests only start or end."""

    def step(
        self, max_rows: int | None = None, should_yield: Callable[[], bool] = never_yield, in_tiles: bool = False
    ) -> Sequence[Update]:
        """Run one forward of at most `max_rows` merged calls, and the code between it and the next calls.

        Returns updates, with exactly one end per request. With `max_rows` 0 no forward runs: only the ends of canceled
        requests are returned, and no weights need to be on the device. A lane that `waits` lets a few ms pass. Inside a
        long forward `should_yield` is called at every repeated block; when it returns true, the step ends there
        (`mid_forward`). in_tiles: a VAE decodes one picture or clip in tiles, which takes less memory and changes its
        pixels slightly; such forwards have an entry of their own in the costs.
        """

    def take_costs(self) -> Sequence[Note]:
        """What was measured since the last call, and what ran out of memory."""

    def park(self, names: Sequence[str]) -> int:
        """Move components to host memory; returns the bytes freed.

        Unknown components stay, and those that a suspended forward or a running chat uses.
        """

    def unpark(self, names: Sequence[str]) -> int:
        """Bring parked components back; returns the bytes taken.

        An out-of-memory error passes through, and all stay parked.
        """

    def drop_adapters(self, components: Sequence[str]) -> None:
        """Free these lent modules, except those that a request uses, and `GRAPHS`. Names of others are ignored."""

    def resize_cache(self, n_bytes: int) -> int:
        """Grow or shrink the KV cache towards `n_bytes`, as far as chats and memory allow; returns its bytes."""

    def close(self) -> None:
        """Let go of the model. Nothing may be running."""
