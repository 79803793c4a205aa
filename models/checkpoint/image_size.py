"""Works out the native width and height of a pipeline, the multiple that both must be of, and a size per aspect ratio.

Pure functions over configs and the source of the pipeline class.
"""

from __future__ import annotations

import math
from typing import Literal

from models.checkpoint.component_configs import Configs, denoiser_config, halvings, positive_int, vae_config
from models.checkpoint.pipeline_source import PipelineSource
from models.errors import BadModel

ASPECT_RATIOS = {"16:9": (16, 9), "1:1": (1, 1), "9:16": (9, 16)}
NATIVE_TOLERANCE = 0.12  # a native size within 12 % of an aspect ratio serves that ratio: 832x480 serves "16:9"
FALLBACK_SIZE = {"image": (512, 512), "video": (832, 480)}  # (width, height) for a checkpoint that names none
MAX_SIDE = 65_536  # pixels; no checkpoint makes more by itself
FALLBACK_VAE_FACTOR = 8  # the factor of Stable Diffusion, by far the most common


def native_size(pipeline: PipelineSource, configs: Configs, kind: Literal["image", "video"]) -> tuple[int, int]:
    """Returns the (width, height) that the class's `__call__` uses when a call names neither. Raises `BadModel`."""
    width, height = _native_size(pipeline, configs, kind)
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE):
        raise BadModel(f"its configs ask for pictures of {width:,} x {height:,} pixels")
    return width, height


def _native_size(pipeline: PipelineSource, configs: Configs, kind: Literal["image", "video"]) -> tuple[int, int]:
    for values in (pipeline.defaults, pipeline.constants):
        for prefix in ("", "default_"):
            width, height = values.get(f"{prefix}width"), values.get(f"{prefix}height")
            if type(width) is int and type(height) is int:
                return width, height
    denoiser, factor = denoiser_config(configs), vae_factor(configs)
    if pipeline.fixed_sample_size and (side := pipeline.constants.get("default_sample_size", 0)):
        return side * factor, side * factor
    latent_width, latent_height = positive_int(denoiser, "sample_width"), positive_int(denoiser, "sample_height")
    if latent_width and latent_height:  # CogVideoX, Allegro
        return latent_width * factor, latent_height * factor
    match denoiser.get("sample_size"):
        case int(side) if side > 0:
            return side * factor, side * factor
        case [int(height), int(width)]:
            return width * factor, height * factor
    side = pipeline.constants.get("default_sample_size", 0)
    return (side * factor, side * factor) if side else FALLBACK_SIZE[kind]


def size_multiple(pipeline: PipelineSource, configs: Configs) -> int:
    """Returns the pixels of one token: those of a latent cell times the cells per patch.

    The result is larger where the pipeline class checks for a larger multiple.
    """
    factor = vae_factor(configs)
    return math.lcm(factor * _patch_size(configs), factor * pipeline.cells_multiple, pipeline.size_multiple)


def sizes_by_aspect(native: tuple[int, int], multiple: int) -> dict[str, tuple[int, int]]:
    """Returns aspect ratio → (width, height) with about as many pixels as the native size.

    The native size, or the same on its side, is taken as it is where it has that aspect ratio.
    """
    sizes: dict[str, tuple[int, int]] = {}
    for aspect, (across, down) in ASPECT_RATIOS.items():
        ratio = across / down
        for width, height in (native, native[::-1]):
            if abs(width / height / ratio - 1) <= NATIVE_TOLERANCE and width % multiple == height % multiple == 0:
                sizes[aspect] = (width, height)
                break
        else:
            across_px = math.sqrt(native[0] * native[1] * ratio)
            sizes[aspect] = (_round_to(across_px, multiple), _round_to(across_px / ratio, multiple))
    return sizes


def _round_to(value: float, multiple: int) -> int:
    return max(1, round(value / multiple)) * multiple


def vae_factor(configs: Configs) -> int:
    """Returns the pixels per side of one latent cell."""
    vae = vae_config(configs)
    if not vae:
        pixel_space = "unet" in configs or "transformer" in configs  # a denoiser without a VAE works on pixels
        return 1 if pixel_space else FALLBACK_VAE_FACTOR
    for key in ("scale_factor_spatial", "spatial_compression_ratio", "downsampling_ratio"):
        if factor := positive_int(vae, key):
            return factor
    if scaling := halvings(vae, "spatio_temporal_scaling"):  # LTX: patches, then one halving for each True
        return (positive_int(vae, "patch_size") or 1) << sum(map(bool, scaling))
    if stages := halvings(vae, "block_out_channels") or halvings(vae, "encoder_block_out_channels"):
        return 1 << (len(stages) - 1)
    if stages := halvings(vae, "temperal_downsample"):  # Wan, Qwen-Image
        return 1 << len(stages)
    return FALLBACK_VAE_FACTOR


def _patch_size(configs: Configs) -> int:
    """Returns the latent cells per side of one token.

    Flux and its relatives have patch_size 1 in their config but pack 2x2 cells into the channels.
    """
    denoiser, vae = denoiser_config(configs), vae_config(configs)
    size = denoiser.get("patch_size", denoiser.get("all_patch_size", 1))
    patch = max((n for n in size if type(n) is int), default=1) if isinstance(size, list) else size
    patch = patch if type(patch) is int and patch > 0 else 1
    latent_channels = positive_int(vae, "latent_channels") or positive_int(vae, "z_dim")
    packed = (
        positive_int(denoiser, "in_channels") / latent_channels if latent_channels and "transformer" in configs else 1
    )
    # Flux Fill and Flux Control have those of a picture, a mask or a map beside them: 24 and 8 times as many.
    return max(patch, 2) if packed >= 4 and packed % 4 == 0 else patch
