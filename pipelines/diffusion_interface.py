"""Defines what a diffusion pipeline is asked. Plain data, no torch; `pipelines.interface` has what all models share.

Immutable: any thread.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from pipelines.step_schedule import Speed, computed_steps
from pipelines.tile_grid import size_before, tile_size

# What a pipeline may be given besides a prompt. `images` are references, in order; `control` is the map that a
# ControlNet or a checkpoint of its own kind follows; white parts of `mask` are repainted.
InputName: TypeAlias = Literal["image", "mask", "images", "last_image", "video", "control"]
AdapterKind: TypeAlias = Literal["controlnet", "t2i_adapter", "ip_adapter", "upscaler", "vae", "textual_inversion"]
Fit: TypeAlias = Literal["crop", "stretch", "pad"]  # how a picture of another shape is brought to the output's size

# Pipelines that follow several maps at once, but all by the same ControlNet.
ONE_CONTROLNET = ("QwenImageControlNetPipeline",)
# What makes the map of a control from a photo; the first two need nothing but the picture's pixels.
PREPROCESSORS = ("canny", "invert", "none")
AUTO_CANNY = "auto"  # "canny" where the picture is no map of edges already

# Pipelines whose output is larger than the picture or clip that it is made of, by this factor in each direction.
ENLARGES: Mapping[str, int] = {
    "StableDiffusionUpscalePipeline": 4,
    "StableDiffusionLatentUpscalePipeline": 2,
    "LTXLatentUpsamplePipeline": 2,
    "LTX2LatentUpsamplePipeline": 2,
}
UPSCALER = "UpscalerPipeline"  # our own class, of models that only make pictures larger; each has its factor
REFERENCE_PIXELS = 1 << 20  # pipelines bring references to about so many, whatever their own size


@dataclass(frozen=True, slots=True)
class PipelineTask:
    """A stock pipeline class that can be made over a checkpoint's modules, and what its `__call__` takes."""

    pipeline: str  # class name in diffusers
    inputs: Mapping[InputName, str] = field(default_factory=dict)  # input → the argument of __call__ that takes it
    required: frozenset[InputName] = frozenset()  # those that every request must have
    arguments: frozenset[str] = frozenset()  # parameters of __call__
    # Components that an adapter lends: name → the classes that it may be of, {"controlnet": ("ControlNetModel",)}.
    lent: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    # It makes clips of multiple * k + remainder frames: (multiple, remainder). None: of those of the checkpoint.
    frames: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class MediaFile:
    """A picture or clip that the server keeps for a request: decoded and checked once, upright, without metadata.

    A picture is a PNG with 8 bits per channel (L, RGB or RGBA, in sRGB). A clip is an MP4 or WebM file with one stream.
    """

    path: str
    sha256: str  # of the file that the client sent, hexadecimal
    width: int  # pixels
    height: int  # pixels
    num_frames: int = 1
    fps: float | None = None  # None for a picture
    id: str = field(default="", compare=False)  # by which the request named it; "" when it came with the request


@dataclass(frozen=True, slots=True)
class Adapter:
    """Weights of their own that are lent to requests of a model, and leave the device when they are not used."""

    name: str  # in the catalogue
    kind: AdapterKind
    path: str  # a folder, or a safetensors file
    stamp: int = 0  # modification time in ns: files that were rewritten are another adapter
    n_bytes: int = 0  # approximate memory that it takes

    @property
    def component(self) -> str:
        """The name of its module among the components of a lane: "controlnet:canny@1f". Other files, another name."""
        return f"{self.kind}:{self.name}" + (f"@{self.stamp:x}" if self.stamp else "")


@dataclass(frozen=True, slots=True)
class Control:
    """One map that the picture follows."""

    image: MediaFile  # a picture, or a clip for models that follow one
    adapter: Adapter | None = None  # None: the checkpoint itself follows it
    preprocessor: str | None = None  # one of `PREPROCESSORS`, or `AUTO_CANNY`; None: the picture is a map already
    mode: int | None = None  # which kind of map it is, for a ControlNet of several kinds
    strength: float = 1.0
    start: float = 0.0  # parts of all steps between which it acts
    end: float = 1.0


