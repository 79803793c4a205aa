"""Pipelines of real size with random weights, built on the device from published configurations, without downloads.

Text encoders of billions of weights (T5-XXL, UMT5-XXL, OpenCLIP bigG) have one layer of the true width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLWan,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
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
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5EncoderModel,
    UMT5Config,
    UMT5EncoderModel,
)

from benchmarks.families import parts, vaes
from benchmarks.families.parts import clip_tokenizer, t5_tokenizer
from tests.support.lanes.tiny_chat import PRINTABLE

XXL = {"vocab_size": 64, "d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 1, "num_heads": 64}


def on(device: str, dtype: torch.dtype, build: Callable[[], Any]) -> Any:
    """Builds a model with its weights created on the device: random numbers on the CPU would take minutes."""
    torch.manual_seed(0)
    with torch.device(device):
        made = build()
    return made.to(device=device, dtype=dtype)


def on_cpu(cls: type, **options: Any) -> Any:
    """Builds a noise scheduler on the CPU: it calculates with numpy, which cannot read tensors of a GPU."""
    with torch.device("cpu"):
        return cls(**options)


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


def flux() -> FluxPipeline:
    """A third of FLUX.1's depth, at its full width: four billion weights."""
    transformer = FluxTransformer2DModel(num_layers=6, num_single_layers=12, guidance_embeds=True).eval()
    return FluxPipeline(
        transformer=transformer,
        scheduler=on_cpu(FlowMatchEulerDiscreteScheduler, use_dynamic_shifting=True, shift=3.0),
        vae=flow_vae(),
        text_encoder=clip(CLIPTextModel, 768, 12, 12),
        tokenizer=clip_tokenizer(),
        text_encoder_2=T5EncoderModel(T5Config(**XXL, is_encoder_decoder=False)).eval(),
        tokenizer_2=t5_tokenizer(),
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


def llama_1b() -> LlamaForCausalLM:
    """Llama 3.2 1B. It generates only tokens that the tiny tokenizer can decode, and never an end of text."""
    config = LlamaConfig(
        vocab_size=128_256,
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=16,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=64,
        max_position_embeddings=8192,
        rope_theta=500_000.0,
        tie_word_embeddings=False,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        model.lm_head.weight[:3] = 0.0
        model.lm_head.weight[3 + len(PRINTABLE) :] = 0.0
    model.generation_config = GenerationConfig(eos_token_id=2, pad_token_id=0, bos_token_id=1)
    return model
