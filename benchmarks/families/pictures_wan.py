"""Wan and models derived from it that take pictures or clips: VACE, SkyReels, Helios, Lucy, ChronoEdit."""

from __future__ import annotations

import functools
from typing import Any

import diffusers

from benchmarks.families import encoders, parts, vaes
from benchmarks.families.building import T5_CALL, components, flow
from benchmarks.families.clips_wan import PYRAMID_CALL, helios, sky_reels, unipc, wan, wan_like, wan_vace
from benchmarks.families.family import Family


def image_encoder() -> dict[str, Any]:
    return {
        "image_encoder": parts.clip_vision(),
        "image_processor": parts.clip_image_processor(),
    }


def wan_image(**options: Any) -> dict[str, Any]:
    """Wan 2.1: the latents of the picture and a mask lie beside those of the clip, and the text layers see it."""
    transformer = wan_like(
        diffusers.WanTransformer3DModel, in_channels=36, rope_max_seq_len=64, image_dim=parts.TEXT_DIM, **options
    )
    usual = components(transformer, vaes.wan_vae(), unipc(flow_shift=3.0), encoders.umt5())
    return {**usual, **image_encoder()}


def sky_reels_image() -> dict[str, Any]:
    transformer = wan_like(
        diffusers.SkyReelsV2Transformer3DModel, in_channels=36, rope_max_seq_len=64, image_dim=parts.TEXT_DIM
    )
    return {**sky_reels(), "transformer": transformer, **image_encoder()}


def lucy() -> dict[str, Any]:
    transformer = wan_like(diffusers.WanTransformer3DModel, in_channels=8, out_channels=4, rope_max_seq_len=64)
    return {**wan(), "transformer": transformer, "expand_timesteps": True, "transformer_2": None}


def chrono_edit() -> dict[str, Any]:
    transformer = wan_like(
        diffusers.ChronoEditTransformer3DModel, in_channels=36, rope_max_seq_len=64, image_dim=parts.TEXT_DIM
    )
    usual = components(transformer, vaes.wan_vae(), flow(shift=7.0), encoders.umt5())
    return {**usual, **image_encoder()}


IMAGE: Any = {"takes": ("image",)}
ENDS: Any = {"takes": ("image", "last_image")}
VIDEO: Any = {"takes": ("video",)}
FIVE: Any = {"num_frames": 5, "call": T5_CALL}
# The class that continues clips fails without the number of frames that it looks back on.
FORCING: Any = {"num_frames": 9, "call": {**T5_CALL, "overlap_history": 5}}
NINE: Any = {"num_frames": 9, "call": T5_CALL}

FAMILIES = (
    Family("WanImageToVideoPipeline", "video", wan_image, **FIVE, **IMAGE),
    Family("WanVideoToVideoPipeline", "video", wan, base="WanPipeline", **FIVE, **VIDEO),
    Family("WanVACEPipeline", "video", wan_vace, **FIVE, takes=("video", "mask", "images")),
    Family("SkyReelsV2ImageToVideoPipeline", "video", sky_reels_image, **NINE, **IMAGE),
    Family("SkyReelsV2DiffusionForcingImageToVideoPipeline", "video", sky_reels,
           base="SkyReelsV2DiffusionForcingPipeline", **FORCING, **IMAGE),
    Family("SkyReelsV2DiffusionForcingVideoToVideoPipeline", "video", sky_reels,
           base="SkyReelsV2DiffusionForcingPipeline", **FORCING, **VIDEO),
    Family("HeliosPipeline", "video", helios, num_frames=8, call=T5_CALL, **IMAGE),
    Family("HeliosPyramidPipeline", "video", functools.partial(helios, 2), other_size=64, num_frames=8,
           call=PYRAMID_CALL, **IMAGE),
    Family("LucyEditPipeline", "video", lucy, **FIVE, **VIDEO),
    Family("ChronoEditPipeline", "video", chrono_edit, **FIVE, **IMAGE),
)  # fmt: skip
