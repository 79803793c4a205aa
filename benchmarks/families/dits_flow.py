"""Transformers of the Flux and Stable Diffusion 3 kind: text and picture in one row of tokens."""

from __future__ import annotations

from typing import Any

import diffusers
import transformers
from transformers import CLIPTextModelWithProjection, Qwen3ForCausalLM, Qwen3Model

from benchmarks.families import parts
from benchmarks.families.dits_common import T5_CALL, flow, with_t5
from benchmarks.families.family import Family

ROPE_16 = (4, 4, 8)
BRIA_BOT_TOKEN = 128_000  # written into its pipeline: what stands for an empty prompt


def stable_diffusion_3() -> dict[str, Any]:
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=32,
        joint_attention_dim=2 * parts.TEXT_DIM,  # both CLIP widths side by side; the T5 one is as wide
        pooled_projection_dim=2 * parts.TEXT_DIM,
        pos_embed_max_size=32,
    )
    return {
        "transformer": transformer,
        "scheduler": flow(shift=3.0),
        "vae": parts.flow_vae(4),
        "text_encoder": parts.clip_text(CLIPTextModelWithProjection),
        "tokenizer": parts.clip_tokenizer(),
        "text_encoder_2": parts.clip_text(CLIPTextModelWithProjection),
        "tokenizer_2": parts.clip_tokenizer(),
        "text_encoder_3": parts.t5_text(2 * parts.TEXT_DIM, layers=1),
        "tokenizer_3": parts.t5_tokenizer(),
    }


def flux(guidance_embeds: bool = True) -> dict[str, Any]:
    transformer = diffusers.FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=parts.TEXT_DIM,
        pooled_projection_dim=parts.TEXT_DIM,
        guidance_embeds=guidance_embeds,
        axes_dims_rope=(4, 6, 6),
    )
    return {
        "transformer": transformer,
        "scheduler": flow(use_dynamic_shifting=True, shift=3.0),
        "vae": parts.flow_vae(4),
        "text_encoder": parts.clip_text(),
        "tokenizer": parts.clip_tokenizer(),
        "text_encoder_2": parts.t5_text(),
        "tokenizer_2": parts.t5_tokenizer(),
    }


def flux_2_klein() -> dict[str, Any]:
    transformer = diffusers.Flux2Transformer2DModel(
        patch_size=1,
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=[4, 4, 4, 4],
        guidance_embeds=False,
    )
    vae = diffusers.AutoencoderKLFlux2(
        down_block_types=("DownEncoderBlock2D",),
        up_block_types=("UpDecoderBlock2D",),
        block_out_channels=(4,),
        layers_per_block=1,
        latent_channels=1,
        norm_num_groups=1,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    return {
        "transformer": transformer,
        "vae": vae,
        "scheduler": flow(),
        "text_encoder": parts.qwen3_text(Qwen3ForCausalLM),
        "tokenizer": parts.qwen_tokenizer(),
    }


def chroma() -> dict[str, Any]:
    transformer = diffusers.ChromaTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=parts.TEXT_DIM,
        axes_dims_rope=ROPE_16,
        approximator_hidden_dim=32,
        approximator_layers=1,
        approximator_num_channels=16,
    )
    return with_t5(transformer, parts.flow_vae(4), flow())


def bria() -> dict[str, Any]:
    transformer = diffusers.BriaTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=parts.TEXT_DIM,
        pooled_projection_dim=None,
        axes_dims_rope=[0, 4, 4],
    )
    return with_t5(transformer, parts.small_vae(4, shift_factor=0, scaling_factor=0.13), flow())


def bria_fibo() -> dict[str, Any]:
    transformer = diffusers.BriaFiboTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=64,
        text_encoder_dim=32,
        pooled_projection_dim=None,
        axes_dims_rope=[0, 4, 4],
    )
    vae = parts.wan_vae(out_channels=12, in_channels=12, patch_size=2, scale_factor_spatial=16)
    text = parts.small_decoder(
        transformers.SmolLM3Config, transformers.SmolLM3ForCausalLM, hidden_size=32, vocab_size=BRIA_BOT_TOKEN + 1
    )
    return with_t5(transformer, vae, flow(), text_encoder=text, tokenizer=parts.qwen_tokenizer())


def aura_flow() -> dict[str, Any]:
    transformer = diffusers.AuraFlowTransformer2DModel(
        sample_size=32,
        patch_size=2,
        in_channels=4,
        num_mmdit_layers=1,
        num_single_dit_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=32,
        joint_attention_dim=parts.TEXT_DIM,
        out_channels=4,
        pos_embed_max_size=256,
    )
    return with_t5(transformer, parts.small_vae(), flow(), text_encoder=parts.umt5_text())


def ovis() -> dict[str, Any]:
    transformer = diffusers.OvisImageTransformer2DModel(
        patch_size=1,
        in_channels=16,
        out_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=ROPE_16,
    )
    return with_t5(
        transformer,
        parts.flow_vae(4),
        flow(),
        text_encoder=parts.qwen3_text(Qwen3Model),
        tokenizer=parts.qwen_tokenizer(),
    )


FAMILIES = (
    Family("StableDiffusion3Pipeline", "image", stable_diffusion_3),
    Family("StableDiffusion3PAGPipeline", "image", stable_diffusion_3, call={"pag_scale": 0.7}),
    Family("FluxPipeline", "image", flux, takes_negative=False, call=T5_CALL),
    Family("FluxKontextPipeline", "image", flux, takes_negative=False, call={**T5_CALL, "max_area": 32 * 32}),
    Family("Flux2KleinPipeline", "image", flux_2_klein, takes_negative=False, call={"text_encoder_out_layers": [1]}),
    Family("Flux2KleinKVPipeline", "image", flux_2_klein, takes_negative=False, call={"text_encoder_out_layers": [1]}),
    Family("ChromaPipeline", "image", chroma, call=T5_CALL),
    Family("BriaPipeline", "image", bria, call=T5_CALL),
    Family("BriaFiboPipeline", "image", bria_fibo),
    Family("AuraFlowPipeline", "image", aura_flow, call=T5_CALL),
    Family("OvisImagePipeline", "image", ovis),
)  # fmt: skip
