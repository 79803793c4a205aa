"""The keyword arguments of `generate` and `chat`. The server checks them, and its defaults apply to those left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Required, TypeAlias, TypedDict

Thinking: TypeAlias = bool | Literal["low", "medium", "high"]

# A picture or clip: a file or its bytes, which are sent first, or what the server takes as it is: the id of a file that
# was sent before, the id of an output of one's own jobs, or a data URL. A text is never the name of a file.
Media: TypeAlias = Path | bytes | str


class ControlOptions(TypedDict, total=False):
    """A map that the picture follows, with a `type` or the name of a `model`."""

    image: Required[Media]
    type: str
    model: str
    preprocessor: str
    strength: float
    start: float
    end: float


class IpAdapterOptions(TypedDict, total=False):
    """One `image` or several `images` that are read like a prompt."""

    image: Media
    images: list[Media]
    model: str
    strength: float


class UpscaleOptions(TypedDict, total=False):
    model: str
    scale: float


class GenerateOptions(TypedDict, total=False):
    """The fields of POST /api/generate. The server rejects a field that does not belong to the job's type."""

    type: Literal["image", "video"]  # default image
    aspect_ratio: Literal["16:9", "1:1", "9:16"]
    model: str
    seed: int
    steps: int
    guidance_scale: float
    negative_prompt: str
    width: int
    height: int
    deterministic: bool
    webhook_url: str
    loras: list[dict[str, Any]]  # each {"name": …, "weight": …}
    scheduler: str  # one that the model lists
    clip_skip: int
    preview: bool
    speed: Literal["exact", "balanced", "fast"]
    n: int
    duration: int
    num_frames: int
    output_format: Literal["png", "webp", "jpeg", "mp4", "webm", "gif", "frames"]
    image: Media
    mask: Media  # white is repainted
    strength: float  # 0 … 1: how much of the picture is made anew
    images: list[Media]  # references, in order
    last_image: Media
    video: Media
    control: list[ControlOptions]
    ip_adapter: IpAdapterOptions | list[IpAdapterOptions]
    upscale: UpscaleOptions
    fit: Literal["crop", "stretch", "pad"]
    vae: str
    textual_inversions: list[str]


class ChatOptions(TypedDict, total=False):
    """The fields of POST /api/chat."""

    conversation_id: str
    system: str
    model: str
    max_tokens: int
    temperature: float
    top_p: float
    top_k: int  # 0: all
    min_p: float
    repetition_penalty: float
    seed: int
    stop: str | list[str]
    thinking: Thinking  # default: as the model does by itself
