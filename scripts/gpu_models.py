"""Pipelines of real size with random weights, from published configurations and without downloads.

Large text encoders (T5-XXL, UMT5-XXL, OpenCLIP bigG) have one layer or two of the true width. `gpu_dits.py` has models
with whole ones.
"""

from __future__ import annotations

from typing import Any

from diffusers import (
    AutoencoderKL,
    AutoencoderKLWan,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    PNDMScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from transformers import (
    CLIPTextModel,
    CLIPTextModelWithProjection,
    T5Config,
    T5EncoderModel,
    UMT5Config,
    UMT5EncoderModel,
)

from benchmarks.families import parts, vaes
from benchmarks.families.parts import clip_tokenizer, t5_tokenizer
from scripts.gpu_build import on_cpu

XXL = {"vocab_size": 64, "d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 1, "num_heads": 64}


def clip(cls: type, width: int, layers: int, heads: int) -> Any:
    return parts.clip_text(cls, width, layers=layers, heads=heads, intermediate_size=4 * width).eval()


def vae(latent_channels: int, **options: Any) -> AutoencoderKL:
    return AutoencoderKL(
        **vaes.blocks((128, 256, 512, 512)),
        layers_per_block=2,
        latent_channels=latent_channels,
        sample_size=1024,
        **options,
    ).eval()


def flow_vae() -> AutoencoderKL:
    return vae(16, use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.0609, scaling_factor=1.5305)


def stable_diffusion() -> StableDiffusionPipeline:
    unet = UNet2DConditionModel(
        sample_size=64, block_out_channels=(320, 640, 1280, 1280), cross_attention_dim=768, attention_head_dim=8
    ).eval()
    return StableDiffusionPipeline(
        vae=vae(4),
        text_encoder=clip(CLIPTextModel, 768, 12, 12),
        tokenizer=clip_tokenizer(),
        unet=unet,
        scheduler=on_cpu(PNDMScheduler, skip_prk_steps=True, steps_offset=1, beta_schedule="scaled_linear"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def stable_diffusion_xl(blocks: tuple[int, ...] = (1, 2, 10)) -> StableDiffusionXLPipeline:
    """`blocks`: transformer blocks at each resolution. The published 1, 2 and 10 make 2.6 billion weights."""
    unet = UNet2DConditionModel(
        sample_size=128,
        block_out_channels=(320, 640, 1280),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(5, 10, 20),
        transformer_layers_per_block=blocks,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=6 * 256 + 1280,
        cross_attention_dim=2048,
    ).eval()
    return StableDiffusionXLPipeline(
        vae=vae(4),
        text_encoder=clip(CLIPTextModel, 768, 12, 12),
        text_encoder_2=clip(CLIPTextModelWithProjection, 1280, 2, 20),
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(),
        unet=unet,
        scheduler=on_cpu(
            EulerDiscreteScheduler, timestep_spacing="leading", steps_offset=1, beta_schedule="scaled_linear"
        ),
        add_watermarker=False,
    )


def pixart_sigma() -> PixArtSigmaPipeline:
    """PixArt-Sigma: 0.6 billion weights."""
    return PixArtSigmaPipeline(
        tokenizer=t5_tokenizer(),
        text_encoder=T5EncoderModel(T5Config(**XXL, is_encoder_decoder=False)).eval(),
        vae=vae(4),
        transformer=PixArtTransformer2DModel(caption_channels=4096, use_additional_conditions=False).eval(),
        scheduler=on_cpu(DPMSolverMultistepScheduler),
    )


def stable_diffusion_3() -> StableDiffusion3Pipeline:
    """Stable Diffusion 3 medium: two billion weights."""
    transformer = SD3Transformer2DModel(
        num_layers=24, num_attention_heads=24, caption_projection_dim=1536, pos_embed_max_size=192
    ).eval()
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=on_cpu(FlowMatchEulerDiscreteScheduler, shift=3.0),
        vae=flow_vae(),
        text_encoder=clip(CLIPTextModelWithProjection, 768, 12, 12),
        tokenizer=clip_tokenizer(),
        text_encoder_2=clip(CLIPTextModelWithProjection, 1280, 2, 20),
        tokenizer_2=clip_tokenizer(),
        text_encoder_3=T5EncoderModel(T5Config(**XXL, is_encoder_decoder=False)).eval(),
        tokenizer_3=t5_tokenizer(),
    )


def wan() -> WanPipeline:
    """Wan 2.1, 1.3 billion weights."""
    transformer = WanTransformer3DModel(num_attention_heads=12, ffn_dim=8960, num_layers=30).eval()
    return WanPipeline(
        transformer=transformer,
        vae=AutoencoderKLWan().eval(),
        text_encoder=UMT5EncoderModel(UMT5Config(**XXL, is_encoder_decoder=False)).eval(),
        tokenizer=t5_tokenizer(),
        scheduler=on_cpu(
            UniPCMultistepScheduler, prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
    )
