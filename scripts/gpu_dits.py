"""The picture and video models whose speed is published, at real size with random weights and without downloads.

Configurations are those of the published checkpoints. Text encoders are whole, unless `text_layers` says otherwise;
their towers for pictures, which text never passes, are cut to one layer. Tokenizers have one token per character, so
the long templates that some pipelines put around a prompt are left out.
"""

from __future__ import annotations

from typing import Any

from diffusers import (
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
    FluxPipeline,
    FluxTransformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from transformers import (
    CLIPTextModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
    T5Config,
    T5EncoderModel,
    UMT5Config,
    UMT5EncoderModel,
)

from benchmarks.families.parts import clip_tokenizer, qwen_tokenizer, qwen_vision, t5_tokenizer
from scripts.gpu_build import built, on_cpu
from scripts.gpu_models import XXL, clip, flow_vae

__all__ = ["built", "flux_1_dev", "flux_2_klein", "qwen_image", "wan_2_2_5b", "z_image_turbo"]

QWEN3_4B = {
    "vocab_size": 151_936,
    "hidden_size": 2560,
    "intermediate_size": 9728,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 40_960,
}
QWEN_VL_7B = {
    "vocab_size": 152_064,
    "hidden_size": 3584,
    "intermediate_size": 18_944,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "rope_scaling": {"mrope_section": [16, 24, 24], "rope_type": "default", "type": "default"},
}


def flow_scheduler(**options: Any) -> Any:
    return on_cpu(FlowMatchEulerDiscreteScheduler, **options)


def t5_xxl(layers: int) -> Any:
    gated = {"num_layers": layers, "feed_forward_proj": "gated-gelu"}
    return T5EncoderModel(T5Config(**XXL | gated, is_encoder_decoder=False))


def umt5_xxl(layers: int) -> Any:
    return UMT5EncoderModel(UMT5Config(**XXL | {"num_layers": layers}, is_encoder_decoder=False))


def flux_1_dev(text_layers: int = 24) -> FluxPipeline:
    """FLUX.1-dev: 19 double and 38 single blocks, 12 billion weights."""
    return FluxPipeline(
        transformer=FluxTransformer2DModel(guidance_embeds=True),
        scheduler=flow_scheduler(use_dynamic_shifting=True, shift=3.0),
        vae=flow_vae(),
        text_encoder=clip(CLIPTextModel, 768, 12, 12),
        tokenizer=clip_tokenizer(),
        text_encoder_2=t5_xxl(text_layers),
        tokenizer_2=t5_tokenizer(),
    )


def z_image_turbo(text_layers: int = 36) -> ZImagePipeline:
    """Z-Image-Turbo: 30 blocks and 4 refiners 3840 wide, six billion weights, beside Qwen3 4B."""
    return ZImagePipeline(
        transformer=ZImageTransformer2DModel(axes_lens=[1536, 512, 512]),
        scheduler=flow_scheduler(shift=3.0),
        vae=flow_vae(),
        text_encoder=Qwen3Model(Qwen3Config(**QWEN3_4B, num_hidden_layers=text_layers)),
        tokenizer=qwen_tokenizer(),
    )


def flux_2_klein(text_layers: int = 36) -> Flux2KleinPipeline:
    """FLUX.2-klein 4B: 5 double and 20 single blocks. It reads layers 9, 18 and 27 of Qwen3 4B."""
    transformer = Flux2Transformer2DModel(
        num_layers=5,
        num_single_layers=20,
        num_attention_heads=24,
        joint_attention_dim=3 * QWEN3_4B["hidden_size"],
        guidance_embeds=False,
    )
    return Flux2KleinPipeline(
        transformer=transformer,
        scheduler=flow_scheduler(use_dynamic_shifting=True, shift=3.0),
        vae=AutoencoderKLFlux2(),
        text_encoder=Qwen3ForCausalLM(Qwen3Config(**QWEN3_4B, num_hidden_layers=text_layers)),
        tokenizer=qwen_tokenizer(),
        is_distilled=True,
    )


def qwen_image(text_layers: int = 28) -> QwenImagePipeline:
    """Qwen-Image: 60 blocks 3072 wide, 20 billion weights, beside the text part of Qwen2.5-VL 7B."""
    text = Qwen2_5_VLConfig(
        text_config=QWEN_VL_7B | {"num_hidden_layers": text_layers},
        vision_config=qwen_vision(QWEN_VL_7B["hidden_size"]),
    )
    pipeline = QwenImagePipeline(
        transformer=QwenImageTransformer2DModel(),
        scheduler=flow_scheduler(use_dynamic_shifting=True, base_shift=0.5, max_shift=0.9, shift_terminal=0.02),
        vae=AutoencoderKLQwenImage(),
        text_encoder=Qwen2_5_VLForConditionalGeneration(text),
        tokenizer=qwen_tokenizer(),
    )
    pipeline.prompt_template_encode, pipeline.prompt_template_encode_start_idx = "{}", 0
    return pipeline


def wan_2_2_vae() -> AutoencoderKLWan:
    """The VAE of Wan 2.2 TI2V 5B, which makes one latent of 4 frames of 16 by 16 pixels."""
    return AutoencoderKLWan(
        base_dim=160,
        decoder_base_dim=256,
        z_dim=48,
        in_channels=12,
        out_channels=12,
        patch_size=2,
        scale_factor_spatial=16,
        scale_factor_temporal=4,
        is_residual=True,
        latents_mean=[0.0] * 48,
        latents_std=[1.0] * 48,
    )


def wan_2_2_5b(text_layers: int = 24) -> WanPipeline:
    """Wan 2.2 TI2V 5B: 30 blocks 3072 wide."""
    transformer = WanTransformer3DModel(
        num_attention_heads=24, ffn_dim=14_336, num_layers=30, in_channels=48, out_channels=48
    )
    return WanPipeline(
        transformer=transformer,
        vae=wan_2_2_vae(),
        text_encoder=umt5_xxl(text_layers),
        tokenizer=t5_tokenizer(),
        scheduler=on_cpu(
            UniPCMultistepScheduler, prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0
        ),
        expand_timesteps=True,
    )
