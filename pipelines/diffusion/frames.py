"""Converts the output of a stock pipeline to frames and sound. Pure functions."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.interface import Sound

SAFETY_FIELDS = ("nsfw_content_detected", "nsfw_detected", "watermark_detected")  # Stable Diffusion; DeepFloyd IF


def frames_of(media: Any, kind: Literal["image", "video"]) -> NDArray[np.float32]:
    """The first picture or clip of a pipeline's output as (F, H, W, 3) float32 in [0, 1].

    media: (B, H, W, 3) for pictures; (B, F, H, W, 3), or a list of B clips, for videos. Arrays, tensors or PIL images.
    """
    first = media[0]
    if kind == "image":
        first = [first]
    frames = np.stack([_pixels(frame) for frame in first])
    return np.ascontiguousarray(frames, dtype=np.float32)


def is_flagged(output: Any) -> bool:
    """Whether a safety checker flagged a picture, or a frame of a clip; stock code then makes it black."""
    found = [getattr(output, name, None) for name in SAFETY_FIELDS]
    return any(bool(flag) for flags in found if isinstance(flags, list | tuple | np.ndarray) for flag in flags)


def sound_of(output: Any, pipeline: Any) -> Sound | None:
    """The sound of the first clip of a pipeline's output. LTX 2 and Kandinsky 6 make some; None for other pipelines."""
    audio = getattr(output, "audio", None)
    if audio is None:
        return None
    first = audio[0].float().cpu().numpy() if isinstance(audio, torch.Tensor) else np.asarray(audio[0])
    return Sound(np.ascontiguousarray(np.atleast_2d(first), dtype=np.float32), _sample_rate(pipeline))


def _sample_rate(pipeline: Any) -> int:
    """Samples per second of the pipeline's vocoder."""
    rate = getattr(pipeline, "audio_sample_rate", None)
    return int(pipeline.vocoder.config.output_sampling_rate if rate is None else rate)


def _pixels(frame: Any) -> NDArray[np.float32]:
    if isinstance(frame, torch.Tensor):
        return np.asarray(frame.float().cpu().permute(1, 2, 0).numpy(), dtype=np.float32)
    array = np.asarray(frame)
    scale = 255 if array.dtype == np.uint8 else 1
    return np.asarray(array / np.float32(scale), dtype=np.float32)
