"""The keyword arguments of `generate` and `chat`. The server checks them, and its defaults apply to those left out."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, TypedDict

Thinking: TypeAlias = bool | Literal["low", "medium", "high"]


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
