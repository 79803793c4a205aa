"""Defines what a diffusion pipeline is asked. Plain data, no torch; `pipelines.interface` has what all models share.

Immutable: any thread.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pipelines.step_schedule import Speed, computed_steps


@dataclass(frozen=True, slots=True)
class Lora:
    name: str  # as the client knows it
    path: str  # a safetensors file
    weight: float
    stamp: int = 0  # modification time of the file, in ns: a file that was rewritten is another LoRA
    n_bytes: int = 0  # approximate memory that it takes besides the model's weights


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffusionRequest:
    """One picture or one clip."""

    id: str  # unique in the process: "<job id>/<output index>"
    owner: str = ""  # cached embeddings of a prompt are used for prompts of the same owner only
    prompt: str
    negative_prompt: str | None
    width: int  # pixels
    height: int  # pixels
    num_frames: int | None  # None for a picture
    fps: int | None = None  # passed to pipelines that take a frame rate
    steps: int
    guidance_scale: float | None  # None: the pipeline's default
    guidance_argument: str = "guidance_scale"  # the argument of the pipeline's __call__ that it sets
    seed: int  # of torch.Generator("cpu"), 0 … 2^63-1
    deterministic: bool = False  # never merged: bit-identical to a run alone
    speed: Speed = "exact"  # otherwise some steps are predicted instead of computed
    preview: bool = False  # send small pictures of it while it is made
    call: Mapping[str, object] = field(default_factory=dict)  # further arguments of the pipeline's __call__
    scheduler: str | None = None  # class name of the noise scheduler; None: the checkpoint's own
    clip_skip: int | None = None  # number of last layers of CLIP to skip
    loras: tuple[Lora, ...] = ()
    asked: tuple[str, ...] = ()  # of guidance_scale and steps, those that the client itself named

    @property
    def shape(self) -> str:
        """The key for measured times and peak bytes: "176x96x16"."""
        return f"{self.width}x{self.height}x{self.num_frames or 1}"

    @property
    def computed_steps(self) -> int:
        """The steps that run the model, as far as is known before: some pipelines cannot skip any."""
        return computed_steps(self.speed, self.steps)

    @property
    def units(self) -> int:
        """Pixels in all frames."""
        return self.width * self.height * (self.num_frames or 1)