@dataclass(frozen=True, slots=True)
class ImagePrompt:
    """Pictures that an IP-Adapter reads like a prompt."""

    images: tuple[MediaFile, ...]
    adapter: Adapter
    strength: float = 1.0


@dataclass(frozen=True, slots=True)
class Upscaling:
    """What makes the finished frames larger."""

    adapter: Adapter
    width: int  # of the result, in pixels
    height: int


@dataclass(frozen=True, slots=True)
class Inputs:
    """The pictures and clips of one request."""

    image: MediaFile | None = None
    mask: MediaFile | None = None
    images: tuple[MediaFile, ...] = ()
    last_image: MediaFile | None = None
    video: MediaFile | None = None
    controls: tuple[Control, ...] = ()
    image_prompts: tuple[ImagePrompt, ...] = ()


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
    pipeline: str | None = None  # class made over the checkpoint's modules; None: the checkpoint's own
    inputs: Inputs = field(default_factory=Inputs)
    input_arguments: Mapping[InputName, str] = field(default_factory=dict)  # `PipelineTask.inputs` of `pipeline`
    strength: float | None = None  # 0 … 1: how much of `image` or `video` is made anew; None: the pipeline's default
    fit: Fit = "crop"
    upscaling: Upscaling | None = None
    vae: Adapter | None = None  # in place of the checkpoint's own
    textual_inversions: tuple[Adapter, ...] = ()

    @property
    def adapters(self) -> tuple[Adapter, ...]:
        """All weights that are lent to this request, besides LoRAs; each once."""
        found = [control.adapter for control in self.inputs.controls if control.adapter is not None]
        found += [prompt.adapter for prompt in self.inputs.image_prompts]
        found += [self.upscaling.adapter] if self.upscaling is not None else []
        found += [self.vae] if self.vae is not None else []
        return tuple(dict.fromkeys((*found, *self.textual_inversions)))

    @property
    def size_before_upscaling(self) -> tuple[int, int]:
        """(width, height) at which a model that only makes pictures larger gets its input."""
        own = self.inputs.image or self.inputs.video
        assert own is not None, "it is required"
        return size_before((own.width, own.height), (self.width, self.height), self.fit)

    @property
    def shape(self) -> str:
        """The key for measured times and peak bytes: "176x96x16", with two references and a map "512x512x1+2r+1c".

        What is given as the beginning of the output (an image, a clip, a mask) does not make a forward larger.
        """
        if self.pipeline == UPSCALER:  # whatever the size of the picture, each forward is one tile
            return "{}x{}x1".format(*tile_size(*self.size_before_upscaling))
        references = f"+{self._n_references}r" if self._n_references else ""
        controls = f"+{len(self.inputs.controls)}c" if self.inputs.controls else ""
        return f"{self.width}x{self.height}x{self.num_frames or 1}{references}{controls}"

    @property
    def loop_steps(self) -> int:
        """The steps of the denoising loop, as far as is known before: with a strength the first ones are left out."""
        if self.strength is None:
            return self.steps
        return max(1, math.ceil(self.steps * min(self.strength, 1.0) - 1e-6))

    @property
    def computed_steps(self) -> int:
        """The steps that run the model, as far as is known before: some pipelines cannot skip any."""
        return computed_steps(self.speed, self.loop_steps)

    @property
    def units(self) -> int:
        """Pixels in all frames, and in the references that the model reads beside them."""
        if self.pipeline == UPSCALER:
            return math.prod(tile_size(*self.size_before_upscaling))
        return self.width * self.height * (self.num_frames or 1) + REFERENCE_PIXELS * self._n_references

    @property
    def _n_references(self) -> int:
        """A picture that is neither repainted nor set in motion is looked at beside the output, as references are."""
        edited = self.inputs.image is not None and self.inputs.mask is None
        is_reference = edited and self.strength is None and self.num_frames is None and self.pipeline not in ENLARGES
        return len(self.inputs.images) + is_reference
