"""Sets the attention kernels of a denoiser: those that its entry names, or the fastest. Device thread only."""

from __future__ import annotations

import logging
from typing import Any

import torch

from models.spec import ModelSpec
from pipelines.device import is_fatal
from pipelines.diffusion import attention_choice

logger = logging.getLogger(__name__)

USUAL_SIDE = 1024  # pixels, of a model that names no size
TEXT_TOKENS = 512  # beside those of a picture, in most transformers


def use_fastest_attention(denoiser: Any, spec: ModelSpec, dtype: torch.dtype, device: str) -> list[str]:
    """Sets the fastest backend. When the measurement fails, torch's own stays, with a sentence."""
    try:
        backend = attention_choice.choose_attention(denoiser, usual_tokens(spec), dtype, device)
        if backend is not None and backend != attention_choice.NATIVE:
            set_attention(denoiser, backend)
    except Exception as error:  # many kinds, from the kernels of several libraries; the model runs without a choice
        if is_fatal(error):
            raise
        logger.warning("attention not measured", extra={"model": spec.name}, exc_info=True)
        return [f"The attention kernels could not be measured, so torch chooses one ({type(error).__name__})."]
    return []


def usual_tokens(spec: ModelSpec) -> int:
    """Returns about how many tokens the denoiser reads for a picture or clip of the usual size.

    A transformer makes one token of each cell of the grid that widths and heights must be multiples of.
    """
    defaults, limits = spec.defaults, spec.limits
    width, height = ((side or USUAL_SIDE) // limits.size_multiple for side in (defaults.width, defaults.height))
    frames = (defaults.num_frames or 1) // limits.frames_multiple or 1 if spec.type == "video" else 1
    return width * height * frames + TEXT_TOKENS


def set_attention(denoiser: Any, attention: str) -> None:
    """Sets the backend of this model alone: diffusers also makes it the default of every other model."""
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry as Registry

    attention_choice.register(attention)
    usual = Registry._active_backend
    try:
        denoiser.set_attention_backend(attention)
    finally:
        Registry.set_active_backend(usual)
