"""Transformers like Flux and Stable Diffusion 3, which attend to text and image tokens in one sequence."""

from __future__ import annotations

from typing import Any

import diffusers
import transformers
from transformers import CLIPTextModelWithProjection, Qwen3ForCausalLM

from benchmarks.families import encoders, parts, vaes
from benchmarks.families.building import T5_CALL, components, flow, small
from benchmarks.families.family import Family

ROPE_16 = (4, 4, 8)
BRIA_BOT_TOKEN = 128_000  # the pipeline's token for an empty prompt


def stable_diffusion_3(latent_channels: int = 4) -> dict[str, Any]:
    transformer = small(
        diffusers.SD3Transformer2DModel,
        in_channels=latent_channels,
        out_channels=latent_channels,
        sample_size=16,
        num_layers=2,
        num_attention_heads=4,
        caption_projection_dim=32,
        joint_attention_dim=2 * parts.TEXT_DIM,  # both CLIP embeddings concatenated; T5's is as wide
        pooled_projection_dim=2 * parts.TEXT_DIM,
        pos_embed_max_size=32,
    )
    return components(
        transformer,
        vaes.flow_vae(latent_channels),
        flow(shift=3.0),
        encoders.clip(CLIPTextModelWithProjection),
        encoders.clip(CLIPTextModelWithProjection),
        encoders.t5(2 * parts.TEXT_DIM, layers=1),
    )


def flux(guidance_embeds: bool = True) -> dict[str, Any]:
    transformer = small(
        diffusers.FluxTransformer2DModel,
        out_channels=None,
        in_channels=16,
        attention_head_dim=16,
        joint_attention_dim=parts.TEXT_DIM,
        pooled_projection_dim=parts.TEXT_DIM,
        guidance_embeds=guidance_embeds,
        axes_dims_rope=(4, 6, 6),
    )
    return components(
        transformer, vaes.flow_vae(4), flow(use_dynamic_shifting=True, shift=3.0), encoders.clip(), encoders.t5()
    )


def flux_2_transformer(**options: Any) -> Any:
    return small(
        diffusers.Flux2Transformer2DModel,
        out_channels=None,
        attention_head_dim=16,
        joint_attention_dim=16,
        axes_dims_rope=[4, 4, 4, 4],
        **options,
    )


def flux_2() -> dict[str, Any]:
    encoder = parts.mistral_3(transformers.Mistral3ForConditionalGeneration), parts.pixtral_processor()
    return components(flux_2_transformer(), vaes.flux_2_vae(), flow(), encoder)


def flux_2_klein() -> dict[str, Any]:
    transformer = flux_2_transformer(guidance_embeds=False)
    return components(transformer, vaes.flux_2_vae(), flow(), encoders.qwen3(Qwen3ForCausalLM))


def chroma() -> dict[str, Any]:
    transformer = small(
        diffusers.ChromaTransformer2DModel,
        out_channels=None,
        in_channels=16,
        attention_head_dim=16,
        joint_attention_dim=parts.TEXT_DIM,
        axes_dims_rope=ROPE_16,
        approximator_hidden_dim=32,
        approximator_layers=1,
        approximator_num_channels=16,
    )
    return components(transformer, vaes.flow_vae(4), flow(), encoders.t5())


def bria() -> dict[str, Any]:
    transformer = small(
        diffusers.BriaTransformer2DModel, in_channels=16, joint_attention_dim=parts.TEXT_DIM, axes_dims_rope=[0, 4, 4]
    )
    return components(transformer, vaes.small_vae(4, shift_factor=0, scaling_factor=0.13), flow(), encoders.t5())


def bria_fibo() -> dict[str, Any]:
    transformer = small(
        diffusers.BriaFiboTransformer2DModel,
        in_channels=16,
        joint_attention_dim=64,
        text_encoder_dim=32,
        axes_dims_rope=[0, 4, 4],
    )
    vae = vaes.wan_vae(out_channels=12, in_channels=12, patch_size=2, scale_factor_spatial=16)
    text = parts.small_decoder(
        transformers.SmolLM3Config, transformers.SmolLM3ForCausalLM, hidden_size=32, vocab_size=BRIA_BOT_TOKEN + 1
    )
    return components(transformer, vae, flow(), (text, parts.qwen_tokenizer()))


def aura_flow() -> dict[str, Any]:
    transformer = small(
        diffusers.AuraFlowTransformer2DModel,
        sample_size=32,
        num_mmdit_layers=1,
        num_single_dit_layers=1,
        num_attention_heads=4,
        caption_projection_dim=32,
        joint_attention_dim=parts.TEXT_DIM,
        pos_embed_max_size=256,
    )
    return components(transformer, vaes.small_vae(), flow(), encoders.umt5())


def ovis() -> dict[str, Any]:
    transformer = small(
        diffusers.OvisImageTransformer2DModel,
        in_channels=16,
        out_channels=16,
        attention_head_dim=16,
        joint_attention_dim=16,
        axes_dims_rope=ROPE_16,
    )
    return components(transformer, vaes.flow_vae(4), flow(), encoders.qwen3())


FAMILIES = (
    Family("StableDiffusion3Pipeline", "image", stable_diffusion_3),
    Family("StableDiffusion3PAGPipeline", "image", stable_diffusion_3, call={"pag_scale": 0.7}),
    Family("FluxPipeline", "image", flux, takes_negative=False, call=T5_CALL),
    Family("FluxKontextPipeline", "image", flux, takes_negative=False, call={**T5_CALL, "max_area": 32 * 32}),
    Family("Flux2Pipeline", "image", flux_2, takes_negative=False, needs="torchvision",
           call={"text_encoder_out_layers": [1]}),
    Family("Flux2KleinPipeline", "image", flux_2_klein, takes_negative=False, call={"text_encoder_out_layers": [1]}),
    Family("Flux2KleinKVPipeline", "image", flux_2_klein, takes_negative=False, call={"text_encoder_out_layers": [1]}),
    Family("ChromaPipeline", "image", chroma, call=T5_CALL),
    Family("BriaPipeline", "image", bria, call=T5_CALL),
    Family("BriaFiboPipeline", "image", bria_fibo),
    Family("AuraFlowPipeline", "image", aura_flow, call=T5_CALL),
    Family("OvisImagePipeline", "image", ovis),
)  # fmt: skip
