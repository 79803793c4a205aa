"""Sizes, frames and type of a checkpoint are read from its configs and its pipeline class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.catalogues import open_catalogue
from tests.support.checkpoints import diffusion_folder

FAMILIES = [
    # pipeline, denoiser config, vae config → native size, multiple, frame rule with default, fps; as in the published
    # checkpoints
    (
        "FluxPipeline",
        {"patch_size": 1, "in_channels": 64},
        {"block_out_channels": [128, 256, 512, 512], "latent_channels": 16},
        ((1024, 1024), 16, (1, 0, None), None),
    ),
    (
        "StableDiffusion3Pipeline",
        {"patch_size": 2, "in_channels": 16, "sample_size": 128},
        {"block_out_channels": [128, 256, 512, 512], "latent_channels": 16},
        ((1024, 1024), 16, (1, 0, None), None),
    ),
    (
        "QwenImagePipeline",
        {"patch_size": 2, "in_channels": 64},
        {"z_dim": 16, "temperal_downsample": [False, True, True]},
        ((1024, 1024), 16, (1, 0, None), None),
    ),
    (
        "SanaPipeline",
        {"patch_size": 1, "in_channels": 32, "sample_size": 32},
        {"encoder_block_out_channels": [128, 256, 512, 512, 1024, 1024], "latent_channels": 32},
        ((1024, 1024), 32, (1, 0, None), None),
    ),
    (
        "ZImagePipeline",
        {"all_patch_size": [2], "in_channels": 16},
        {"block_out_channels": [128, 256, 512, 512], "latent_channels": 16},
        ((1024, 1024), 16, (1, 0, None), None),
    ),
    (
        "WanPipeline",
        {"patch_size": [1, 2, 2], "in_channels": 16},
        {"z_dim": 16, "temperal_downsample": [False, True, True]},
        ((832, 480), 16, (4, 1, 81), 16),
    ),
    (
        "WanPipeline",  # 2.2 5B
        {"patch_size": [1, 2, 2], "in_channels": 48},
        {"z_dim": 48, "scale_factor_spatial": 16, "scale_factor_temporal": 4, "patch_size": 2},
        ((832, 480), 32, (4, 1, 81), 16),
    ),
    (
        "LTXPipeline",
        {"patch_size": 1, "in_channels": 128},
        {
            "latent_channels": 128,
            "patch_size": 4,
            "patch_size_t": 1,
            "spatio_temporal_scaling": [True, True, True, False],
        },
        ((704, 512), 32, (8, 1, 161), 25),
    ),
    (
        "CogVideoXPipeline",
        {"patch_size": 2, "in_channels": 16, "sample_width": 90, "sample_height": 60, "sample_frames": 49},
        {"block_out_channels": [128, 256, 256, 512], "latent_channels": 16, "temporal_compression_ratio": 4},
        ((720, 480), 16, (4, 1, 49), 8),
    ),
    (
        "MochiPipeline",
        {"patch_size": 2, "in_channels": 12},
        {
            "latent_channels": 12,
            "encoder_block_out_channels": [64, 128, 256, 384],
            "temporal_expansions": [1, 2, 3],
        },
        ((848, 480), 16, (6, 1, 19), 8),
    ),
    (
        "HunyuanVideoPipeline",
        {"patch_size": 2, "patch_size_t": 1, "in_channels": 16},
        {"latent_channels": 16, "spatial_compression_ratio": 8, "temporal_compression_ratio": 4},
        ((1280, 720), 16, (4, 1, 129), 15),
    ),
]


@pytest.mark.parametrize(("pipeline", "denoiser", "vae", "expected"), FAMILIES)
def test_sizes_and_frames_of_known_families_are_read_from_their_configs(
    tmp_path: Path, pipeline: str, denoiser: dict[str, Any], vae: dict[str, Any], expected: tuple[Any, ...]
) -> None:
    diffusion_folder(tmp_path / "models/m", pipeline, denoiser=denoiser, vae=vae)

    spec = open_catalogue(tmp_path).get("m")

    limits, defaults = spec.limits, spec.defaults
    frames = (limits.frames_multiple, limits.frames_remainder, defaults.num_frames)
    assert ((defaults.width, defaults.height), limits.size_multiple, frames, defaults.fps) == expected
    assert all(side % limits.size_multiple == 0 for size in spec.sizes.values() for side in size)


@pytest.mark.parametrize(
    ("pipeline", "reason"),
    [
        ("KandinskyV22Img2ImgPipeline", "needs image_embeds, negative_image_embeds besides a prompt"),
        ("OnnxStableDiffusionPipeline", "opens ONNX files"),
        ("DDPMPipeline", "takes no prompt"),
        ("StableAudioPipeline", "neither image nor video"),
        ("EvilPipeline", "does not have"),
    ],
)
def test_a_pipeline_that_cannot_be_served_is_listed_as_refused_with_the_reason(
    tmp_path: Path, pipeline: str, reason: str
) -> None:
    diffusion_folder(tmp_path / "models/m", pipeline, denoiser={}, vae=None)

    catalogue = open_catalogue(tmp_path)

    assert catalogue.names() == []
    assert [refused.name for refused in catalogue.refused] == ["m"]
    assert reason in catalogue.refused[0].reason
