"""Autoencoders of a few thousand weights."""

from __future__ import annotations

from typing import Any

import diffusers
from diffusers import AutoencoderKL


def blocks(channels: tuple[int, ...]) -> dict[str, Any]:
    """Returns the encoder and decoder blocks of a 2-D autoencoder with a stage for each number of channels."""
    return {
        "block_out_channels": channels,
        "down_block_types": ("DownEncoderBlock2D",) * len(channels),
        "up_block_types": ("UpDecoderBlock2D",) * len(channels),
    }


def small_vae(latent_channels: int = 4, stages: tuple[int, ...] = (8, 16), **options: Any) -> AutoencoderKL:
    return AutoencoderKL(
        **blocks(stages),
        latent_channels=latent_channels,
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=32,
        **options,
    )


def flow_vae(latent_channels: int, **options: Any) -> AutoencoderKL:
    plain = {"use_quant_conv": False, "use_post_quant_conv": False, "shift_factor": 0.06, "scaling_factor": 1.5}
    return small_vae(latent_channels, **{**plain, **options})


def flux_2_vae(latent_channels: int = 1, stages: tuple[int, ...] = (4,)) -> Any:
    return diffusers.AutoencoderKLFlux2(
        **blocks(stages),
        latent_channels=latent_channels,
        layers_per_block=1,
        norm_num_groups=1,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def tiny_vae(stages: int = 3) -> Any:
    return diffusers.AutoencoderTiny(
        encoder_block_out_channels=(8,) * stages,
        decoder_block_out_channels=(8,) * stages,
        num_encoder_blocks=(1,) * stages,
        num_decoder_blocks=(1,) * stages,
    )


def wan_vae(z_dim: int = 16, **options: Any) -> Any:
    usual = {"base_dim": 4, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1, "temperal_downsample": [False, True, True]}
    statistics = {"latents_mean": [0.1] * z_dim, "latents_std": [1.1] * z_dim}
    return diffusers.AutoencoderKLWan(z_dim=z_dim, **{**usual, **statistics, **options})


def qwen_image_vae(**options: Any) -> Any:
    usual = {
        "base_dim": 8,
        "z_dim": 4,
        "dim_mult": [1, 2, 4],
        "num_res_blocks": 1,
        "temperal_downsample": [False, True],
    }
    return diffusers.AutoencoderKLQwenImage(**{**usual, **options}, latents_mean=[0.1] * 4, latents_std=[1.1] * 4)


def deep_compression_vae() -> Any:
    blocks = ("ResBlock", "EfficientViTBlock")
    return diffusers.AutoencoderDC(
        in_channels=3,
        latent_channels=4,
        attention_head_dim=2,
        encoder_block_types=blocks,
        decoder_block_types=blocks,
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        encoder_qkv_multiscales=((), (5,)),
        decoder_qkv_multiscales=((), (5,)),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=[1, 1],
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        decoder_norm_types="rms_norm",
        decoder_act_fns="silu",
        scaling_factor=0.4,
    )


def hunyuan_video_vae(latent_channels: int, stages: int = 4) -> Any:
    return diffusers.AutoencoderKLHunyuanVideo(
        latent_channels=latent_channels,
        down_block_types=("HunyuanVideoDownBlock3D",) * stages,
        up_block_types=("HunyuanVideoUpBlock3D",) * stages,
        block_out_channels=(8,) * stages,
        layers_per_block=1,
        norm_num_groups=4,
        scaling_factor=0.5,
        spatial_compression_ratio=8,
        temporal_compression_ratio=4,
        mid_block_add_attention=True,
    )


def movq() -> Any:
    return diffusers.VQModel(
        block_out_channels=(32, 64),
        down_block_types=("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
        up_block_types=("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=8,
        norm_type="spatial",
        num_vq_embeddings=12,
        vq_embed_dim=4,
    )
