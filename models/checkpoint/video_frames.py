"""Works out which numbers of frames a video pipeline can make, its default number and its frames per second.

Pure functions over configs and the source of the pipeline class.
"""

from __future__ import annotations

import math
from typing import Literal

from models.checkpoint.component_configs import Configs, denoiser_config, halvings, number, positive_int, vae_config
from models.checkpoint.pipeline_source import FRAME_COUNTS, PipelineSource

FALLBACK_FPS = 8  # from the examples of AnimateDiff and Latte, which write GIFs


def frame_rule(
    pipeline: PipelineSource, configs: Configs, kind: Literal["image", "video"]
) -> tuple[int, int, int | None]:
    """Returns (multiple, remainder, default): a clip has multiple * k + remainder frames.

    For an image: (1, 0, None).
    """
    if kind == "image":
        return 1, 0, None
    multiple = _temporal_factor(configs)
    native = next((n for key in (*FRAME_COUNTS, "frames") if (n := positive_int(pipeline.defaults, key)) > 1), 0)
    sample_frames = positive_int(denoiser_config(configs), "sample_frames")
    if not native and sample_frames:  # CogVideoX counts frames, Allegro latent frames
        native = sample_frames if sample_frames % multiple == 1 else sample_frames * multiple
    # A causal VAE encodes the first frame by itself: 4k + 1. A class that defaults to a multiple has no causal VAE.
    remainder = 0 if multiple == 1 or (native and native % multiple == 0) else 1
    default = native or 8 * multiple + remainder
    return multiple, remainder, default - (default - remainder) % multiple


def patched_frame_rule(configs: Configs) -> tuple[int, int] | None:
    """Returns (multiple, remainder) where the denoiser's patches have several latent frames; None where they have one.

    For a class that refuses a part of a patch (CogVideoX 1.5 that changes a clip); others fill it up.
    """
    patch, factor = positive_int(denoiser_config(configs), "patch_size_t"), _temporal_factor(configs)
    return (patch * factor, (1 - factor) % (patch * factor)) if patch > 1 else None


def _temporal_factor(configs: Configs) -> int:
    """Returns the frames of the clip per latent frame."""
    vae = vae_config(configs)
    for key in ("scale_factor_temporal", "temporal_compression_ratio"):
        if factor := positive_int(vae, key):
            return factor
    if scaling := halvings(vae, "spatio_temporal_scaling"):  # LTX
        return (positive_int(vae, "patch_size_t") or 1) << sum(map(bool, scaling))
    if expansions := halvings(vae, "temporal_expansions"):  # Mochi
        return math.prod(n for n in expansions if type(n) is int)
    return 1 << sum(map(bool, halvings(vae, "temperal_downsample")))  # Wan before it wrote scale_factor_temporal


def frames_per_second(pipeline: PipelineSource) -> int:
    for key in ("frame_rate", "fps"):
        rate = number(pipeline.defaults.get(key))
        if rate is not None and rate >= 1:
            return round(rate)
    return pipeline.example_fps or FALLBACK_FPS
